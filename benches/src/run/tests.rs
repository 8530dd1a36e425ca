//! The loop, driven by fakes: ranks are threads, and time passes only where a test says so.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use super::runner::{BATCHES_MAX, extent_of};
use super::*;

/// Ranks that are threads of this process.
struct ThreadGroup {
    rank: u32,
    shared: Arc<Shared>,
}

struct Shared {
    barrier: Barrier,
    values: Mutex<Vec<Vec<u64>>>,
}

impl Group for ThreadGroup {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world_size(&self) -> u32 {
        u32::try_from(self.shared.values.lock().unwrap().len()).unwrap()
    }

    fn barrier(&mut self) -> Result<(), BoxError> {
        self.shared.barrier.wait();
        Ok(())
    }

    fn broadcast(&mut self, value: u64) -> Result<u64, BoxError> {
        Ok(self.gather(&[value])?[0][0])
    }

    fn gather(&mut self, values: &[u64]) -> Result<Vec<Vec<u64>>, BoxError> {
        self.shared.values.lock().unwrap()[self.rank as usize] = values.to_vec();
        self.shared.barrier.wait();
        let all = self.shared.values.lock().unwrap().clone();
        self.shared.barrier.wait();
        Ok(all)
    }
}

#[derive(Clone, Default)]
struct FakeClock(Rc<Cell<u64>>);

impl Clock for FakeClock {
    fn wall(&self) -> u64 {
        self.0.get()
    }

    fn cpu(&self) -> u64 {
        // Two threads' worth of work in every moment.
        self.0.get() * 2
    }
}

/// An operation that takes `cost` nanoseconds, differently at each call.
struct FakeWorkload<F> {
    clock: FakeClock,
    cost: F,
    calls: u64,
    slots: Vec<Option<u64>>,
    slot_bytes: u64,
    settled: bool,
    corrupt_iteration: Option<u64>,
    fail_at: Option<u64>,
    /// What the first operation after new data takes longer.
    late_after_prepare: u64,
    is_late: bool,
    log: Vec<usize>,
}

impl<F: Fn(u64) -> u64> FakeWorkload<F> {
    fn new(clock: &FakeClock, cost: F) -> Self {
        Self {
            clock: clock.clone(),
            cost,
            calls: 0,
            slots: Vec::new(),
            slot_bytes: 1024,
            settled: false,
            corrupt_iteration: None,
            fail_at: None,
            late_after_prepare: 0,
            is_late: false,
            log: Vec::new(),
        }
    }
}

impl<F: Fn(u64) -> u64> Workload for FakeWorkload<F> {
    fn slot_bytes(&self) -> u64 {
        self.slot_bytes
    }

    fn reserve_slots(&mut self, count: usize) -> Result<(), BoxError> {
        self.slots.resize(count.max(self.slots.len()), None);
        Ok(())
    }

    fn prepare(&mut self, slot: usize, iteration: u64) {
        self.slots[slot] = Some(iteration);
        self.is_late = true;
        // What happens outside the timed region takes long, and must not be seen.
        self.clock.0.set(self.clock.0.get() + 1_000_000);
    }

    fn run(&mut self, slot: usize) -> Result<(), BoxError> {
        if self.fail_at == Some(self.calls) {
            return Err("the peer is gone".into());
        }
        self.log.push(slot);
        let delay = if std::mem::take(&mut self.is_late) { self.late_after_prepare } else { 0 };
        self.clock.0.set(self.clock.0.get() + (self.cost)(self.calls) + delay);
        self.calls += 1;
        Ok(())
    }

    fn count_wrong(&mut self, slot: usize, iteration: u64) -> u64 {
        assert_eq!(self.slots[slot], Some(iteration), "checked against the data of another");
        self.clock.0.set(self.clock.0.get() + 1_000_000);
        if self.corrupt_iteration == Some(iteration) { 3 } else { 0 }
    }

    fn settle(&mut self, _slot: usize) {
        self.settled = true;
    }
}

const SETTINGS: Settings = Settings {
    rounds: 3,
    warmup: 5,
    warmup_ns: WARMUP_NANOSECONDS,
    iterations: None,
    batches_min: BATCHES_MIN,
    min_time_ns: 100_000_000,
    check: Check::First,
};

/// Runs `body` as every rank of a group and returns the results by rank.
fn on_ranks<R: Send + 'static>(
    world_size: u32,
    body: impl Fn(ThreadGroup) -> R + Send + Sync + 'static,
) -> Vec<R> {
    let body = Arc::new(body);
    let ranks = usize::try_from(world_size).unwrap();
    let shared = Arc::new(Shared {
        barrier: Barrier::new(ranks),
        values: Mutex::new(vec![Vec::new(); ranks]),
    });
    let handles: Vec<_> = (0..world_size)
        .map(|rank| {
            let (shared, body) = (Arc::clone(&shared), Arc::clone(&body));
            thread::Builder::new()
                .name(format!("rank{rank}"))
                .spawn(move || body(ThreadGroup { rank, shared }))
                .unwrap()
        })
        .collect();
    handles.into_iter().map(|handle| handle.join().unwrap()).collect()
}

fn measure_costs(
    group: &mut ThreadGroup,
    settings: &Settings,
    cost: impl Fn(u64) -> u64,
) -> Measurement {
    let clock = FakeClock::default();
    let mut workload = FakeWorkload::new(&clock, cost);
    measure(group, &mut workload, &clock, settings, &mut |_, _| Ok(())).unwrap()
}

#[test]
fn the_time_of_an_operation_is_that_of_the_slowest_rank() {
    let measurements = on_ranks(3, |mut group| {
        let rank = u64::from(group.rank());
        // Rank 0 is slow at even operations, rank 2 at odd ones.
        measure_costs(&mut group, &SETTINGS, move |call| {
            if (call + rank / 2).is_multiple_of(2) && rank != 1 { 80_000 } else { 50_000 }
        })
    });
    for measurement in measurements {
        let total = measurement.total();
        assert_eq!((total.min(), total.max()), (Some(80_000), Some(80_000)));
        assert_eq!(measurement.ranks[1].max(), Some(50_000));
        assert!((measurement.ranks[0].mean() - 65_000.0).abs() < 100.0);
        assert_eq!(measurement.wrong, Some(0));
    }
}

#[test]
fn rank_0_decides_for_all_how_much_is_measured() {
    let measurements = on_ranks(2, |mut group| {
        let cost = if group.rank() == 0 { 1_000_000 } else { 10_000 };
        measure_costs(&mut group, &SETTINGS, move |_| cost)
    });
    for measurement in measurements {
        assert_eq!(measurement.batch, 1);
        assert_eq!(measurement.iterations, 3 * 100, "100 ms of 1 ms each, three rounds");
        assert_eq!(measurement.rounds.len(), 3);
    }
}

#[test]
fn short_operations_are_timed_in_batches_and_long_ones_at_least_five_times() {
    on_ranks(1, |mut group| {
        let short = measure_costs(&mut group, &SETTINGS, |_| 400);
        assert_eq!(short.batch, 25);
        assert_eq!(short.total().max(), Some(400));
        assert_eq!(short.iterations, 3 * 100_000_000 / 400);

        let long = measure_costs(&mut group, &SETTINGS, |_| 400_000_000);
        assert_eq!((long.batch, long.iterations), (1, 15));
    });
}

#[test]
fn fixed_iterations_are_kept() {
    on_ranks(1, |mut group| {
        let settings = Settings { iterations: Some(7), ..SETTINGS };
        let measurement = measure_costs(&mut group, &settings, |_| 50_000);
        assert_eq!((measurement.batch, measurement.iterations), (1, 21));
    });
}

#[test]
fn preparing_and_checking_are_not_timed() {
    on_ranks(2, |mut group| {
        let settings = Settings { check: Check::Every, ..SETTINGS };
        let measurement = measure_costs(&mut group, &settings, |_| 3_000);
        assert_eq!(measurement.batch, 4);
        assert_eq!(measurement.total().max(), Some(3_000));
        // Each of two ranks has twice the wall time of its operations.
        assert_eq!(measurement.cpu_ns, measurement.iterations * 3_000 * 2 * 2);
    });
}

#[test]
fn checked_operations_of_a_train_have_slots_of_their_own() {
    on_ranks(1, |mut group| {
        // Trains of 1 ms at 100 us: one untimed operation, then ten timed ones.
        let settings = Settings { check: Check::Every, iterations: Some(15), ..SETTINGS };
        let clock = FakeClock::default();
        let mut workload = FakeWorkload::new(&clock, |_| 100_000);
        workload.corrupt_iteration = Some(17);
        let result =
            measure(&mut group, &mut workload, &clock, &settings, &mut |_, _| Ok(())).unwrap();
        assert_eq!((result.batch, result.iterations), (1, 45));
        let round: Vec<usize> = (0..11).chain(0..6).collect();
        assert!(workload.log.ends_with(&[&round[..], &round[..], &round[..]].concat()));
        assert_eq!(result.wrong, Some(3));
    });
}

/// Rank 1 of two, of which rank 0 has said `root` whatever was asked.
struct WithRoot {
    root: u64,
}

impl Group for WithRoot {
    fn rank(&self) -> u32 {
        1
    }

    fn world_size(&self) -> u32 {
        2
    }

    fn barrier(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    fn broadcast(&mut self, value: u64) -> Result<u64, BoxError> {
        Ok(value)
    }

    fn gather(&mut self, values: &[u64]) -> Result<Vec<Vec<u64>>, BoxError> {
        Ok(vec![vec![self.root; values.len()], values.to_vec()])
    }
}

#[test]
fn the_rank_with_the_largest_buffers_decides_for_all_how_long_trains_are() {
    let settings = Settings { check: Check::Every, iterations: Some(15), ..SETTINGS };
    for (root, own) in [(128 << 10, 64 << 10), (64 << 10, 128 << 10)] {
        let clock = FakeClock::default();
        let mut workload = FakeWorkload::new(&clock, |_| 100_000);
        workload.slot_bytes = own;
        let mut group = WithRoot { root };
        measure(&mut group, &mut workload, &clock, &settings, &mut |_, _| Ok(())).unwrap();
        // 256 KiB are two timed operations; one more runs untimed.
        assert_eq!(workload.slots.len(), 3);
    }
}

#[test]
fn what_lining_up_costs_is_not_timed() {
    on_ranks(1, |mut group| {
        let settings = Settings { check: Check::Every, iterations: Some(10), ..SETTINGS };
        let clock = FakeClock::default();
        // Every operation that follows the filling of slot 0 is late, as after a barrier.
        let mut workload = FakeWorkload::new(&clock, |_| 100_000);
        workload.late_after_prepare = 7_000;
        let result =
            measure(&mut group, &mut workload, &clock, &settings, &mut |_, _| Ok(())).unwrap();
        assert_eq!(result.total().max(), Some(100_000));
    });
}

#[test]
fn wrong_elements_of_any_rank_are_seen_by_all() {
    let wrong = on_ranks(3, |mut group| {
        let clock = FakeClock::default();
        let mut workload = FakeWorkload::new(&clock, |_| 100_000);
        workload.corrupt_iteration = (group.rank() == 2).then_some(0);
        let result =
            measure(&mut group, &mut workload, &clock, &SETTINGS, &mut |_, _| Ok(())).unwrap();
        assert!(workload.settled, "unchecked operations need data that stays as it is");
        result.wrong
    });
    assert_eq!(wrong, [Some(3); 3]);
}

#[test]
fn unchecked_is_not_the_same_as_right() {
    on_ranks(1, |mut group| {
        let settings = Settings { check: Check::Off, ..SETTINGS };
        assert_eq!(measure_costs(&mut group, &settings, |_| 100_000).wrong, None);
    });
}

#[test]
fn a_failing_operation_ends_the_measurement_with_its_error() {
    on_ranks(1, |mut group| {
        let clock = FakeClock::default();
        let mut workload = FakeWorkload::new(&clock, |_| 100_000);
        workload.fail_at = Some(700);
        let error =
            measure(&mut group, &mut workload, &clock, &SETTINGS, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.source().unwrap().to_string(), "the peer is gone");
    });
}

#[test]
fn a_round_is_announced_before_it_starts() {
    on_ranks(1, |mut group| {
        let clock = FakeClock::default();
        let mut workload = FakeWorkload::new(&clock, |_| 1_000_000);
        let mut seen = Vec::new();
        let mut before_round = |round, group: &mut dyn Group| {
            seen.push((round, group.world_size()));
            Ok(())
        };
        measure(&mut group, &mut workload, &clock, &SETTINGS, &mut before_round).unwrap();
        assert_eq!(seen, [(0, 1), (1, 1), (2, 1)]);
    });
}

#[test]
fn what_happens_between_rounds_is_not_timed_nor_what_it_costs_the_next_operation() {
    for (check, cost) in [(Check::Every, 3_000), (Check::Off, 3_000), (Check::Off, 300_000)] {
        on_ranks(1, move |mut group| {
            let settings = Settings { check, iterations: Some(40), ..SETTINGS };
            let clock = FakeClock::default();
            let late = Rc::new(Cell::new(0));
            let extra = Rc::clone(&late);
            let mut workload = FakeWorkload::new(&clock, move |_| cost + extra.take());
            let mut before_round = |_, group: &mut dyn Group| {
                late.set(7_000);
                clock.0.set(clock.0.get() + 50_000_000);
                group.barrier().map_err(RunError::Operation)
            };
            let result =
                measure(&mut group, &mut workload, &clock, &settings, &mut before_round).unwrap();
            assert_eq!(result.total().max(), Some(cost));
        });
    }
}

#[test]
fn an_error_between_rounds_ends_the_measurement() {
    on_ranks(1, |mut group| {
        let clock = FakeClock::default();
        let mut workload = FakeWorkload::new(&clock, |_| 1_000_000);
        let mut before_round = |round, _: &mut dyn Group| match round {
            1 => Err(RunError::Operation("no floor".into())),
            _ => Ok(()),
        };
        let result = measure(&mut group, &mut workload, &clock, &SETTINGS, &mut before_round);
        assert!(matches!(result, Err(RunError::Operation(_))), "{result:?}");
    });
}

#[test]
fn a_single_round_times_what_was_asked_for() {
    let measured = on_ranks(2, |mut group| {
        let clock = FakeClock::default();
        let cost = 100 * u64::from(group.rank() + 1);
        let mut workload = FakeWorkload::new(&clock, move |_| cost);
        let times = measure_again(&mut group, &mut workload, &clock, 6, 5).unwrap();
        (times.count(), times.min(), times.max(), workload.calls)
    });
    // One batch untimed, six timed, and the slower rank counts.
    assert_eq!(measured, [(6, Some(200), Some(200), 35); 2]);
}

#[test]
fn memory_for_checked_trains_and_for_times_is_bounded() {
    let every = Settings { check: Check::Every, ..SETTINGS };
    let train = |operation_ns, slot_bytes| {
        let extent = extent_of(operation_ns, &every, slot_bytes);
        (extent.batch, extent.train, extent.lead)
    };
    assert_eq!(train(100, 4), (100, 40, 1), "4096 operations at most");
    assert_eq!(train(100, 64 << 10), (4, 1, 1), "256 KiB at most");
    assert_eq!(train(50_000, 4096), (1, 20, 1), "1 ms");
    assert_eq!(train(400_000, 1 << 20), (1, 1, 1));
    assert_eq!(train(2_000_000, 4096), (1, 1, 0), "long operations need no lead");
    assert_eq!(train(100, u64::MAX), (1, 1, 1));
    assert_eq!(train(100, 0), (100, 40, 1));
    let endless = Settings { min_time_ns: u64::MAX / 2, ..SETTINGS };
    assert_eq!(extent_of(100_000, &endless, 4).batches, BATCHES_MAX);
}

#[test]
fn a_caller_may_want_fewer_long_operations() {
    let settings = Settings { batches_min: 2, ..SETTINGS };
    assert_eq!(extent_of(400_000_000, &settings, 4).batches, 2);
    assert_eq!(extent_of(400_000_000, &SETTINGS, 4).batches, 5);
}

#[test]
fn the_system_clocks_advance() {
    let (wall, cpu) = (SystemClock.wall(), SystemClock.cpu());
    let mut sum = 0_u64;
    while SystemClock.cpu() == cpu {
        sum = std::hint::black_box(sum.wrapping_add(1));
    }
    assert!(SystemClock.wall() > wall);
}
