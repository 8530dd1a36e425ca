//! The queue: worlds whose ranks are threads of this process, each with the thread of its queue.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod any_order;
mod dice;
mod differences;
mod ends;
mod operations;
mod random;
mod several;
mod steady;

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use paceline_collectives::ContextOptions;
use paceline_collectives::queue::{Failed, Handle, Queue, QueueOptions};

use support::contexts;

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

fn options() -> QueueOptions {
    QueueOptions::default()
}

/// Runs `body` as every rank, once all have their queue.
fn queues<R: Send>(
    world_size: u32,
    context_options: &ContextOptions,
    options: &QueueOptions,
    body: impl Fn(&Queue) -> R + Sync,
) -> Vec<R> {
    let all_have_one = Barrier::new(world_size as usize);
    contexts(world_size, context_options, |context| {
        let queue = Queue::new(context.communicator().unwrap(), options);
        all_have_one.wait();
        body(&queue.unwrap())
    })
}

fn wait<B>(handle: Handle<B>) -> Result<B, Failed<B>> {
    handle.wait_timeout(PATIENCE).expect("the handle completes")
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}
