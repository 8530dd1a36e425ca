//! Communicators, pure schedules, the progress engine and reduction kernels.
