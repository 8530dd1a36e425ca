//! Whatever ranks call in place of each other, all of them are told, and not by the deadline.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use paceline_collectives::{
    CollectiveError, Communicator, Context, ContextOptions, Job, ReduceOp, TransportKind,
};

use super::over;

type Outcome = Result<(), CollectiveError>;

type Call = fn(&Communicator) -> Outcome;

/// Calls of which no two go together.
const CALLS: [(&str, Call); 13] = [
    ("all_reduce", |on| on.all_reduce(&mut [1f32; 12], ReduceOp::Sum)),
    ("dtype", |on| on.all_reduce(&mut [1f64; 12], ReduceOp::Sum)),
    ("op", |on| on.all_reduce(&mut [1f32; 12], ReduceOp::Max)),
    ("count", |on| on.all_reduce(&mut [1f32; 13], ReduceOp::Sum)),
    ("long", |on| on.all_reduce(&mut vec![1f32; 1 << 18], ReduceOp::Sum)),
    ("broadcast", |on| on.broadcast(&mut [1f32; 12], 0)),
    ("root", |on| on.broadcast(&mut [1f32; 12], 1)),
    ("barrier", Communicator::barrier),
    ("reduce", |on| on.reduce(&mut [1f32; 12], ReduceOp::Sum, 2)),
    ("gather", |on| {
        let mut all = vec![0f32; 12 * on.world_size() as usize];
        on.gather(&[1f32; 12], Some(&mut all[..]).filter(|_| on.rank() == 0), 0)
    }),
    ("all_gather", |on| on.all_gather(&[1f32; 12], &mut vec![0f32; 12 * on.world_size() as usize])),
    ("all_to_all", |on| {
        let count = 12 * on.world_size() as usize;
        on.all_to_all(&vec![1f32; count], &mut vec![0f32; count])
    }),
    ("shift", |on| on.shift(&[1f32; 12], &mut [0f32; 12], None)),
];

/// One rank is at odds with the others, which is two calls in the other order on it.
#[derive(Clone, Copy, Debug)]
struct Case {
    ranks: u32,
    kind: TransportKind,
    in_group: bool,
    odd: u32,
    calls: [usize; 2],
}

impl Case {
    fn name(&self) -> String {
        let Self { ranks, kind, in_group, odd, calls } = self;
        let [first, second] = calls.map(|call| CALLS[call].0);
        let group = if *in_group { "a group of " } else { "" };
        format!("{first} meets {second} on rank {odd} of {group}{ranks} over {kind}")
    }

    /// What goes wrong with it: how ranks end that are not told, or only by the deadline.
    fn faults(&self) -> Vec<String> {
        let jobs = Job::in_process(self.ranks + u32::from(self.in_group)).unwrap();
        let options = ContextOptions { timeout: Duration::from_secs(15), ..over(self.kind) };
        let faults = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for job in jobs {
                let (options, faults) = (&options, &faults);
                let run = move || {
                    let context = Context::new(&job, options).unwrap();
                    if let Some(fault) = self.on_rank(&context) {
                        faults.lock().unwrap().push(format!("{}: {fault}", self.name()));
                    }
                };
                thread::Builder::new().spawn_scoped(scope, run).unwrap();
            }
        });
        faults.into_inner().unwrap()
    }

    fn on_rank(&self, context: &Context) -> Option<String> {
        let mut on = context.communicator().unwrap();
        if self.in_group {
            let color = (on.rank() < self.ranks).then_some(0);
            on = on.split(color, 0).unwrap()?;
        }
        on.barrier().unwrap();
        let [first, second] =
            if on.rank() == self.odd { [self.calls[1], self.calls[0]] } else { self.calls };
        // A rank may get past the difference before it hears of it.
        let outcome = CALLS[first].1(&on).and_then(|()| CALLS[second].1(&on));
        let outcome = outcome.and_then(|()| (0..3).try_for_each(|_| on.barrier()));
        match outcome {
            Ok(()) => Some(format!("rank {} is not told", on.rank())),
            Err(error) if error.is_timeout() => Some(format!("rank {}: {error}", on.rank())),
            Err(_) => None,
        }
    }
}

/// Cases are quiet most of the time, where ranks wait to be told.
const AT_ONCE: usize = 6;

fn faults(cases: &[Case]) -> Vec<String> {
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let work = || {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    faults.lock().unwrap().extend(case.faults());
                }
            };
            thread::Builder::new().spawn_scoped(scope, work).unwrap();
        }
    });
    faults.into_inner().unwrap()
}

/// All pairs of calls, `of` one after the other, so that each case is met in some world.
fn pairs(ranks: u32, kind: TransportKind, in_group: bool) -> Vec<Case> {
    let numbers = 0..CALLS.len();
    let pairs = numbers.clone().flat_map(|one| numbers.clone().map(move |other| [one, other]));
    let case = |calls: [usize; 2]| {
        let odd = u32::try_from(calls[0] * 5 + calls[1]).unwrap() % ranks;
        Case { ranks, kind, in_group, odd, calls }
    };
    pairs.filter(|[one, other]| one != other).map(case).collect()
}

#[test]
fn all_pairs_over_tcp() {
    let faults = faults(&pairs(3, TransportKind::Tcp, false));
    assert!(faults.is_empty(), "{}: {faults:#?}", faults.len());
}

#[test]
fn all_pairs_in_shared_memory() {
    let faults = faults(&pairs(4, TransportKind::Shm, false));
    assert!(faults.is_empty(), "{}: {faults:#?}", faults.len());
}

#[test]
fn all_pairs_in_a_group() {
    let faults = faults(&pairs(4, TransportKind::Tcp, true));
    assert!(faults.is_empty(), "{}: {faults:#?}", faults.len());
}
