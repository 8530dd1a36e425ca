use std::os::unix::ffi::OsStringExt;

use paceline_rendezvous::Fraction;

use super::*;
use crate::program::Program;
use crate::protocol::codec::{Decoder, PREAMBLE};

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = Decoder::default();
    decoder.push(&PREAMBLE);
    decoder.push(bytes);
    std::iter::from_fn(|| decoder.next().expect("well formed")).collect()
}

#[test]
fn orders_survive_the_wire_with_arguments_that_are_not_text() {
    let odd = OsString::from_vec(vec![0xff, b'a', 0xfe]);
    let orders = [
        Order::Secret(Zeroizing::new(vec![1; 32])),
        Order::Start(Box::new(AgentConfig {
            tasks: vec![Task {
                variables: vec![("B".into(), odd.clone())],
                ..Task::new(Program::Command("train.py".into()), vec!["--flag".into(), odd.clone()])
            }],
            working_directory: "/tmp/".into(),
            variables: vec![("A".into(), odd)],
            default_variables: vec![],
            divide_cores: true,
            ranks: vec![RankConfig {
                rank: 3,
                has_input: true,
                task: 0,
                device: Some(RankDevice::new("0".into(), Fraction::WHOLE)),
                variables: vec![("R".into(), "3".into())],
            }],
            wrapper: "numactl --".parse().ok(),
            bind_to: BindTo::Numa,
            gpu_visibility: GpuVisibility::Rank,
            tensorflow: vec![SocketAddr::from(([10, 0, 0, 1], 20_002))],
            grace: Duration::from_millis(1500),
            is_remote: true,
        })),
        Order::Signal(10),
        Order::Stop,
        Order::Kill,
        Order::Ping,
        Order::Describe { ports: 2 },
        Order::Examine { number: 3, question: Question::Clock },
        Order::TellStacks,
        Order::Tunnel { connection: 7, piece: Piece::Data(vec![0, 1]) },
        Order::Grant { rank: 1, stream: Stream::Stderr, bytes: 9 },
        Order::Input { rank: 1, bytes: vec![255, 0] },
        Order::Input { rank: 1, bytes: vec![] },
    ];
    let mut bytes = Vec::new();
    for order in &orders {
        order.encode(&mut bytes).expect("small");
    }
    let back: Vec<Order> =
        frames(&bytes).iter().map(|frame| Order::decode(frame).expect("valid")).collect();
    assert_eq!(back, orders);
}

#[test]
fn reports_survive_the_wire() {
    let exit = RankExit {
        rank: 2,
        pid: 77,
        ending: Ending::Signal(9),
        ran: Duration::from_millis(12_345),
        usage: ResourceUsage::default(),
        out_of_memory: Some(OutOfMemory {
            cgroup: "/".into(),
            limit_file: "memory.max".into(),
            limit_bytes: Some(7),
        }),
    };
    let process = ProcessName { pid: 5, name: "sleep".into() };
    let reports = [
        Report::Ready { pid: 4, host: "node1".into() },
        Report::Refused(Refusal::NotFound { program: "nope".into(), host: "node1".into() }),
        Report::Alive,
        Report::Facts(Box::new(AgentFacts::gather(2))),
        Report::Examined { number: 3, answer: Answer::Clock { heard: 1 << 60, answered: 7 } },
        Report::Tunnel { connection: 1 << 30, piece: Piece::Taken(77) },
        Report::Started { rank: 2, pid: 77, cpus: Some("0-3".into()) },
        Report::Output { rank: 2, stream: Stream::Stderr, bytes: vec![0, 255, 10] },
        Report::Closed { rank: 2, stream: Stream::Stdout },
        Report::InputTaken { rank: 2 },
        Report::Exited(exit),
        Report::Stacks { rank: 2, lines: vec!["thread 7".into()] },
        Report::Interrupted { signal: 15 },
        Report::LeftBehind(vec![LeftBehind { rank: Some(1), process: process.clone() }]),
        Report::Finished { survivors: vec![LeftRunning { rank: None, process, state: 'D' }] },
    ];
    let mut bytes = Vec::new();
    for report in &reports {
        report.encode(&mut bytes).expect("small");
    }
    let back: Vec<Report> =
        frames(&bytes).into_iter().map(|frame| Report::decode(frame).expect("valid")).collect();
    assert_eq!(back, reports);
}

#[test]
fn unknown_types_and_short_bodies_are_refused() {
    assert!(Order::decode(&Frame { kind: 99, body: vec![] }).is_err());
    assert!(Report::decode(Frame { kind: kind::OUTPUT, body: vec![0; 4] }).is_err());
    assert!(Report::decode(Frame { kind: kind::OUTPUT, body: vec![0, 0, 0, 0, 7] }).is_err());
    assert!(Report::decode(Frame { kind: kind::TUNNEL_UP, body: vec![0; 4] }).is_err());
    assert!(Report::decode(Frame { kind: kind::EXITED, body: b"{}".to_vec() }).is_err());
}
