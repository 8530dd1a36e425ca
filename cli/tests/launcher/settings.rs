//! Options, variables and the configuration file: which of them counts.

use std::fs;

use crate::support::Job;

const SHOW: &str = "echo ${PACELINE_TRANSPORT:-none} ${PACELINE_TIMEOUT:-none}";

#[test]
fn an_option_counts_before_a_variable_and_a_variable_before_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("job.toml");
    let text = "np = 2\nno-prefix = true\ntransport = \"tcp\"\nop-timeout = 7\n";
    fs::write(&file, text).expect("written");
    let file = file.to_str().expect("UTF-8");

    let job = Job::script(&["--config", file], SHOW).run();
    assert_eq!(job.text(), "tcp 7\ntcp 7\n", "{}", job.stderr);
    let job = Job::script(&["-q"], SHOW).env("PACELINE_CONFIG", file);
    let job = job.env("PACELINE_TRANSPORT", "shm").env("PACELINE_NP", "1").run();
    assert_eq!(job.text(), "shm 7\n", "{}", job.stderr);
    let job = Job::script(&["--config-file", file, "-n", "1", "--transport", "auto"], SHOW);
    let job = job.env("PACELINE_TRANSPORT", "shm").run();
    assert_eq!(job.text(), "auto 7\n", "{}", job.stderr);
    // Horovod's variable is one, too, and -x is an option.
    let job = Job::script(&["--config", file, "-n", "1", "-x", "PACELINE_TRANSPORT=shm"], SHOW);
    let job = job.env("HOROVOD_GLOO_TIMEOUT_SECONDS", "9").run();
    assert_eq!(job.text(), "shm none\n", "{}", job.stderr);
}

#[test]
fn a_mistake_in_the_file_is_named_with_its_line() {
    let directory = tempfile::tempdir().expect("a directory");
    for (text, said) in [
        ("np = 2\n\ngrase = 3\n", "job.toml:3: unknown key \"grase\""),
        (
            "np = 2\ngrace = \"soon\"\n",
            "job.toml:2: grace = \"soon\" is invalid: expected a number",
        ),
        ("np 2\n", "job.toml:1: "),
    ] {
        fs::write(directory.path().join("job.toml"), text).expect("written");
        let job = Job::new(&["--config", "job.toml", "true"]).directory(directory.path()).run();
        assert_eq!(job.code, 2, "{}", job.stderr);
        assert!(job.stderr.contains(said), "{}", job.stderr);
    }
    let job = Job::new(&["-np", "1", "--config", "/no/such/file", "true"]).run();
    assert_eq!(job.code, 2);
    assert!(
        job.stderr.contains("failed to read the configuration /no/such/file"),
        "{}",
        job.stderr
    );
}

#[test]
fn a_file_that_has_no_end_is_an_error() {
    for (option, kind) in
        [("--config", "configuration"), ("--hostfile", "hostfile"), ("--rank-file", "rank file")]
    {
        let job = Job::new(&["-np", "1", option, "/dev/zero", "true"]).run();
        assert_eq!(job.code, 2, "{}", job.stderr);
        let said = format!("failed to read the {kind} /dev/zero: it has more than 1 MiB");
        assert!(job.stderr.contains(&said), "{}", job.stderr);
        assert!(job.stderr.contains("paceline: hint: "), "{}", job.stderr);
    }
}

#[test]
fn variables_that_make_no_sense_are_refused_by_their_names() {
    for (name, value, said) in [
        ("PACELINE_NP", "many", "PACELINE_NP=\"many\" is invalid: expected a whole number"),
        ("PACELINE_GRACE", "-1", "PACELINE_GRACE=\"-1\" is invalid"),
        ("HOROVOD_START_TIMEOUT", "soon", "HOROVOD_START_TIMEOUT=\"soon\" is invalid"),
        ("PACELINE_STDIN", "some", "PACELINE_STDIN=\"some\" is invalid"),
        ("PACELINE_QUIET", "perhaps", "PACELINE_QUIET=\"perhaps\" is invalid"),
        // What only the ranks act on is found out before there are any.
        (
            "PACELINE_SOCKETS",
            "99",
            "PACELINE_SOCKETS=\"99\" is invalid: expected auto or a number, 1 to 16",
        ),
        (
            "PACELINE_DETERMINISTIC",
            "yes",
            "PACELINE_DETERMINISTIC=\"yes\" is invalid: expected plan or any",
        ),
        (
            "PACELINE_TRANSPORT",
            "pigeon",
            "PACELINE_TRANSPORT=\"pigeon\" is invalid: unknown transport",
        ),
        ("PACELINE_PORT_RANGE", "9-1", "PACELINE_PORT_RANGE=\"9-1\" is invalid: not a port"),
        ("PACELINE_TIMEOUT", "0", "PACELINE_TIMEOUT=\"0\" is invalid: expected a positive number"),
        (
            "PACELINE_CYCLE_TIME",
            "soon",
            "PACELINE_CYCLE_TIME=\"soon\" is invalid: expected a number of",
        ),
        (
            "HOROVOD_FUSION_THRESHOLD",
            "much",
            "HOROVOD_FUSION_THRESHOLD=\"much\" is invalid: expected",
        ),
    ] {
        let options: &[&str] =
            if name == "PACELINE_NP" { &["true"] } else { &["-np", "1", "true"] };
        let job = Job::new(options).env(name, value).run();
        assert_eq!(job.code, 2, "{name}: {}", job.stderr);
        assert!(job.stderr.contains(said), "{name}: {}", job.stderr);
        assert!(job.stderr.contains("paceline: hint: "), "{name}: {}", job.stderr);
    }
}

#[test]
fn options_that_make_no_sense_are_refused_by_their_names() {
    for (option, value, said) in [
        ("--deterministic", "yes", "'--deterministic <HOW>': expected plan or any-plan"),
        ("--tune", "maybe", "'--tune <WHEN>': expected auto, on or off"),
        ("--sockets", "0", "'--sockets <COUNT>': expected auto or a number, 1 to 16"),
        ("--fusion-threshold", "much", "'--fusion-threshold <SIZE>': expected a number of bytes"),
        ("--transport", "pigeon", "--transport \"pigeon\" is invalid: unknown transport"),
        ("--algorithm", "magic", "--algorithm \"magic\" is invalid: unknown algorithm"),
        ("--interface", "a b", "--interface \"a b\" is invalid: "),
    ] {
        let job = Job::script(&["-np", "1", option, value], "echo started").run();
        assert_eq!((job.code, job.text().as_str()), (2, ""), "{option}: {}", job.stderr);
        assert!(job.stderr.contains(said), "{option}: {}", job.stderr);
        assert!(!job.stderr.contains("PACELINE_"), "{option}: {}", job.stderr);
    }
    let script = "echo $PACELINE_SOCKETS $PACELINE_FUSION_THRESHOLD";
    let job =
        Job::script(&["-np", "1", "--sockets", "3", "--fusion-threshold", "4M"], script).run();
    assert_eq!(job.text(), "[0] 3 4M\n", "{}", job.stderr);
    // What -x sets is for the ranks, too.
    let job = Job::new(&["-np", "1", "-x", "PACELINE_TUNE=maybe", "true"]).run();
    assert_eq!(job.code, 2, "{}", job.stderr);
    assert!(job.stderr.contains("PACELINE_TUNE=\"maybe\" is invalid: expected auto, on or off"));
}

#[test]
fn misspelled_variables_are_pointed_out_once() {
    let job = Job::new(&["-np", "2", "-x", "PACELINE_ALGORITM=ring", "true"]);
    let job = job.env("PACELINE_TRANSPROT", "tcp").run();
    assert_eq!(job.code, 0, "{}", job.stderr);
    for hint in ["did you mean PACELINE_ALGORITHM?", "did you mean PACELINE_TRANSPORT?"] {
        assert_eq!(job.stderr.matches(hint).count(), 1, "{}", job.stderr);
    }
    let job = Job::new(&["-np", "2", "-q", "true"]).env("PACELINE_TRANSPROT", "tcp").run();
    assert_eq!(job.stderr, "");
}

#[test]
fn open_mpis_variables_are_set_on_request() {
    let script = "echo $OMPI_COMM_WORLD_RANK/$OMPI_COMM_WORLD_SIZE \
        $OMPI_COMM_WORLD_LOCAL_RANK/$OMPI_COMM_WORLD_LOCAL_SIZE $OMPI_COMM_WORLD_NODE_RANK";
    let job = Job::script(&["-np", "2", "--env-dialect", "ompi"], script).run();
    assert_eq!(job.sorted_lines(), ["[0] 0/2 0/2 0", "[1] 1/2 1/2 1"], "{}", job.stderr);
    let job = Job::script(&["-np", "1"], "env").env("OMPI_COMM_WORLD_SIZE", "7").run();
    assert!(!job.text().contains("OMPI_"), "{}", job.text());
    let job = Job::new(&["-np", "1", "--env-dialect", "mpich", "true"]).run();
    assert_eq!(job.code, 2);
    assert!(job.stderr.contains("--env-dialect"), "{}", job.stderr);
    assert!(job.stderr.contains("expected ompi"), "{}", job.stderr);
}

#[test]
fn what_counts_is_shown_with_where_it_comes_from() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("job.toml");
    fs::write(&file, "np = 2\ngrace = 3\nmap-by = \"node\"\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    let job = Job::new(&["--show-config", "--config", file, "-n", "4"]);
    let job = job.env("PACELINE_GRACE", "7").env("HOROVOD_START_TIMEOUT", "9").run();
    assert_eq!(job.code, 0, "{}", job.stderr);
    let lines: Vec<Vec<String>> = job
        .text()
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    for expected in [
        &["np", "4", "command", "line"][..],
        &["grace", "7", "variable", "PACELINE_GRACE"],
        &["start-timeout", "9", "variable", "HOROVOD_START_TIMEOUT"],
        &["map-by", "node", "file", file],
        &["op-timeout", "60", "default"],
        &["events", "-", "default"],
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected:?}: {}", job.text());
    }
    let job = Job::new(&["--show-config", "--config", "/no/such/file"]).run();
    assert_eq!(job.code, 2, "{}", job.stderr);
}

#[test]
fn horovodruns_file_is_understood() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("horovod.yaml");
    let text = "params:\n  fusion_threshold_mb: 32\n  cycle_time_ms: 3\nautotune:\n  enabled: true\n\
        library_options:\n  gloo_timeout_seconds: 50\nno_prefix: true\n";
    fs::write(&file, text).expect("written");
    let file = file.to_str().expect("UTF-8");
    let script = "echo $PACELINE_FUSION_THRESHOLD $PACELINE_CYCLE_TIME $PACELINE_TIMEOUT";
    let job = Job::script(&["-np", "1", "--config-file", file], script).run();
    assert_eq!(job.text(), "32M 3 50\n", "{}", job.stderr);
    assert!(job.stderr.contains("autotune.enabled changes nothing: "), "{}", job.stderr);
    let options = ["-np", "1", "-q", "--cycle-time-ms", "2", "--config-file", file];
    let job = Job::script(&options, script).env("HOROVOD_GLOO_TIMEOUT_SECONDS", "9").run();
    assert_eq!((job.text().as_str(), job.stderr.as_str()), ("32M 2\n", ""));

    let job = Job::new(&["--show-config", "--config", file]).run();
    let shown = |name: &str| {
        let text = job.text();
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(shown("fusion-threshold"), ["fusion-threshold", "32M", "file", file]);
    assert_eq!(shown("op-timeout"), ["op-timeout", "50", "file", file]);
}
