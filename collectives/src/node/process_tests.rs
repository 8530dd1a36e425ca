//! Members in processes of their own, which find each other as ranks do.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use paceline_rendezvous::{RunId, Secret};
use paceline_transports::shm::ShmTransport;
use paceline_transports::{Checksum, Group, Patience, Transport};

use super::tests::{finish, inputs, reduced, request};
use super::*;
use paceline_devices::ReduceOp;

const MEMBERS: u32 = 3;

/// What each member does before the last one stops taking part.
const COUNTS: [usize; 6] = [1, 10, 11, 5_000, 40_001, 900_007];

fn group(rank: u32, transport: ShmTransport, addresses: &[Vec<u8>]) -> NodeGroup {
    let (run_id, secret) = (RunId::from_bytes([3; 16]), Secret::from_bytes([0x77; 32]));
    let group =
        Group { rank, run_id, epoch: 1, checksum: Checksum::None, secret: &secret, addresses };
    let members: Vec<u32> = (0..MEMBERS).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    let layout = arena_layout(MEMBERS);
    let node =
        transport.connect_node(&group, &members, Some(layout), &Patience::until(deadline)).unwrap();
    NodeGroup::new(node.arena.unwrap())
}

fn all_reduce(group: &mut NodeGroup, count: usize) -> Result<(), NodeError> {
    let all = inputs::<f32>(group.members(), count);
    let mut data = all[group.member()].clone();
    let target = data.as_mut_ptr();
    finish(group, request(NodeKind::AllReduce, ReduceOp::Sum, count, &data, target))?;
    assert!(data == reduced(&all, ReduceOp::Sum), "all_reduce of {count}");
    Ok(())
}

struct Member {
    process: Child,
    output: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Member {
    fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["node::process_tests::member_process", "--exact", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output }
    }

    /// The rest of its next line that starts with `word`; the test harness has its own to say.
    fn says(&mut self, word: &str) -> String {
        let marked = |line: String| line.split_once(word).map(|(_, rest)| rest.trim().to_owned());
        self.output.find_map(|line| marked(line.unwrap())).expect("the member has ended too early")
    }

    fn hears(&mut self, line: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn processes_reduce_together_and_survive_the_death_of_one() {
    let transport = ShmTransport::bind().unwrap();
    let mut others: Vec<Member> = (1..MEMBERS).map(|_| Member::start()).collect();
    let mut addresses = vec![transport.address()];
    addresses.extend(others.iter_mut().map(|member| member.says("address: ").into_bytes()));
    for (rank, member) in (1..).zip(&mut others) {
        member.hears(&format!("{rank}"));
        for address in &addresses {
            member.hears(&String::from_utf8_lossy(address));
        }
    }
    let mut group = group(0, transport, &addresses);
    for count in COUNTS {
        all_reduce(&mut group, count).unwrap();
    }
    // The last member does not come to the next operation, and dies. Nobody hears of that from the
    // memory: it is the engine that is told, and that gives up.
    let mut last = others.pop().unwrap();
    last.says("idle");
    last.process.kill().unwrap();
    last.process.wait().unwrap();
    let data = [1.0_f32; 100_000];
    let mut output = vec![0.0_f32; data.len()];
    let call = request(NodeKind::AllReduce, ReduceOp::Sum, data.len(), &data, output.as_mut_ptr());
    // SAFETY: the buffers live until the end of the test.
    let mut op = unsafe { group.start(call) }.unwrap();
    while op.step(&mut group).unwrap() != Progress::Waiting || op.waits_for() != Some(2) {
        op.park(&group, Duration::from_millis(1));
    }
    group.abort();
    assert_eq!(others[0].says("outcome: "), "member 0 of the node gave up during operation #6");
}

/// A member of the test above.
#[test]
#[ignore = "a process of another test"]
fn member_process() {
    let transport = ShmTransport::bind().unwrap();
    println!("address: {}", String::from_utf8_lossy(&transport.address()));
    let mut lines = BufReader::new(std::io::stdin()).lines();
    let mut line = || lines.next().expect("started by the test above").unwrap();
    let rank: u32 = line().parse().unwrap();
    let addresses: Vec<_> = (0..MEMBERS).map(|_| line().into_bytes()).collect();
    let mut group = group(rank, transport, &addresses);
    for count in COUNTS {
        all_reduce(&mut group, count).unwrap();
    }
    if rank == MEMBERS - 1 {
        println!("idle");
        // Until the test kills this process, or ends.
        let _ = lines.next();
        return;
    }
    println!("outcome: {}", all_reduce(&mut group, 100_000).unwrap_err());
}
