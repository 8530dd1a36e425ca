//! Standard input.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use crate::support::Job;

/// A pipe that gives a megabyte and then ends.
fn megabyte() -> (std::io::PipeReader, thread::JoinHandle<()>) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let write = move || {
        let line = b"0123456789abcde\n";
        for _ in 0..(1 << 20) / line.len() {
            writer.write_all(line).expect("it is read");
        }
    };
    (reader, thread::Builder::new().spawn(write).expect("a thread starts"))
}

#[test]
fn nobody_touches_it_by_default() {
    // The shell's loop must read every line although paceline runs inside of it.
    let paceline = env!("CARGO_BIN_EXE_paceline");
    let script = format!(
        "printf '1\\n2\\n3\\n' |
         while read line; do {paceline} run -np 2 -q --no-prefix cat; echo $line; done"
    );
    let output =
        Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().expect("sh runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n2\n3\n");
}

#[test]
fn one_rank_gets_all_of_it_and_its_end() {
    let (reader, writer) = megabyte();
    let job = Job::script(&["-np", "3", "--stdin", "1"], "wc -c").stdin(reader).run();
    assert_eq!(job.sorted_lines(), ["[0] 0", "[1] 1048576", "[2] 0"]);
    writer.join().expect("all was taken");
}

#[test]
fn all_ranks_get_the_same() {
    let (reader, writer) = megabyte();
    let job = Job::script(&["-np", "3", "--stdin", "all"], "md5sum").stdin(reader).run();
    let lines = job.sorted_lines();
    assert_eq!(lines.len(), 3, "{}", job.stderr);
    assert!(lines.iter().all(|line| line[4..] == lines[0][4..]), "{lines:?}");
    writer.join().expect("all was taken");
}

#[test]
fn a_rank_that_does_not_read_it_harms_nobody() {
    let zeros = File::open("/dev/zero").expect("a device");
    let job = Job::script(&["-np", "2", "--stdin", "all"], "exec <&-; exit 0").stdin(zeros).run();
    assert_eq!(job.code, 0, "{}", job.stderr);
}

#[test]
fn an_input_that_never_ends_does_not_keep_the_launcher() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let job = Job::script(&["-np", "1", "--stdin", "0"], "exit 0").stdin(reader).run();
    assert_eq!(job.code, 0, "{}", job.stderr);
    drop(writer);
}
