//! Who waits for longer than it may spin takes next to no CPU time, however it waits.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use paceline_collectives::{Communicator, ReduceOp};
use rustix::time::{ClockId, clock_gettime};
use support::{every_way, world};

/// How long the other rank is late.
const LATE: Duration = Duration::from_secs(1);

/// The share of a core that waiting may take. Measured is 0.01: the 2 ms of spinning, and a look at
/// everything every 20 ms; on a loaded machine each look costs more.
const SHARE_MAX: f64 = 0.2;

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

/// The share of a core that this thread takes for `operation`, and how long that lasts.
fn share(operation: impl FnOnce()) -> (f64, Duration) {
    let (cpu, start) = (cpu_time(), Instant::now());
    operation();
    let waited = start.elapsed();
    ((cpu_time() - cpu).as_secs_f64() / waited.as_secs_f64(), waited)
}

#[test]
fn waiting_takes_next_to_no_cpu_time() {
    type Operation = fn(&Communicator, &mut [f32]);
    let operations: [(&str, Operation); 3] = [
        ("all_reduce", |communicator, data| {
            communicator.all_reduce(data, ReduceOp::Sum).unwrap();
        }),
        ("broadcast", |communicator, data| communicator.broadcast(data, 1).unwrap()),
        ("barrier", |communicator, _| communicator.barrier().unwrap()),
    ];
    for options in every_way() {
        world(2, &options, |communicator| {
            let mut data = vec![1.0f32; 1 << 10];
            // The first operation connects and agrees.
            communicator.barrier().unwrap();
            for (name, operation) in operations {
                if communicator.rank() == 1 {
                    thread::sleep(LATE);
                    operation(communicator, &mut data);
                    continue;
                }
                let (share, waited) = share(|| operation(communicator, &mut data));
                assert!(waited >= LATE / 2, "{name} ended after {waited:?}: nobody was late");
                assert!(share < SHARE_MAX, "{name} over {options:?}: {share:.3} of a core");
            }
        });
    }
}
