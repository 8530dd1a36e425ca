//! Pluggable transports: TCP, shared memory, simulation.
