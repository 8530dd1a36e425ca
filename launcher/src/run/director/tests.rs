mod examination;

use super::ending::UNREACHED_TIME;
use super::*;
use crate::ExitCode;
use crate::process::descendants::ProcessName;
use crate::process::wait::{Ending, ResourceUsage};
use crate::protocol::messages::LeftRunning;
use crate::refusal::Refusal;
use crate::run::outcome::{Outcome, RankOutcome};

const LIMITS: Limits = Limits {
    grace: Duration::from_secs(10),
    timeout: Some(Duration::from_secs(100)),
    start_timeout: Duration::from_secs(30),
    examine: false,
};

struct Job {
    director: Director,
    now: Instant,
}

impl Job {
    fn of(ranks: u32) -> Self {
        let now = Instant::now();
        let nodes = [("node1".to_owned(), (0..ranks).collect())];
        let mut job = Self { director: Director::new(&nodes, LIMITS, now), now };
        job.report(Report::Ready { pid: 50, host: "node1".to_owned() });
        for rank in 0..ranks {
            job.report(Report::Started { rank, pid: 100, cpus: None });
        }
        job
    }

    fn report(&mut self, report: Report) {
        self.director.report(0, report, self.now);
    }

    fn exit(&mut self, rank: u32, ending: Ending) {
        let usage = ResourceUsage::default();
        self.report(Report::Exited(RankExit {
            rank,
            pid: 100,
            ending,
            ran: self.now - self.director.began,
            usage,
            out_of_memory: None,
        }));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.director.tick(self.now);
    }

    fn settle(&mut self) {
        self.pass(SETTLE_TIME);
    }

    fn finish(mut self) -> Outcome {
        self.report(Report::Finished { survivors: vec![] });
        assert!(self.director.is_over());
        self.director.finish()
    }
}

fn first_failure(outcome: &Outcome) -> u32 {
    match &outcome.verdict {
        Verdict::RankFailed(failure) => failure.exit.rank,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_zero_is_success_however_far_apart() {
    let mut job = Job::of(2);
    job.exit(0, Ending::Code(0));
    job.pass(Duration::from_secs(60));
    job.exit(1, Ending::Code(0));
    let actions = job.director.take_actions();
    assert!(actions.iter().all(|action| matches!(action, Action::RankLost { .. })), "{actions:?}");
    assert_eq!(job.finish().exit_code(), ExitCode::Success);
}

#[test]
fn the_first_failure_stops_the_rest_and_gives_the_code() {
    let mut job = Job::of(3);
    job.director.error_output(2, b"Traceback\nboom\n");
    job.exit(2, Ending::Code(7));
    job.settle();
    let actions = job.director.take_actions();
    assert!(matches!(actions[..], [Action::RankLost { rank: 2, .. }, Action::Stop]), "{actions:?}");
    job.exit(0, Ending::Signal(15));
    job.exit(1, Ending::Code(1));
    let outcome = job.finish();
    assert_eq!(outcome.exit_code(), ExitCode::Worker(7));
    assert!(matches!(outcome.ranks[0], RankOutcome::Stopped(_)));
    assert!(matches!(outcome.ranks[1], RankOutcome::Stopped(_)));
    let Verdict::RankFailed(failure) = &outcome.verdict else { panic!("{outcome:?}") };
    assert_eq!(failure.last_lines, ["Traceback", "boom"]);
}

#[test]
fn a_later_failure_within_the_settling_time_is_a_consequence() {
    let mut job = Job::of(2);
    job.exit(1, Ending::Signal(9));
    job.exit(0, Ending::Code(1));
    job.settle();
    let outcome = job.finish();
    assert_eq!(first_failure(&outcome), 1);
    assert_eq!(outcome.exit_code().code(), 137);
    assert!(matches!(outcome.ranks[0], RankOutcome::FailedAfter(_)));
}

#[test]
fn the_coordinator_may_know_better_who_was_first() {
    let mut job = Job::of(2);
    job.exit(0, Ending::Code(1));
    job.exit(1, Ending::Signal(11));
    job.director.aborted(Some(1), "rank 1 was killed".into());
    job.settle();
    assert_eq!(first_failure(&job.finish()), 1);
}

#[test]
fn a_rank_that_left_early_is_named_but_does_not_decide() {
    let mut job = Job::of(2);
    (0..2).for_each(|rank| job.director.rank_joined(rank));
    job.exit(1, Ending::Code(0));
    job.director.aborted(Some(1), "rank 1 exited with code 0".into());
    job.exit(0, Ending::Code(4));
    job.settle();
    let outcome = job.finish();
    let Verdict::RankFailed(failure) = &outcome.verdict else { panic!("{outcome:?}") };
    assert_eq!(failure.exit.rank, 0);
    assert_eq!(failure.cause.as_deref(), Some("rank 1 exited with code 0"));
}

#[test]
fn what_a_rank_was_not_told_is_no_cause() {
    for has_left in [false, true] {
        let mut job = Job::of(2);
        if has_left {
            job.director.rank_joined(0);
            job.director.rank_left(0);
        }
        job.exit(1, Ending::Code(0));
        job.director.aborted(Some(1), "rank 1 exited with code 0".into());
        job.exit(0, Ending::Code(4));
        job.settle();
        let Verdict::RankFailed(failure) = job.finish().verdict else { panic!("rank 0 failed") };
        assert_eq!((failure.exit.rank, failure.cause), (0, None));
    }
}

#[test]
fn everybody_failing_at_once_needs_no_stop() {
    let mut job = Job::of(2);
    job.exit(0, Ending::Code(5));
    job.exit(1, Ending::Code(6));
    let outcome = job.finish();
    assert_eq!(outcome.exit_code(), ExitCode::Worker(5));
}

#[test]
fn interrupts_stop_then_kill_and_agents_that_hang_are_abandoned() {
    let mut job = Job::of(2);
    job.director.interrupt(2, job.now);
    assert_eq!(job.director.take_actions(), [Action::Stop]);
    job.director.interrupt(2, job.now);
    assert_eq!(job.director.take_actions(), [Action::Kill]);
    job.pass(AGENT_OVERTIME);
    assert_eq!(job.director.take_actions(), [Action::AbandonAgents]);
    job.director.interrupt(2, job.now);
    assert_eq!(job.director.take_actions(), []);
    job.exit(0, Ending::Signal(9));
    assert_eq!(job.finish().exit_code().code(), 130);
}

#[test]
fn a_third_interrupt_does_not_wait_for_the_agents() {
    let mut job = Job::of(1);
    (0..3).for_each(|_| job.director.interrupt(2, job.now));
    let expected = [Action::Stop, Action::Kill, Action::AbandonAgents];
    assert_eq!(job.director.take_actions(), expected);
}

#[test]
fn a_second_interrupt_does_not_give_agents_more_time() {
    let mut job = Job::of(1);
    job.director.interrupt(15, job.now);
    let abandon_at = job.director.deadline();
    job.pass(LIMITS.grace + AGENT_OVERTIME / 2);
    job.director.interrupt(15, job.now);
    assert_eq!(job.director.deadline(), abandon_at);
}

/// The sentences among what is to be done.
fn said(actions: Vec<Action>) -> Vec<String> {
    let said = actions.into_iter().filter_map(|action| match action {
        Action::Say(text) => Some(text),
        _ => None,
    });
    said.collect()
}

#[test]
fn an_agent_that_does_not_answer_is_named_once_and_not_waited_for() {
    let mut job = Job::of(1);
    (0..9).for_each(|_| job.director.ping());
    let told = said(job.director.take_actions());
    let expected =
        "the agent on node1 (pid 50) has not answered for 8 s: it is stopped, or out of reach";
    assert_eq!(told, [expected]);
    // The job goes on, until it is to end.
    assert!(!job.director.is_over());
    job.director.interrupt(15, job.now);
    job.director.ping();
    let actions = job.director.take_actions();
    assert_eq!(actions, [Action::Stop, Action::Ping, Action::AbandonAgents]);
}

#[test]
fn an_agent_that_answers_again_is_waited_for() {
    let mut job = Job::of(1);
    (0..9).for_each(|_| job.director.ping());
    job.director.take_actions();
    job.report(Report::Alive);
    assert_eq!(said(job.director.take_actions()), ["the agent on node1 (pid 50) answers again"]);
    job.director.interrupt(15, job.now);
    (0..4).for_each(|_| {
        job.director.ping();
        job.report(Report::Alive);
    });
    let actions = job.director.take_actions();
    assert!(!actions.contains(&Action::AbandonAgents), "{actions:?}");
}

#[test]
fn who_never_said_anything_is_not_silent() {
    let now = Instant::now();
    let mut director = Director::new(&[("a".to_owned(), vec![0])], LIMITS, now);
    (0..99).for_each(|_| director.ping());
    assert_eq!(said(director.take_actions()), [""; 0]);
}

#[test]
fn a_failure_while_stopping_does_not_change_the_verdict() {
    let mut job = Job::of(2);
    job.director.interrupt(15, job.now);
    job.exit(0, Ending::Code(3));
    job.pass(SETTLE_TIME);
    assert_eq!(job.finish().exit_code().code(), 143);
}

#[test]
fn time_runs_out() {
    let mut job = Job::of(1);
    assert_eq!(job.director.deadline(), Some(job.director.began + Duration::from_secs(100)));
    job.pass(Duration::from_secs(100));
    assert_eq!(job.director.take_actions(), [Action::Stop]);
    assert_eq!(job.finish().exit_code(), ExitCode::TimedOut);
}

#[test]
fn a_start_that_takes_too_long_names_the_host() {
    let now = Instant::now();
    let nodes = [("a".to_owned(), vec![0]), ("b".to_owned(), vec![1])];
    let mut director = Director::new(&nodes, LIMITS, now);
    director.report(0, Report::Ready { pid: 8, host: "a".into() }, now);
    director.report(0, Report::Started { rank: 0, pid: 9, cpus: None }, now);
    director.tick(now + LIMITS.start_timeout);
    // Nothing runs where nobody has answered; the other agent ends its ranks in good order.
    assert_eq!(director.take_actions(), [Action::Stop, Action::KillAgent { node: 1 }]);
    let outcome = director.finish();
    let late = LateHost { host: "b".into(), has_agent: false };
    let expected = Verdict::StartTimedOut { limit: LIMITS.start_timeout, hosts: vec![late] };
    assert_eq!(outcome.verdict, expected);
    assert!(matches!(outcome.ranks[..], [RankOutcome::Unknown, RankOutcome::NotStarted]));
}

#[test]
fn all_hosts_that_cannot_be_reached_are_named_together() {
    let now = Instant::now();
    let nodes = ["a", "b", "c"].map(|host| (host.to_owned(), vec![]));
    let mut director = Director::new(&nodes, LIMITS, now);
    director.report(0, Report::Ready { pid: 8, host: "a".into() }, now);
    let fail = |director: &mut Director, node, word: &str| {
        let words = vec![word.to_owned()];
        director.agent_lost(node, None, Some(Ending::Code(255)), None, words, now);
    };
    fail(&mut director, 2, "refused");
    director.tick(now);
    assert_eq!(director.take_actions(), [], "others may follow");
    fail(&mut director, 1, "unknown");
    director.tick(now + UNREACHED_TIME);
    assert_eq!(director.take_actions(), [Action::Stop]);
    director.report(0, Report::Finished { survivors: vec![] }, now);
    assert!(director.is_over());
    let outcome = director.finish();
    assert_eq!(outcome.exit_code(), ExitCode::LauncherFailed);
    let Verdict::Unreached(hosts) = outcome.verdict else { panic!("{outcome:?}") };
    let hosts: Vec<_> = hosts.iter().map(|host| (&host.host[..], &host.words[0][..])).collect();
    assert_eq!(hosts, [("b", "unknown"), ("c", "refused")]);
}

#[test]
fn a_lost_agent_and_a_refusal_have_codes_of_their_own() {
    let mut job = Job::of(2);
    job.director.agent_lost(0, Some(50), Some(Ending::Signal(9)), None, vec![], job.now);
    assert!(job.director.is_over());
    let lost = job.director.take_actions();
    assert_eq!(lost.iter().filter(|a| matches!(a, Action::RankLost { .. })).count(), 2);
    let process = ProcessName { pid: 1234, name: "stuck".into() };
    for rank in [Some(1), None] {
        let left = LeftRunning { rank, process: process.clone(), state: 'D' };
        job.director.survived(left, "node1".into());
    }
    let outcome = job.director.finish();
    assert_eq!(outcome.exit_code(), ExitCode::LauncherFailed);
    assert_eq!(outcome.survivors.len(), 1);

    let mut job = Job::of(1);
    let host = "node1".to_owned();
    job.report(Report::Refused(Refusal::NotFound { program: "x".into(), host }));
    assert_eq!(job.finish().exit_code(), ExitCode::NotFound);
}

#[test]
fn unknown_ranks_are_ignored() {
    let mut job = Job::of(1);
    job.exit(7, Ending::Code(1));
    job.settle();
    job.exit(0, Ending::Code(0));
    assert_eq!(job.finish().exit_code(), ExitCode::Success);
}

#[test]
fn ranks_need_not_be_numbered_host_by_host() {
    let now = Instant::now();
    let nodes = [("a".to_owned(), vec![0, 2]), ("b".to_owned(), vec![1])];
    let director = Director::new(&nodes, LIMITS, now);
    let nodes: Vec<_> = (0..4).map(|rank| director.node_of(rank)).collect();
    assert_eq!(nodes, [Some(0), Some(1), Some(0), None]);
}

#[test]
fn what_happens_is_told_in_order() {
    let mut job = Job::of(2);
    (0..9).for_each(|_| job.director.ping());
    job.director.stalled("rank 1 never entered".into());
    job.exit(1, Ending::Code(7));
    job.settle();
    let process = ProcessName { pid: 5, name: "sleep".into() };
    job.report(Report::LeftBehind(vec![LeftBehind { rank: Some(1), process }]));
    job.exit(0, Ending::Signal(15));
    let host = || "node1".to_owned();
    let usage = ResourceUsage::default();
    let exited = |rank, ending, ran| {
        let exit = RankExit { rank, pid: 100, ending, ran, usage, out_of_memory: None };
        JobEvent::rank_exited(&exit, host())
    };
    let reason = "rank 1 (pid 100 on node1) exited with code 7 after 0.0 s".to_owned();
    let expected = [
        JobEvent::AgentUp { host: host(), pid: 50 },
        JobEvent::RankStarted { rank: 0, host: host(), pid: 100, cpus: None },
        JobEvent::RankStarted { rank: 1, host: host(), pid: 100, cpus: None },
        JobEvent::HostSilent { host: host() },
        JobEvent::Stalled { text: "rank 1 never entered".into() },
        JobEvent::HostAnswers { host: host() },
        exited(1, Ending::Code(7), Duration::ZERO),
        JobEvent::Stopping { reason: reason.clone() },
        JobEvent::LeftBehind { host: host(), rank: Some(1), pid: 5, name: "sleep".into() },
        exited(0, Ending::Signal(15), SETTLE_TIME),
    ];
    assert_eq!(job.director.take_events(), expected);
    let finished = JobEvent::Finished { code: 7, reason, failed_rank: Some(1) };
    assert_eq!(JobEvent::finished(&job.finish()), finished);
}
