//! Starting a process that dies with its parent.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Makes the command a process group leader that the kernel kills when this *thread* ends.
///
/// The thread that spawns must therefore live as long as the process should.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    command.process_group(0);
    let before_exec = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the request above: then no signal will ever come.
        if getppid() != Some(parent) {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe work is allowed. The closure makes two
    // system calls through rustix and compares integers; it neither allocates nor locks, and the
    // error that it may build is a plain enum without an allocation.
    unsafe { command.pre_exec(before_exec) };
}

/// Makes the command run on these processors only, and all that it starts.
pub(crate) fn run_on(command: &mut Command, cpus: CpuSet) {
    let before_exec = move || Ok(sched_setaffinity(None, &cpus)?);
    // SAFETY: between fork and exec only async-signal-safe work is allowed. The closure makes one
    // system call through rustix with a copy of plain data; the error that it may return holds a
    // number and allocates nothing.
    unsafe { command.pre_exec(before_exec) };
}
