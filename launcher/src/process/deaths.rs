//! The order in which children die.
//!
//! SIGCHLD says that somebody has died and `wait` returns the dead in the order of their births.
//! Which of them went first decides who is to blame, so it is asked of epoll, which keeps
//! descriptors in the order in which they became ready.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::event::{Timespec, epoll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How many deaths are taken per look.
const BATCH: usize = 64;

/// Watches children for their deaths. Where the kernel cannot, it knows of none.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    queue: Option<OwnedFd>,
    handles: HashMap<i32, OwnedFd>,
}

impl Deaths {
    /// Watches a child that has not been reaped.
    pub(crate) fn watch(&mut self, child: i32) {
        if self.queue.is_none() {
            self.queue = epoll::create(epoll::CreateFlags::CLOEXEC).ok();
        }
        let handle = Pid::from_raw(child).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let (Some(queue), Some(handle)) = (&self.queue, handle) else { return };
        let Ok(number) = u64::try_from(child) else { return };
        let data = epoll::EventData::new_u64(number);
        if epoll::add(queue, &handle, data, epoll::EventFlags::IN).is_ok() {
            self.handles.insert(child, handle);
        }
    }

    /// Children that have died since the last look, first death first.
    pub(crate) fn take(&mut self) -> Vec<i32> {
        let Some(queue) = &self.queue else { return Vec::new() };
        let mut events = [MaybeUninit::uninit(); BATCH];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok((ready, _)) = epoll::wait(queue, &mut events, Some(&at_once)) else {
            return Vec::new();
        };
        let dead: Vec<i32> =
            ready.iter().filter_map(|event| i32::try_from(event.data.u64()).ok()).collect();
        for child in &dead {
            // Closing the only descriptor of a handle also takes it off the queue.
            self.handles.remove(child);
        }
        dead
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper() -> Child {
        let mut child =
            Command::new("sleep").arg("600").stdout(Stdio::piped()).spawn().expect("sleep runs");
        child.stdin.take();
        child
    }

    #[test]
    fn deaths_come_in_their_order_not_in_that_of_births() {
        let mut deaths = Deaths::default();
        let mut children: Vec<Child> = (0..4).map(|_| sleeper()).collect();
        let pids: Vec<i32> =
            children.iter().map(|child| i32::try_from(child.id()).expect("a pid")).collect();
        pids.iter().for_each(|&pid| deaths.watch(pid));
        assert_eq!(deaths.take(), Vec::<i32>::new());
        for index in [2, 0, 3, 1] {
            children[index].kill().expect("ours");
            // The end of its output says that it is dead, or about to be, without reaping it.
            let output = children[index].stdout.take().expect("piped");
            BufReader::new(output).read_line(&mut String::new()).expect("readable");
            while crate::process::table::ProcessEntry::read(pids[index])
                .is_some_and(|entry| !entry.is_dead())
            {
                std::thread::yield_now();
            }
        }
        assert_eq!(deaths.take(), [pids[2], pids[0], pids[3], pids[1]]);
        assert_eq!(deaths.take(), Vec::<i32>::new());
        children.iter_mut().for_each(|child| drop(child.wait()));
    }
}
