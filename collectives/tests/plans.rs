//! Where the numbers of a plan come from, and results that do not depend on it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::thread;

use paceline_collectives::plan::{Algorithm, Tuning};
use paceline_collectives::{
    Context, ContextOptions, Job, Origin, PlanFault, ReduceOp, SetupError, TransportKind, Tune,
};
use support::{contexts, nodes, over, uneven};

fn with_plan(path: &Path) -> ContextOptions {
    ContextOptions { plan: Some(path.to_owned()), ..over(TransportKind::Tcp) }
}

/// What becomes of a world that is made with these options.
fn outcomes(world_size: u32, options: &ContextOptions) -> Vec<Result<Context, SetupError>> {
    thread::scope(|scope| {
        let jobs = Job::in_process(world_size).unwrap();
        let connect = |job: Arc<Job>| scope.spawn(move || Context::new(&job, options));
        let ranks: Vec<_> = jobs.into_iter().map(connect).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn all_ranks_plan_by_the_same_measurement() {
    let options = ContextOptions { tune: Tune::On, ..over(TransportKind::Tcp) };
    let plans = contexts(3, &options, |context| {
        let mut data = vec![1.0f32; 300_000];
        context.communicator().unwrap().all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert!(data.iter().all(|it| *it == 3.0));
        (context.plan_facts().clone(), context.plan_origin().clone())
    });
    assert!(plans.windows(2).all(|pair| pair[0] == pair[1]), "{plans:?}");
    let (facts, Origin::Measured(speed)) = &plans[0] else { panic!("{plans:?}") };
    let sockets = facts.tuning.sockets;
    assert!([1, 2, 4].contains(&sockets), "{sockets}");
    assert_eq!(facts.tuning, Tuning { sockets, ..Tuning::derive(*speed, 3) });
    let off = ContextOptions { tune: Tune::Off, ..over(TransportKind::Tcp) };
    contexts(2, &off, |context| assert_eq!(context.plan_origin(), &Origin::BuiltIn));
}

#[test]
fn a_plan_is_written_once_and_then_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plan.json");
    let options = with_plan(&path);
    let first = contexts(2, &options, |context| {
        assert!(matches!(context.plan_origin(), Origin::Measured(_)));
        context.plan_facts().tuning
    });
    // Only what is in the file counts from now on.
    let text = std::fs::read_to_string(&path).unwrap();
    let window = format!("\"window\": {}", first[0].window);
    std::fs::write(&path, text.replace(&window, "\"window\": 7")).unwrap();
    let second = contexts(2, &options, |context| {
        assert_eq!(context.plan_origin(), &Origin::File(path.clone()));
        context.plan_facts().tuning
    });
    assert_eq!(second, [Tuning { window: 7, ..first[0] }; 2]);
}

#[test]
fn messages_take_as_many_sockets_as_are_planned_or_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plan.json");
    contexts(2, &with_plan(&path), |_| ());
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|line| line.contains("sockets")).unwrap();
    let forced = ContextOptions { sockets: Some(3), tune: Tune::On, ..over(TransportKind::Tcp) };
    for (planned, options) in [(1, with_plan(&path)), (4, with_plan(&path)), (3, forced)] {
        std::fs::write(&path, text.replace(line, &format!("\"sockets\": {planned}"))).unwrap();
        contexts(2, &options, |context| {
            assert_eq!(context.plan_facts().tuning.sockets, planned);
            let carried = || -> Vec<u64> {
                let peers = context.counters().peers;
                peers[0].channels.iter().map(|channel| channel.sent.payload_bytes).collect()
            };
            let communicator = context.communicator().unwrap();
            communicator.barrier().unwrap();
            let before = carried();
            // Until each has had something to carry: which one does is a matter of who has room.
            let mut data = vec![1.0f32; 4 << 20];
            for _ in 0..20 {
                communicator.all_reduce(&mut data, ReduceOp::Max).unwrap();
            }
            let used = before.iter().zip(carried()).filter(|(before, after)| after > before);
            let used = used.count();
            assert!(used <= planned && (used > 1 || planned == 1), "{used} of {planned}");
        });
    }
}

#[test]
fn a_plan_that_does_not_fit_is_refused_by_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plan.json");
    contexts(2, &with_plan(&path), |_| ());
    let text = std::fs::read_to_string(&path).unwrap();
    let window = text.lines().find(|line| line.contains("window")).unwrap();
    let old = text.replace("paceline.plan/1", "paceline.plan/9");
    for (content, world_size, fault, reason) in [
        (&*text, 3, PlanFault::World, "it is for 2 ranks over tcp, and this job has 3"),
        (
            &text.replace(window, "\"window\": 99,"),
            2,
            PlanFault::Meaning,
            "window is 99; it must be 1 to 8",
        ),
        (&old, 2, PlanFault::Meaning, "its format is \"paceline.plan/9\""),
        ("{", 2, PlanFault::Meaning, "EOF while parsing"),
        ("\u{fc}\0", 2, PlanFault::Meaning, "expected value"),
    ] {
        std::fs::write(&path, content).unwrap();
        assert_refused(&path, world_size, fault, reason);
    }
    // Nor can one be written where there is no directory, or read what is no file.
    let nowhere = directory.path().join("missing/plan.json");
    assert_refused(&nowhere, 2, PlanFault::Writing, "No such file or directory");
    for other in [directory.path(), Path::new("/dev/zero")] {
        assert_refused(other, 2, PlanFault::Reading, "it is no regular file");
    }
}

/// All ranks say the same of a plan, and what to do.
#[track_caller]
fn assert_refused(path: &Path, world_size: u32, expected: PlanFault, reason: &str) {
    for outcome in outcomes(world_size, &with_plan(path)) {
        let error = outcome.unwrap_err();
        let SetupError::Plan { fault, what } = &error else { panic!("{error:?}") };
        assert_eq!(*fault, expected, "{what}");
        assert!(what.starts_with(path.to_str().unwrap()) && what.contains(reason), "{what}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn under_any_plan_bits_depend_on_neither_transport_nor_algorithm_nor_nodes() {
    let interface = "127.0.0.1".parse().unwrap();
    let any_plan = ContextOptions { any_plan: true, interface, ..ContextOptions::default() };
    let run = |node_of: &[u32], options: &ContextOptions| {
        nodes(node_of, options, |communicator| {
            let (rank, mut results) = (communicator.rank(), Vec::new());
            for count in [1usize, 10, 5000, 400_001] {
                let mut data: Vec<f32> = (0..count).map(|at| uneven(rank, at)).collect();
                let mut reduced = data.clone();
                communicator.reduce(&mut reduced, ReduceOp::Sum, 0).unwrap();
                let own = communicator.reduce_scatter_in_place(&mut data, ReduceOp::Avg).unwrap();
                results.extend_from_slice(&data[own]);
                let mut data: Vec<f32> = (0..count).map(|at| uneven(rank, at)).collect();
                communicator.all_reduce(&mut data, ReduceOp::Sum).unwrap();
                assert!(rank != 0 || reduced == data);
                results.extend(data);
            }
            results
        })
    };
    let alone = run(&[0, 0, 0, 0], &any_plan);
    for (node_of, transport, algorithm) in [
        (&[0, 0, 1, 1], None, None),
        (&[0, 1, 1, 1], None, None),
        (&[0, 0, 0, 0], Some(TransportKind::Tcp), None),
        (&[0, 0, 0, 0], Some(TransportKind::Tcp), Some(Algorithm::Ring)),
        (&[0, 0, 0, 0], Some(TransportKind::Shm), Some(Algorithm::TwoShot)),
    ] {
        let transport = transport.map_or(any_plan.transport, |kind| over(kind).transport);
        let options = ContextOptions { transport, algorithm, ..any_plan.clone() };
        assert!(run(node_of, &options) == alone, "{node_of:?}, {algorithm:?}");
    }
    // Without it nodes have an order of their own, or the test shows nothing.
    let by_plan = ContextOptions { any_plan: false, ..any_plan };
    assert!(run(&[0, 0, 1, 1], &by_plan) != alone);
}

#[test]
fn an_algorithm_with_an_order_of_its_own_is_refused_under_any_plan() {
    let algorithm = Some(Algorithm::RecursiveDoubling);
    let options = ContextOptions { any_plan: true, algorithm, ..over(TransportKind::Tcp) };
    for outcome in outcomes(2, &options) {
        let text = outcome.unwrap_err().to_string();
        assert!(text.contains("recursive-doubling"), "{text}");
    }
}
