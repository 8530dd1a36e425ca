use paceline_collectives::Collective;
use paceline_collectives::plan::{Algorithm, PlanFacts};
use paceline_transports::TransportKind;

use super::*;

const ELEMENT_BYTES: usize = 4;

/// Every way to carry out a collective by messages.
fn cases(ranks: usize) -> impl Iterator<Item = Case> {
    let algorithms = Algorithm::ALL.into_iter().filter(move |algorithm| {
        let doubles =
            matches!(algorithm, Algorithm::RecursiveDoubling | Algorithm::HalvingDoubling);
        let sends = algorithm.node_manner().is_none() && *algorithm != Algorithm::TwoLevel;
        sends && (ranks.is_power_of_two() || !doubles)
    });
    let collectives = [
        Collective::AllReduce,
        Collective::ReduceScatter,
        Collective::AllGather,
        Collective::Broadcast,
        Collective::Reduce,
        Collective::AllToAll,
        Collective::Gather,
        Collective::Scatter,
        Collective::Barrier,
    ];
    algorithms.flat_map(move |algorithm| {
        let known = collectives.into_iter().filter(move |known| algorithm.supports(*known));
        known.map(move |collective| {
            let count = if collective == Collective::Barrier { 0 } else { 64 * ranks };
            // A chain is about its slices; the others' would only overlap.
            let slice = if algorithm == Algorithm::Chain { count / 8 } else { count.max(1) };
            Case { collective, algorithm, ranks, count, slice, window: ranks.min(4) }
        })
    })
}

#[test]
fn steps_and_bytes_on_the_critical_path_are_those_of_the_formulas() {
    let mut compared = 0;
    for ranks in 2..=64 {
        for case in cases(ranks) {
            let formula = Formula::of(&case, ELEMENT_BYTES);
            let schedules = case.schedules();
            let counted = |cost| evaluate(&schedules, ELEMENT_BYTES, cost);
            let critical = Formula {
                steps: counted(Cost::STEPS),
                bytes: counted(Cost::BYTES),
                reduced: counted(Cost::REDUCED),
            };
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.max(1.0);
            assert!(
                close(critical.steps, formula.steps)
                    && close(critical.bytes, formula.bytes)
                    && close(critical.reduced, formula.reduced),
                "{case:?}: {critical:?} instead of {formula:?}"
            );
            compared += 1;
        }
    }
    assert!(compared > 63 * 15, "{compared} cases");
}

#[test]
fn what_the_plan_chooses_takes_no_longer_than_its_formula() {
    for world_size in [2, 3, 4, 7, 8, 16, 32, 33, 64] {
        let facts = PlanFacts::plain(world_size, TransportKind::Tcp);
        let ranks = usize::try_from(world_size).unwrap();
        for (collective, bytes) in [
            (Collective::AllReduce, 1 << 10),
            (Collective::AllReduce, 16 << 20),
            (Collective::Broadcast, 1 << 20),
            (Collective::AllToAll, 1 << 20),
        ] {
            let count = (bytes / ELEMENT_BYTES).next_multiple_of(ranks);
            let case = Case::planned(&facts, collective, count, ELEMENT_BYTES);
            let simulated = evaluate(&case.schedules(), ELEMENT_BYTES, Cost::TYPICAL);
            let formula = Formula::of(&case, ELEMENT_BYTES).seconds(Cost::TYPICAL);
            // Slices overlap what the formulas add up, and cost a message each where they do not.
            let ratio = simulated / formula;
            assert!((0.5..=1.25).contains(&ratio), "{case:?}: {simulated} s, formula {formula} s");
        }
    }
}
