//! Status as text.

use std::time::Duration;

use paceline_benches::units::format_bytes;
use paceline_launcher::rank_ranges;
use paceline_rendezvous::activity::{Activity, PeerActivity};
use paceline_rendezvous::jobs::JobCard;
use paceline_rendezvous::status::{JobStatus, OperationStatus, RankPresence, RankStatus};

use crate::columns::align;

/// A rank that was not heard for so long is not known to be in what it was in: three heartbeats.
const SILENCE_MIN_MS: u64 = 3000;

/// Characters of a command line in the list of jobs.
const COMMAND_CHARS_MAX: usize = 60;

/// A time such as `0.3 s`, `42 s`, `12 min 31 s`, `3 h 12 min`, `5 d 3 h`.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min {} s", seconds / 60, seconds % 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn millis(ms: u64) -> String {
    span(Duration::from_millis(ms))
}

/// One row per job.
pub(super) fn jobs(rows: &[(String, &JobCard, String, Option<&JobStatus>)]) -> String {
    if rows.is_empty() {
        return "no job of this user runs on this host".to_owned();
    }
    let head = ["JOB", "RANKS", "SINCE", "PID", "STATE", "COMMAND"].map(str::to_owned);
    let row = |(job, card, age, status): &(String, &JobCard, String, Option<&JobStatus>)| {
        let state = match status {
            None => "no answer".to_owned(),
            Some(JobStatus { aborted: Some(_), .. }) => "ending".to_owned(),
            Some(status) if !status.stalls.is_empty() => "waiting".to_owned(),
            Some(status) => match absent(status).len() {
                0 => "running".to_owned(),
                missing => format!("{missing} not joined"),
            },
        };
        let (ranks, pid) = (card.world_size.to_string(), card.pid.to_string());
        [job.clone(), ranks, age.clone(), pid, state, cut(&card.command)]
    };
    let mut table = vec![head];
    table.extend(rows.iter().map(row));
    align(&table)
}

/// The beginning of a command line.
fn cut(command: &str) -> String {
    match command.char_indices().nth(COMMAND_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command.to_owned(),
    }
}

fn absent(status: &JobStatus) -> Vec<u32> {
    let absent = status.ranks.iter().filter(|rank| rank.presence == RankPresence::Absent);
    absent.map(|rank| rank.rank).collect()
}

/// Everything about one job, the verdict first.
pub(super) fn job(name: &str, card: &JobCard, age: &str, status: &JobStatus) -> String {
    let JobCard { world_size, pid, command, .. } = card;
    let mut text = format!("job {name}: {world_size} ranks since {age}, pid {pid}: {command}\n");
    text.push_str(&verdict(status));
    text.push_str("\n\n");
    text.push_str(&align(&ranks(status)));
    let peers = peers(status);
    if peers.len() > 1 {
        text.push('\n');
        text.push_str(&align(&peers));
    }
    let totals = totals(status);
    if totals.len() > 1 {
        text.push('\n');
        text.push_str(&align(&totals));
    }
    text
}

/// What is wrong, or that nothing is known to be.
fn verdict(status: &JobStatus) -> String {
    if let Some(abort) = &status.aborted {
        return format!("ENDING: {}", abort.reason);
    }
    if !status.stalls.is_empty() {
        let lines = status.stalls.iter().map(|stall| format!("WAITING: {stall}"));
        return lines.collect::<Vec<_>>().join("\n");
    }
    let absent = absent(status);
    if absent.is_empty() {
        return "ok: nobody waits for longer than a second".to_owned();
    }
    if absent.len() == status.ranks.len() {
        return "no rank has joined: the program does not use Paceline's collectives, or not yet"
            .to_owned();
    }
    let missing = which(&absent);
    format!("not joined yet: {missing}; of the others nobody waits for longer than a second")
}

/// `rank 3`, `ranks 0-2, 5`.
fn which(ranks: &[u32]) -> String {
    let word = if ranks.len() == 1 { "rank" } else { "ranks" };
    format!("{word} {}", rank_ranges(ranks))
}

fn ranks(status: &JobStatus) -> Vec<[String; 5]> {
    let head = ["RANK", "HOST", "PID", "HEARD", "IS IN"].map(str::to_owned);
    let mut table = vec![head];
    for rank in &status.ranks {
        // What a rank was in that is not heard any more is all that is known of it.
        let is_silent = rank.heard_ms.is_some_and(|ms| ms >= SILENCE_MIN_MS);
        let shown = |of: &OperationStatus| {
            if is_silent { format!("was in {}", named(of)) } else { operation(of) }
        };
        let mut doing: Vec<String> = rank.operations.iter().map(shown).collect();
        if doing.is_empty() {
            doing.push(idle(rank));
        }
        for (number, what) in doing.into_iter().enumerate() {
            let first = number == 0;
            let cell = |text: Option<String>| text.filter(|_| first).unwrap_or_default();
            table.push([
                cell(Some(rank.rank.to_string())),
                cell(rank.host.clone()),
                cell(rank.pid.map(|pid| pid.to_string())),
                cell(rank.heard_ms.map(|ms| format!("{} ago", millis(ms)))),
                what,
            ]);
        }
    }
    table
}

fn idle(rank: &RankStatus) -> String {
    match rank.presence {
        RankPresence::Absent => "has not joined".to_owned(),
        RankPresence::Left => "has left".to_owned(),
        RankPresence::Lost => "was lost".to_owned(),
        _ => {
            let latest = rank.progress.iter().map(|standing| standing.entered).max();
            match latest {
                Some(entered) => format!("no operation ({entered} entered)"),
                None => "no operation".to_owned(),
            }
        }
    }
}

fn named(operation: &OperationStatus) -> String {
    match operation.underway.bytes {
        0 => operation.label.clone(),
        bytes => format!("{}, {}", operation.label, format_bytes(bytes)),
    }
}

fn operation(operation: &OperationStatus) -> String {
    let mut text = format!("{}, for {}", named(operation), millis(operation.underway.for_ms));
    if let Some(waits_for) = operation.waits_for.as_ref().filter(|ranks| !ranks.is_empty()) {
        text.push_str(&format!(", waits for {}", which(waits_for)));
    }
    text
}

fn peers(status: &JobStatus) -> Vec<[String; 6]> {
    let head = ["RANK", "PEER", "VIA", "SENT", "RECEIVED", "LAST MOVED"].map(str::to_owned);
    let mut table = vec![head];
    for rank in &status.ranks {
        for (context, peer) in with_context(rank, |activity| &activity.peers) {
            let moved = |of: paceline_rendezvous::activity::Moved| {
                format!("{} in {}", format_bytes(of.payload_bytes), of.messages)
            };
            let PeerActivity { peer, transport, sent, received, idle_ms } = peer;
            let via = match context {
                0 => transport.clone(),
                context => format!("{transport}, context {context}"),
            };
            table.push([
                rank.rank.to_string(),
                peer.to_string(),
                via,
                moved(*sent),
                moved(*received),
                idle_ms.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", millis(ms))),
            ]);
        }
    }
    table
}

fn totals(status: &JobStatus) -> Vec<[String; 5]> {
    let head = ["RANK", "COMPLETED", "VIA", "OPERATIONS", "BYTES"].map(str::to_owned);
    let mut table = vec![head];
    for rank in &status.ranks {
        for (_, total) in with_context(rank, |activity| &activity.totals) {
            let via = if total.shared_memory { "shared memory" } else { "messages" };
            table.push([
                rank.rank.to_string(),
                total.kind.clone(),
                via.to_owned(),
                total.operations.to_string(),
                format_bytes(total.bytes),
            ]);
        }
    }
    table
}

fn with_context<'a, T: 'a>(
    rank: &'a RankStatus,
    part: impl Fn(&'a Activity) -> &'a Vec<T> + 'a,
) -> impl Iterator<Item = (u32, &'a T)> {
    let contexts = rank.contexts.iter();
    contexts.flat_map(move |activity| part(activity).iter().map(|item| (activity.context, item)))
}

#[cfg(test)]
mod tests {
    use paceline_rendezvous::activity::{Moved, OperationTotal, Underway};
    use paceline_rendezvous::status::Standing;
    use paceline_rendezvous::{RunId, Secret};

    use super::*;

    fn rank(rank: u32, operations: Vec<OperationStatus>) -> RankStatus {
        let moved = |messages, payload_bytes| Moved { messages, payload_bytes, wire_bytes: 0 };
        let peer = PeerActivity {
            peer: 1 - rank,
            transport: "tcp".to_owned(),
            sent: moved(3, 3 << 20),
            received: moved(2, 1000),
            idle_ms: Some(31_200),
        };
        let total = OperationTotal {
            kind: "all_reduce".to_owned(),
            shared_memory: false,
            operations: 412,
            bytes: 412 << 20,
        };
        RankStatus {
            rank,
            presence: RankPresence::Present,
            host: Some("node1".to_owned()),
            pid: Some(100 + rank),
            heard_ms: Some(300),
            progress: vec![Standing { context: 0, communicator: 0, entered: 412 }],
            operations,
            contexts: vec![Activity {
                peers: vec![peer],
                totals: vec![total],
                ..Activity::default()
            }],
        }
    }

    fn stuck() -> JobStatus {
        let underway = Underway {
            communicator: 0,
            op_seq: 412,
            kind: "all_reduce".to_owned(),
            bytes: 1 << 20,
            for_ms: 31_000,
        };
        let label = "all_reduce #412".to_owned();
        let waits_for = Some(vec![1]);
        let operation = OperationStatus { context: 0, label, underway, waits_for };
        JobStatus {
            world_size: 2,
            epoch: 0,
            aborted: None,
            stalls: vec!["all_reduce #412: rank 1 never entered; rank 0 waits".to_owned()],
            ranks: vec![rank(0, vec![operation]), rank(1, Vec::new())],
        }
    }

    fn card() -> JobCard {
        let (address, secret) = (([127, 0, 0, 1], 9).into(), Secret::from_bytes([1; 32]));
        let card = JobCard::new(RunId::from_bytes([7; 16]), address, secret, 2, "train.py");
        JobCard { pid: 99, ..card }
    }

    #[test]
    fn a_stuck_job_says_who_keeps_whom() {
        let expected = "\
job 0707: 2 ranks since 5.0 s, pid 99: train.py
WAITING: all_reduce #412: rank 1 never entered; rank 0 waits

RANK  HOST   PID  HEARD      IS IN
0     node1  100  0.3 s ago  all_reduce #412, 1 MiB, for 31 s, waits for rank 1
1     node1  101  0.3 s ago  no operation (412 entered)

RANK  PEER  VIA  SENT        RECEIVED    LAST MOVED
0     1     tcp  3 MiB in 3  1000 B in 2  31 s ago
1     0     tcp  3 MiB in 3  1000 B in 2  31 s ago

RANK  COMPLETED   VIA       OPERATIONS  BYTES
0     all_reduce  messages  412         412 MiB
1     all_reduce  messages  412         412 MiB
"
        .replace("RECEIVED    LAST", "RECEIVED     LAST");
        assert_eq!(job("0707", &card(), "5.0 s", &stuck()), expected);
    }

    #[test]
    fn jobs_are_listed_with_their_state() {
        let card = card();
        let waiting = stuck();
        let running = JobStatus { stalls: Vec::new(), ..stuck() };
        let rows = [Some(&waiting), Some(&running), None]
            .map(|status| ("0707".to_owned(), &card, "42 s".to_owned(), status));
        let expected = "\
JOB   RANKS  SINCE  PID  STATE      COMMAND
0707  2      42 s   99   waiting    train.py
0707  2      42 s   99   running    train.py
0707  2      42 s   99   no answer  train.py
";
        assert_eq!(jobs(&rows), expected);
        assert!(verdict(&running).starts_with("ok: "));
    }

    #[test]
    fn spans() {
        let all = [(0, "0.0 s"), (9, "9.0 s"), (42, "42 s"), (751, "12 min 31 s")];
        let long = [(11_520, "3 h 12 min"), (442_800, "5 d 3 h")];
        for (seconds, text) in all.into_iter().chain(long) {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
