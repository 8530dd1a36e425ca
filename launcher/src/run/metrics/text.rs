//! What is known of a job, in Prometheus' text format.

use std::fmt::{Display, Write as _};

use paceline_rendezvous::activity::{Activity, PeerActivity};
use paceline_rendezvous::status::{JobStatus, RankPresence, RankStatus};

/// Everything, one family of metrics after the other.
pub(super) fn metrics(status: &JobStatus) -> String {
    let mut page = Page::default();
    page.family("ranks", "gauge", "Ranks of the job.");
    page.sample("ranks", &[], status.world_size);
    let what = "Operations that a rank waits in and in which something is wrong or nothing moves.";
    page.family("stalls", "gauge", what);
    page.sample("stalls", &[], status.stalls.len());
    ranks(&mut page, &status.ranks);
    operations(&mut page, &status.ranks);
    peers(&mut page, &status.ranks);
    page.0
}

fn ranks(page: &mut Page, ranks: &[RankStatus]) {
    page.family("rank_present", "gauge", "Whether the rank is connected to the coordinator.");
    for rank in ranks {
        let present = u8::from(rank.presence == RankPresence::Present);
        page.sample("rank_present", &[("rank", &rank.rank)], present);
    }
    page.family("rank_heard_seconds", "gauge", "Time since the rank was heard last.");
    for rank in ranks {
        if let Some(ms) = rank.heard_ms {
            page.sample("rank_heard_seconds", &[("rank", &rank.rank)], Seconds(ms));
        }
    }
    page.family("waited_seconds_total", "counter", "Time in which operations waited for others.");
    for (rank, activity) in contexts(ranks) {
        let labels: [(&str, &dyn Display); 2] = [("rank", &rank), ("context", &activity.context)];
        page.sample("waited_seconds_total", &labels, Seconds(activity.waited_ms));
    }
    let what = "Time that the rank has been in an operation that it has not left, at least.";
    page.family("operation_in_progress_seconds", "gauge", what);
    for rank in ranks {
        for operation in &rank.operations {
            let underway = &operation.underway;
            let labels: [(&str, &dyn Display); 4] = [
                ("rank", &rank.rank),
                ("context", &operation.context),
                ("communicator", &underway.communicator),
                ("operation", &underway.kind),
            ];
            page.sample("operation_in_progress_seconds", &labels, Seconds(underway.for_ms));
        }
    }
}

fn operations(page: &mut Page, ranks: &[RankStatus]) {
    let families = [
        ("operations_total", "Operations that the rank has completed."),
        ("operation_bytes_total", "Bytes of the vectors of completed operations."),
    ];
    for (name, help) in families {
        page.family(name, "counter", help);
        for (rank, activity) in contexts(ranks) {
            for total in &activity.totals {
                let via = if total.shared_memory { "shared_memory" } else { "messages" };
                let labels: [(&str, &dyn Display); 4] = [
                    ("rank", &rank),
                    ("context", &activity.context),
                    ("operation", &total.kind),
                    ("via", &via),
                ];
                let is_count = name == "operations_total";
                page.sample(name, &labels, if is_count { total.operations } else { total.bytes });
            }
        }
    }
}

/// The name of a family, its help, and which number it is about.
type Family = (&'static str, &'static str, fn(&paceline_rendezvous::activity::Moved) -> u64);

fn peers(page: &mut Page, ranks: &[RankStatus]) {
    let families: [Family; 3] = [
        ("peer_messages_total", "Messages between two ranks.", |moved| moved.messages),
        ("peer_payload_bytes_total", "Their bytes, without headers.", |moved| moved.payload_bytes),
        ("peer_wire_bytes_total", "All bytes on their connection.", |moved| moved.wire_bytes),
    ];
    for (name, help, value) in families {
        page.family(name, "counter", help);
        for (rank, activity) in contexts(ranks) {
            for peer in &activity.peers {
                for (direction, moved) in [("sent", &peer.sent), ("received", &peer.received)] {
                    let labels = peer_labels(&rank, activity, peer);
                    let direction: (&str, &dyn Display) = ("direction", &direction);
                    page.sample(name, &[&labels[..], &[direction]].concat(), value(moved));
                }
            }
        }
    }
    let what = "Time since something was seen to move on the connection.";
    page.family("peer_idle_seconds", "gauge", what);
    for (rank, activity) in contexts(ranks) {
        for peer in &activity.peers {
            if let Some(ms) = peer.idle_ms {
                page.sample("peer_idle_seconds", &peer_labels(&rank, activity, peer), Seconds(ms));
            }
        }
    }
}

fn peer_labels<'a>(
    rank: &'a u32,
    activity: &'a Activity,
    peer: &'a PeerActivity,
) -> [(&'static str, &'a dyn Display); 4] {
    [
        ("rank", rank),
        ("context", &activity.context),
        ("peer", &peer.peer),
        ("transport", &peer.transport),
    ]
}

fn contexts(ranks: &[RankStatus]) -> impl Iterator<Item = (u32, &Activity)> {
    let of = |rank: &'_ RankStatus| rank.rank;
    ranks.iter().flat_map(move |rank| rank.contexts.iter().map(move |context| (of(rank), context)))
}

/// Milliseconds, shown as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP paceline_{name} {help}\n# TYPE paceline_{name} {kind}")
            .expect("writing to a String cannot fail");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.0.push_str("paceline_");
        self.0.push_str(name);
        for (number, (label, text)) in labels.iter().enumerate() {
            self.0.push(if number == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            for character in text.to_string().chars() {
                match character {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        writeln!(self.0, " {value}").expect("writing to a String cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use paceline_rendezvous::activity::{Moved, OperationTotal};

    use super::*;

    #[test]
    fn families_are_announced_and_labels_escaped() {
        let moved = Moved { messages: 1, payload_bytes: 20, wire_bytes: 84 };
        let peer = PeerActivity {
            peer: 1,
            transport: "a\"b\\c\nd".to_owned(),
            sent: moved,
            received: Moved::default(),
            idle_ms: Some(1500),
        };
        let total = OperationTotal {
            kind: "all_reduce".to_owned(),
            shared_memory: true,
            operations: 3,
            bytes: 12,
        };
        let activity = Activity {
            peers: vec![peer],
            totals: vec![total],
            waited_ms: 42,
            ..Activity::default()
        };
        let rank = RankStatus {
            rank: 0,
            presence: RankPresence::Present,
            host: None,
            pid: None,
            heard_ms: Some(7),
            progress: Vec::new(),
            operations: Vec::new(),
            contexts: vec![activity],
        };
        let (aborted, stalls, ranks) = (None, Vec::new(), vec![rank]);
        let status = JobStatus { world_size: 1, epoch: 0, aborted, stalls, ranks };
        let text = metrics(&status);
        for line in [
            "# TYPE paceline_ranks gauge",
            "paceline_ranks 1",
            "paceline_rank_present{rank=\"0\"} 1",
            "paceline_rank_heard_seconds{rank=\"0\"} 0.007",
            "paceline_waited_seconds_total{rank=\"0\",context=\"0\"} 0.042",
            "paceline_operations_total{rank=\"0\",context=\"0\",operation=\"all_reduce\",\
             via=\"shared_memory\"} 3",
            "paceline_peer_wire_bytes_total{rank=\"0\",context=\"0\",peer=\"1\",\
             transport=\"a\\\"b\\\\c\\nd\",direction=\"sent\"} 84",
            "paceline_peer_idle_seconds{rank=\"0\",context=\"0\",peer=\"1\",\
             transport=\"a\\\"b\\\\c\\nd\"} 1.500",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        // Every sample belongs to the family that was announced last.
        let mut family = String::new();
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(announced) => announced.split(' ').next().unwrap().clone_into(&mut family),
                None if line.starts_with('#') => {}
                None => assert!(line.starts_with(&family), "{line} is not of {family}"),
            }
        }
    }
}
