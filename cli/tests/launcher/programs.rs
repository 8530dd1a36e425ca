//! Jobs of several programs.

use crate::support::Job;

#[test]
fn further_programs_run_on_the_ranks_after_the_first_ones() {
    let words = [
        "--no-prefix",
        "-np",
        "2",
        "sh",
        "-c",
        "echo first $RANK/$WORLD_SIZE $A",
        ":",
        "-np",
        "1",
        "-x",
        "A=b c",
        "sh",
        "-c",
        "echo second $RANK/$WORLD_SIZE $A",
        "-x",
    ];
    let ended = Job::new(&words).run();
    let expected = ["first 0/3", "first 1/3", "second 2/3 b c"];
    assert_eq!(ended.sorted_lines(), expected, "{ended:?}");
    // A colon that no number of ranks follows is the program's.
    let ended = Job::new(&["--no-prefix", "-np", "1", "echo", ":", "x"]).run();
    assert_eq!(ended.text(), ": x\n", "{ended:?}");
}

/// Behaviour 9.
#[test]
fn a_program_that_is_missing_ends_the_job_of_all() {
    let sleep = ["sleep", "60"];
    for (first, second) in [(&["/no/such/first"][..], &sleep[..]), (&sleep, &["/no/such/second"])] {
        let words = [&["-np", "1"], first, &[":", "-np", "2"], second].concat();
        let ended = Job::new(&words).run();
        assert_eq!(ended.code, 127, "{ended:?}");
        assert!(ended.stderr.contains("/no/such/"), "{ended:?}");
        assert_eq!(ended.stderr.matches("no such program").count(), 1, "{ended:?}");
    }
    let ended = Job::new(&["-np", "1", "sh", "-c", "exit 3", ":", "-np", "1", "sleep", "60"]).run();
    assert_eq!(ended.code, 3, "{ended:?}");
    for words in [
        &["true", ":", "-np", "1", "true"][..],
        &["-np", "1", "true", ":", "-np", "1"],
        &["-np", "1", "true", ":", "-np", "x", "true"],
        &["-np", "1", "true", ":", "-np", "1", "-H", "a", "true"],
    ] {
        let ended = Job::new(words).run();
        assert_eq!(ended.code, 2, "{words:?}: {ended:?}");
        assert!(ended.stderr.contains("paceline: hint: "), "{words:?}: {ended:?}");
    }
}
