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
    assert!(text.starts_with("2 ranks on 1 host\n"), "{text}");
    assert!(text.contains("/no/such/program 'a b'"), "{text}");
}

#[test]
fn a_dry_run_is_json_for_programs_and_holds_no_secret() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = ["-H", "localhost:1,n[1-2]:2", "--dry-run", "-x", "HF_TOKEN", "-x", "A=b"];
    let run = |json: &str, more: &[&str]| {
        let arguments = [&options[..], &["--json", json], more, &["true"]].concat();
        let job = Job::new(&arguments).env("HF_TOKEN", "hf_x").env("WANDB_API_KEY", "hf_x");
        let job = job.directory(directory.path()).run();
        assert_eq!(job.code, 0, "{}", job.stderr);
        assert!(!job.text().contains("hf_x") && !job.stderr.contains("hf_x"), "{}", job.stderr);
        job
    };
    let job = run("-", &["-q"]);
    let plan: serde_json::Value = serde_json::from_str(&job.text()).expect("nothing but JSON");
    assert!(job.stderr.contains("n[1-2]"), "{}", job.stderr);
    assert_eq!(plan["schema"], "paceline.plan/1");
    assert_eq!(plan["hosts"][2]["ranks"][1]["rank"], 4);
    assert_eq!(plan["hosts"][2]["ssh"][0], "ssh");
    assert!(plan["hosts"][0]["ssh"].is_null());
    let passed_on = plan["passed_on"].as_array().expect("names");
    assert!(passed_on.contains(&"WANDB_API_KEY".into()), "{passed_on:?}");

    let job = run("plan.json", &[]);
    assert!(job.text().starts_with("5 ranks on 3 hosts\n"), "{}", job.text());
    let text = std::fs::read_to_string(directory.path().join("plan.json")).expect("written");
    let same: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(same, plan, "a plan is the same each time");
    let job = Job::new(&["-np", "1", "--json", "-", "true"]).run();
    assert_eq!(job.code, 2, "{}", job.stderr);
    let job = Job::new(&["-np", "1", "--dry-run", "--json", "/no/such/directory/x", "true"]).run();
    assert_eq!(job.code, 125, "{}", job.stderr);
    assert!(job.stderr.contains("hint: --json needs a place"), "{}", job.stderr);
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
