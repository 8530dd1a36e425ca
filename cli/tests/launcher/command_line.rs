//! Options, their spellings, and what is said about wrong ones.

use crate::support::Job;

#[test]
fn every_spelling_of_the_number_of_ranks() {
    for option in ["-np", "-n", "--np", "--num-proc"] {
        let job = Job::new(&[option, "2", "-q", "echo", "x"]).run();
        assert_eq!(job.sorted_lines(), ["[0] x", "[1] x"], "{option}");
    }
    let job = Job::new(&["-H", "localhost:3", "-q", "echo", "x"]).run();
    assert_eq!(job.sorted_lines().len(), 3);
}

#[test]
fn arguments_of_the_program_are_not_touched() {
    let arguments = ["-np", "1", "printf", "<%s>", "-np", "9", "--", "--timeout", "a b", ""];
    let job = Job::new(&arguments).run();
    assert_eq!(job.text(), "[0] <-np><9><--><--timeout><a b><>\n");
    let job = Job::new(&["-np", "1", "--", "printf", "<%s>", "--", "x"]).run();
    assert_eq!(job.text(), "[0] <--><x>\n");
}

#[test]
fn usage_errors_say_what_and_return_2() {
    for (arguments, said) in [
        (&["-np", "2", "--no-prefx", "true"][..], "--no-prefix"),
        (&["-np", "0", "true"], "'0'"),
        (&["-np", "many", "true"], "'many'"),
        (&["-np", "2"], "PROGRAM"),
        (&["true"], "-np N"),
        (&["-np", "2", "-H", "localhost:1", "true"], "slots"),
        (&["-np", "2", "--ssh-options", "ProxyJump gate", "true"], "ProxyJump"),
        (&["-np", "2", "-H", "localhost:x", "true"], "\"x\" is not a number of slots"),
        (&["-np", "2", "--grace", "soon", "true"], "number of seconds"),
        (&["-np", "2", "--stdin", "some", "true"], "none, all or the number of a rank"),
        (&["-np", "2", "--stdin", "2", "true"], "the ranks are 0 to 1"),
        (&["-np", "2", "-x", "=3", "true"], "no name"),
        (&["-np", "2", "--transport", "pigeon", "true"], "\"pigeon\""),
        (&["-np", "2", "--algorithm", "magic", "true"], "\"magic\""),
        (&["-np", "2", ""], "name of the program is empty"),
        (&["-np", "2", "-m", ""], "name of the program is empty"),
        (&["-np", "4294967295", "true"], "too many for one job"),
        (&["-np", "4294967296", "true"], "a whole number"),
    ] {
        let job = Job::new(arguments).run();
        assert_eq!(job.code, 2, "{arguments:?}: {}", job.stderr);
        assert!(job.stderr.contains(said), "{arguments:?}: {}", job.stderr);
        assert_eq!(job.text(), "", "{arguments:?}");
    }
}

#[test]
fn command_lines_of_other_launchers_run() {
    for arguments in [
        &["-np", "2", "-H", "localhost:2", "--gloo", "--disable-cache", "true"][..],
        &["-np", "2", "--network-interfaces", "lo", "-hosts", "localhost:2", "true"],
        &[
            "--allow-run-as-root",
            "--tag-output",
            "-n",
            "2",
            "-x",
            "PATH",
            "-host",
            "localhost:2",
            "true",
        ],
        &["--npernode", "2", "--map-by", "slot", "true"],
        &["--nnodes", "1", "--nproc_per_node", "2", "-m", "this"],
    ] {
        let job = Job::new(arguments).run();
        assert_eq!(job.code, 0, "{arguments:?}: {}", job.stderr);
        let needless = arguments.contains(&"--gloo") || arguments.contains(&"--tag-output");
        assert_eq!(job.stderr.contains("changes nothing"), needless, "{}", job.stderr);
    }
}

#[test]
fn a_dry_run_shows_the_plan_and_starts_nothing() {
    let job = Job::new(&["-np", "2", "--dry-run", "/no/such/program", "a b"]).run();
    assert_eq!(job.code, 0, "{}", job.stderr);
    let text = job.text();
    assert!(text.contains("command:   /no/such/program 'a b'"), "{text}");
    assert!(text.contains("rank 1: local rank 1"), "{text}");
}

#[test]
fn an_agent_that_hears_nonsense_ends() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut agent = Command::new(env!("CARGO_BIN_EXE_paceline"))
        .arg("agent")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    agent.stdin.take().expect("piped").write_all(b"Welcome to Debian!\n").ok();
    let output = agent.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn shells_and_man_are_told_of_every_option() {
    let print = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_paceline"));
        let output = command.args(arguments).output().expect("paceline starts");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    for shell in ["bash", "zsh", "fish"] {
        let script = print(&["completions", shell]);
        let has_agent = script.contains("__agent") || script.contains("supervises the ranks");
        assert!(!has_agent, "{shell}: the agent is started by paceline itself");
        assert!(script.contains("stacks-on-timeout"), "{shell}: {script}");
    }
    let page = print(&["man"]);
    assert!(page.contains(".TH paceline 1"), "{page}");
    assert!(page.contains("stacks\\-on\\-timeout"), "{page}");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_paceline"));
    let refused = command.args(["completions", "ksh"]).output().expect("paceline starts");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}
