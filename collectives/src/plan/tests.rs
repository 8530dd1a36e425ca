use super::*;

fn facts(world_size: u32) -> PlanFacts {
    PlanFacts::plain(world_size, TransportKind::Tcp)
}

#[test]
fn every_choice_is_possible() {
    for world_size in [2, 3, 4, 8, 9, 32, 33, 1000] {
        for forced in Algorithm::ALL.into_iter().map(Some).chain([None]) {
            let facts = PlanFacts { forced, ..facts(world_size) };
            for collective in Collective::ALL {
                for exponent in 0..34 {
                    let choice = facts.choose(collective, 1 << exponent);
                    assert!(choice.algorithm.supports(collective));
                    assert!(facts.allows(choice.algorithm, collective, 1 << exponent));
                    assert!(choice.slice_bytes > 0 && choice.window > 0);
                }
            }
        }
    }
}

#[test]
fn in_shared_memory_either_manner_can_be_forced() {
    let choice = |forced, collective, bytes| {
        PlanFacts { shared_memory: true, forced, ..facts(4) }.choose(collective, bytes).algorithm
    };
    let (one, two) = (Algorithm::NodeOneShot, Algorithm::NodeTwoShot);
    let all_reduce = Collective::AllReduce;
    assert_eq!(choice(None, all_reduce, 8 << 10), one);
    assert_eq!(choice(None, all_reduce, (8 << 10) + 1), two);
    assert_eq!(choice(Some(one), all_reduce, 64 << 10), one);
    assert_eq!(choice(Some(one), all_reduce, 64 << 20), two, "it would not fit");
    assert_eq!(choice(Some(two), all_reduce, 4), two);
    assert_eq!(choice(Some(two), all_reduce, 0), one, "there is nothing to cut");
    assert_eq!(choice(Some(two), Collective::Barrier, 0), one);
    assert_eq!(choice(Some(Algorithm::Ring), all_reduce, 4), Algorithm::Ring);
}

#[test]
fn ranks_that_share_cores_send_few_messages() {
    let choice = |oversubscribed, collective, bytes| {
        PlanFacts { oversubscribed, ..facts(4) }.choose(collective, bytes).algorithm
    };
    use Algorithm::{BinomialTree, Direct, Dissemination, RecursiveDoubling, Star, TwoShot};
    for (collective, shared, apart, long) in [
        (Collective::Barrier, Star, Dissemination, Dissemination),
        (Collective::AllGather, Star, RecursiveDoubling, TwoShot),
        (Collective::Broadcast, Direct, BinomialTree, BinomialTree),
    ] {
        assert_eq!(choice(true, collective, 32 << 10), shared);
        assert_eq!(choice(false, collective, 32 << 10), apart);
        assert_eq!(choice(true, collective, (32 << 10) + 1), long);
    }
}

#[test]
fn little_is_reduced_in_rounds_where_cores_are_not_shared() {
    let choice = |world_size, oversubscribed, bytes| {
        let facts = PlanFacts { oversubscribed, ..facts(world_size) };
        facts.choose(Collective::AllReduce, bytes).algorithm
    };
    for (world_size, bytes) in [(4, 8 << 10), (6, 4 << 10), (16, 2 << 10)] {
        assert_eq!(choice(world_size, false, bytes), Algorithm::Dissemination);
        assert_ne!(choice(world_size, false, 2 * bytes), Algorithm::Dissemination);
        assert_eq!(choice(world_size, true, bytes), Algorithm::Star);
    }
    assert_eq!(choice(3, false, 1 << 10), Algorithm::OneShot);
    assert_eq!(choice(5, false, 1 << 10), Algorithm::OneShot, "three rounds for four messages");
}

#[test]
fn little_is_gathered_by_doubling() {
    let choice =
        |world_size, bytes| facts(world_size).choose(Collective::AllGather, bytes).algorithm;
    for world_size in [3, 16, 33] {
        assert_eq!(choice(world_size, 64 << 10), Algorithm::RecursiveDoubling);
        assert_ne!(choice(world_size, (64 << 10) + 1), Algorithm::RecursiveDoubling);
    }
    assert_eq!(choice(2, 4), Algorithm::TwoShot, "there is one other");
}

#[test]
fn the_root_reduces_alone_where_sharing_costs_more() {
    let choice = |world_size, bytes| facts(world_size).choose(Collective::Reduce, bytes);
    assert_eq!(choice(2, 64 << 20).algorithm, Algorithm::Direct);
    assert_eq!(choice(4, 32 << 10).algorithm, Algorithm::Direct);
    assert_eq!(choice(4, 64 << 10).algorithm, Algorithm::TwoShot);
    assert_eq!(choice(33, 4).algorithm, Algorithm::Ring);
    assert!(
        choice(2, 64 << 20).slice_bytes <= Tuning::BUILT_IN.slice_bytes_max,
        "scratch holds slices"
    );
    let forced = PlanFacts { forced: Some(Algorithm::Direct), ..facts(33) };
    assert_eq!(forced.choose(Collective::Reduce, 4).algorithm, Algorithm::Ring);
}

#[test]
fn names_and_codes_round_trip() {
    for algorithm in Algorithm::ALL {
        assert_eq!(algorithm.name().parse(), Ok(algorithm));
        assert_eq!(Algorithm::from_code(algorithm as u8), Some(algorithm));
    }
    let error = "rings".parse::<Algorithm>().unwrap_err();
    assert!(error.to_string().contains("recursive-doubling"));
}

#[test]
fn the_explanation_lists_each_change_once() {
    let text = facts(4).explain(Collective::AllReduce);
    assert!(text.lines().count() >= 2, "{text}");
    assert!(text.contains("ring"), "{text}");
    let text = facts(8).explain(Collective::AllToAll);
    assert_eq!(text, "  from          1 bytes: pairwise (whole blocks, 4 ranks at a time)\n");
}

#[test]
fn under_any_plan_nothing_reduces_in_another_order() {
    let levels = Some(LevelFacts { nodes: 20, streams: 2, contiguous: true });
    for forced in Algorithm::ALL.into_iter().map(Some).chain([None]) {
        let facts = PlanFacts { any_plan: true, levels, forced, ..facts(40) };
        for (collective, exponent) in Collective::ALL.into_iter().zip(std::iter::repeat(0..34)) {
            for bytes in exponent.map(|exponent| 1 << exponent) {
                let algorithm = facts.choose(collective, bytes).algorithm;
                let keeps = !matches!(
                    algorithm,
                    Algorithm::TwoLevel | Algorithm::RecursiveDoubling | Algorithm::HalvingDoubling
                );
                assert!(keeps || !collective.reduces(), "{collective} by {algorithm}");
            }
        }
    }
    let facts = PlanFacts { any_plan: true, levels, ..facts(40) };
    assert_eq!(facts.choose(Collective::Broadcast, 1).algorithm, Algorithm::TwoLevel);
}

#[test]
fn ranks_that_know_their_own_counts_only_exchange_messages() {
    for (collective, algorithm) in [
        (Collective::AllToAllV, Algorithm::Pairwise),
        (Collective::GatherV, Algorithm::Direct),
        (Collective::ScatterV, Algorithm::Direct),
    ] {
        for forced in Algorithm::ALL.into_iter().map(Some).chain([None]) {
            let facts = PlanFacts { shared_memory: true, forced, ..facts(4) };
            assert_eq!(facts.choose(collective, 0).algorithm, algorithm);
        }
    }
}
