use super::*;

#[test]
fn ranks_are_looked_at_before_they_are_stopped() {
    let mut job = Job::of(3);
    job.director.limits.examine = true;
    job.exit(2, Ending::Code(0));
    job.director.take_actions();
    job.pass(Duration::from_secs(100));
    assert_eq!(job.director.take_actions(), [Action::Examine]);
    let seen = |rank| Report::Stacks { rank, lines: vec!["sleeps".into()] };
    job.report(seen(1));
    job.pass(Duration::ZERO);
    assert_eq!(job.director.take_actions(), []);
    // Rank 0 ends before it was looked at: nothing is left to wait for.
    job.exit(0, Ending::Code(3));
    job.pass(Duration::ZERO);
    let actions = job.director.take_actions();
    assert!(matches!(actions[..], [Action::RankLost { .. }, Action::Stop]), "{actions:?}");
    job.report(seen(1));
    let outcome = job.finish();
    assert_eq!(outcome.exit_code(), ExitCode::TimedOut);
    let seen: Vec<_> = outcome.stacks.iter().map(|seen| (seen.rank, &seen.host[..])).collect();
    assert_eq!(seen, [(1, "node1")]);
}

#[test]
fn ranks_that_nobody_can_look_at_are_stopped_all_the_same() {
    let mut job = Job::of(1);
    job.director.limits.examine = true;
    assert!(job.director.examine(job.now), "an operation has timed out");
    assert!(!job.director.examine(job.now), "once is enough");
    job.exit(0, Ending::Code(1));
    job.settle();
    let actions = job.director.take_actions();
    assert!(matches!(actions[..], [Action::Examine, Action::RankLost { .. }, Action::Stop]));
    let mut job = Job::of(1);
    job.director.limits.examine = true;
    job.pass(Duration::from_secs(100));
    let until = job.director.deadline().expect("it does not wait for ever");
    job.pass(until - job.now);
    assert_eq!(job.director.take_actions(), [Action::Examine, Action::Stop]);
}
