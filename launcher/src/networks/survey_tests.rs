use std::collections::HashSet;

use paceline_rendezvous::interface::Candidate;

use super::*;
use crate::probe::{Door, ProbeError};

const NETWORKS: usize = 2;

fn networks(hosts: usize) -> Vec<Network> {
    let member = |network: usize, host: usize| Candidate {
        interface: format!("eth{network}"),
        address: format!("10.{network}.0.{}", host + 1).parse().expect("an address"),
    };
    let network = |number: usize| Network {
        name: format!("net{number}"),
        members: (0..hosts).map(|host| member(number, host)).collect(),
        megabits: None,
    };
    (0..NETWORKS).map(network).collect()
}

fn begin(hosts: usize, now: Instant) -> (Survey, Vec<Asked>) {
    let names = (0..hosts).map(|host| format!("h{host}")).collect();
    let run_id = RunId::from_bytes([1; RunId::LEN]);
    Survey::begin(run_id, PortRange::ANY, names, networks(hosts), now)
}

fn way(bytes: u64) -> Way {
    Way {
        local_address: "10.0.0.1".parse().expect("an address"),
        p50_ns: 10_000,
        p99_ns: 10_000,
        round_trips: 20,
        mtu: None,
        burst_bytes: bytes,
        burst_ns: 1000,
    }
}

/// Answers everything, each question by `answer`, until nothing is asked; returns all that was asked.
fn conduct(
    survey: &mut Survey,
    mut asked: Vec<Asked>,
    now: Instant,
    answer: impl Fn(&Asked) -> Answer,
) -> Vec<Asked> {
    let mut all = Vec::new();
    while !asked.is_empty() {
        let mut next = Vec::new();
        for asked in &asked {
            let more = survey.learn(asked.number, answer(asked), now);
            assert!(next.is_empty() || more.is_empty(), "the next step begins once");
            next.extend(more);
        }
        all.append(&mut asked);
        asked = next;
    }
    all
}

fn open(asked: &Asked) -> Answer {
    let Question::Doors { addresses, .. } = &asked.question else { panic!("doors: {asked:?}") };
    Answer::Doors(addresses.iter().map(|address| Door { address: *address, port: Ok(7) }).collect())
}

/// As a cluster answers in which network 1 is faster.
fn all_is_well(asked: &Asked) -> Answer {
    match &asked.question {
        Question::Doors { .. } => open(asked),
        Question::Reach { .. } => Answer::Reach(Ok(())),
        Question::Way { address, .. } => {
            let is_fast = address.to_string().starts_with("10.1.");
            Answer::Way(Ok(way(if is_fast { 5000 } else { 1000 })))
        }
        other => panic!("not asked: {other:?}"),
    }
}

#[test]
fn every_way_is_tried_and_every_host_measured_on_each_network() {
    for hosts in [2, 3, 4, 7, 20] {
        let now = Instant::now();
        let (mut survey, asked) = begin(hosts, now);
        let all = conduct(&mut survey, asked, now, all_is_well);
        let (networks, found) = survey.result().expect("all is known");
        assert_eq!((networks.len(), found.len()), (NETWORKS, NETWORKS));
        assert_eq!(found[0].gigabytes_per_second(), Some(1.0));
        assert_eq!(found[1].gigabytes_per_second(), Some(5.0));
        let mut reached = HashSet::new();
        let mut measured = [HashSet::new(), HashSet::new()];
        for asked in &all {
            match &asked.question {
                Question::Reach { host, address } => {
                    assert!(reached.insert((asked.node, *host, *address)), "twice: {asked:?}");
                }
                Question::Way { host, address, .. } => {
                    let network = usize::from(address.to_string().starts_with("10.1."));
                    measured[network].extend([asked.node, *host as usize]);
                }
                _ => {}
            }
        }
        if hosts <= 8 {
            assert_eq!(reached.len(), NETWORKS * hosts * (hosts - 1), "{hosts}");
        }
        assert!(measured.iter().all(|of_network| of_network.len() == hosts), "{hosts}");
    }
}

#[test]
fn nobody_is_measured_in_two_ways_at_a_time() {
    for hosts in 2..=12 {
        let mut all = HashSet::new();
        for round in neighbours(hosts) {
            let mut busy = HashSet::new();
            for (a, b) in round {
                assert!(busy.insert(a) && busy.insert(b), "{hosts}");
                all.insert((a, b));
            }
        }
        assert_eq!(all.len(), if hosts == 2 { 1 } else { hosts }, "{hosts}");
    }
}

#[test]
fn a_network_with_a_way_that_leads_nowhere_is_out_and_the_other_is_not_measured() {
    let now = Instant::now();
    let (mut survey, asked) = begin(3, now);
    let all = conduct(&mut survey, asked, now, |asked| match &asked.question {
        Question::Reach { address, .. }
            if asked.node == 2 && address.to_string() == "10.0.0.2:7" =>
        {
            Answer::Reach(Err(ProbeError::Refused))
        }
        _ => all_is_well(asked),
    });
    let (_, found) = survey.result().expect("all is known");
    let problem = "h2 to h1 (10.0.0.2): the connection was refused";
    assert_eq!(found[0].problem.as_deref(), Some(problem));
    assert_eq!(found[1].problem, None);
    assert!(!all.iter().any(|asked| matches!(asked.question, Question::Way { .. })));
}

#[test]
fn what_has_no_answer_in_time_is_given_up() {
    let now = Instant::now();
    let (mut survey, asked) = begin(2, now);
    assert_eq!(survey.tick(now), []);
    // One host says nothing of its doors: nobody can knock there.
    survey.learn(asked[0].number, open(&asked[0]), now);
    let later = survey.give_up_at().expect("it waits");
    let asked = survey.tick(later);
    assert!(asked.iter().all(|asked| asked.node == 1), "{asked:?}");
    let latest = survey.give_up_at().expect("it waits");
    assert!(latest > later);
    assert_eq!(survey.tick(latest), []);
    let (_, found) = survey.result().expect("there is nothing left to try");
    assert!(found.iter().all(|found| found.problem.is_some()));
    assert_eq!(survey.give_up_at(), None);
    // What comes too late changes nothing.
    assert_eq!(survey.learn(1, Answer::Reach(Ok(())), latest), []);
}

#[test]
fn answers_that_make_no_sense_do_no_harm() {
    let now = Instant::now();
    let (mut survey, asked) = begin(2, now);
    let nothing = |_: &Asked| Answer::Nothing { reason: "no".into() };
    conduct(&mut survey, asked, now, nothing);
    assert!(survey.result().is_some());
    assert_eq!(survey.learn(77, Answer::Reach(Ok(())), now), []);
}
