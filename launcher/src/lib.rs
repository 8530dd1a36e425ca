//! Hosts and slots to a plan, an agent per host, supervised ranks, an exit code.
