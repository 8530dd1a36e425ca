//! What ranks write arrives.

use std::fs;
use std::io::{BufRead, BufReader, Read};

use crate::support::{Job, all_of, eventually, terminal};

#[test]
fn lines_are_prefixed_and_streams_kept_apart() {
    let job = Job::script(&["-np", "3", "-q"], "echo out $RANK; echo err $RANK >&2").run();
    assert_eq!(job.sorted_lines(), ["[0] out 0", "[1] out 1", "[2] out 2"]);
    let mut errors: Vec<&str> = job.stderr.lines().collect();
    errors.sort_unstable();
    assert_eq!(errors, ["[0] err 0", "[1] err 1", "[2] err 2"]);
}

#[test]
fn without_prefixes_the_bytes_are_the_programs() {
    let job = Job::script(&["-np", "1", "--no-prefix"], "printf 'a\\377\\n\\rb\\r\\nlast'").run();
    assert_eq!(job.stdout, b"a\xff\n\rb\r\nlast");
}

#[test]
fn invalid_utf8_split_characters_and_a_last_line_without_end_survive() {
    let script = "printf 'gr\\303'; sleep 0.05; printf '\\274n \\377\\376 end'";
    let job = Job::script(&["-np", "2"], script).run();
    let line = b"gr\xc3\xbcn \xff\xfe end\n";
    let mut lines: Vec<&[u8]> = job.stdout.split_inclusive(|&byte| byte == b'\n').collect();
    lines.sort_unstable();
    for (rank, found) in lines.iter().enumerate() {
        assert_eq!(found[4..], line[..], "rank {rank}");
    }
    assert_eq!(lines.len(), 2);
}

#[test]
fn partial_lines_of_different_ranks_do_not_mix() {
    let script =
        "i=0; while [ $i -lt 50 ]; do printf 'a%s' $RANK; printf 'b%s\\n' $RANK; i=$((i+1)); done";
    let job = Job::script(&["-np", "4"], script).run();
    let lines = job.sorted_lines();
    assert_eq!(lines.len(), 200);
    for line in lines {
        let rank = &line[1..2];
        assert_eq!(line, format!("[{rank}] a{rank}b{rank}"));
    }
}

#[test]
fn a_progress_bar_is_shown_while_it_stands_still() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = "printf '\\r 10%%'; while [ ! -e end ]; do sleep 0.02; done; printf '\\r100%%\\n'";
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let job = Job::script(&["-np", "1"], script).directory(directory.path()).stdout(writer).start();
    let mut shown = Vec::new();
    eventually("the bar is shown", || {
        let mut byte = [0];
        reader.read_exact(&mut byte).expect("more to come");
        shown.push(byte[0]);
        shown.ends_with(b"[0]  10%")
    });
    fs::write(directory.path().join("end"), "").expect("writable");
    assert_eq!(job.wait().code, 0);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("readable");
    assert_eq!(rest, b"\r[0] 100%\n");
}

#[test]
fn lines_arrive_as_they_are_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = "echo first; while [ ! -e end ]; do sleep 0.02; done; echo second";
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let job = Job::script(&["-np", "1"], script).directory(directory.path()).stdout(writer).start();
    let mut lines = BufReader::new(reader).lines();
    assert_eq!(lines.next().expect("a line").expect("readable"), "[0] first");
    fs::write(directory.path().join("end"), "").expect("writable");
    assert_eq!(lines.next().expect("a line").expect("readable"), "[0] second");
    assert_eq!(job.wait().code, 0);
}

#[test]
fn a_hundred_megabytes_of_one_rank_do_not_stall_the_others() {
    let directory = tempfile::tempdir().expect("a directory");
    // Rank 0 writes without end until the others are done; nobody reads standard error at first.
    let script = "if [ $RANK = 0 ]; then head -c 100000000 /dev/zero | tr '\\0' 'x'; echo; fi
        if [ $RANK = 1 ]; then for i in 1 2 3 4 5; do echo step $i; done; fi";
    let job = Job::script(&["-np", "2"], script).directory(directory.path()).run();
    assert_eq!(job.code, 0);
    let from_zero = job.stdout.iter().filter(|&&byte| byte == b'x').count();
    assert_eq!(from_zero, 100_000_000);
    for step in 1..=5 {
        let wanted = format!("[1] step {step}\n");
        assert!(job.stdout.windows(wanted.len()).any(|part| part == wanted.as_bytes()), "{step}");
    }
}

#[test]
fn a_reader_that_is_slow_stalls_only_who_talks_to_it() {
    let directory = tempfile::tempdir().expect("a directory");
    // Nobody reads standard output; rank 1 must come to its end nevertheless, and be noticed.
    let script = "if [ $RANK = 0 ]; then head -c 50000000 /dev/zero; fi
        if [ $RANK = 1 ]; then touch done; exit 7; fi";
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let options = ["-np", "2", "--grace", "0.2"];
    let job = Job::script(&options, script).directory(directory.path()).stdout(writer).start();
    let job = job.wait();
    assert_eq!(job.code, 7, "{}", job.stderr);
    drop(reader);
}

#[test]
fn a_closed_standard_output_ends_the_job_quietly() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let job = Job::new(&["-np", "2", "-q", "--", "yes"]).stdout(writer).start();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    drop(reader);
    let job = job.wait();
    assert_eq!(job.code, 141);
    assert_eq!(job.stderr, "");
}

#[test]
fn every_rank_has_its_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("logs/run");
    let path = path.to_str().expect("UTF-8");
    let script = "echo out $RANK; printf 'err %s' $RANK >&2";
    let job = Job::script(&["-np", "12", "--log-dir", path, "-q"], script).run();
    assert_eq!(job.code, 0, "{}", job.stderr);
    for rank in 0..12 {
        let file = |stream: &str| {
            fs::read_to_string(format!("{path}/rank.{rank:02}/{stream}")).expect("written")
        };
        assert_eq!(file("stdout"), format!("out {rank}\n"));
        assert_eq!(file("stderr"), format!("err {rank}"));
    }
    assert_eq!(job.sorted_lines().len(), 12, "they are on the terminal too");
    let job = Job::script(&["-np", "1", "--output-filename", path], "echo again").run();
    assert_eq!(job.code, 0);
    assert_eq!(fs::read_to_string(format!("{path}/rank.00/stdout")).expect("there"), "again\n");
}

#[test]
fn output_of_a_killed_rank_arrives() {
    let job = Job::script(&["-np", "1"], "echo before; printf partial; kill -KILL $$").run();
    assert_eq!(job.code, 137);
    assert_eq!(job.text(), "[0] before\n[0] partial\n");
}

#[test]
fn a_full_disk_is_reported() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let job = Job::script(&["-np", "2"], "echo x; sleep 612").stdout(full).run();
    assert_eq!(job.code, 125);
    let expected = "failed to write the ranks' output: No space";
    assert!(job.stderr.contains(expected), "{}", job.stderr);
    // Also when the job has come to its end by then.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let job = Job::script(&["-np", "1"], "printf x").stdout(full).run();
    assert_eq!(job.code, 125);
    assert!(job.stderr.contains(expected), "{}", job.stderr);
}

#[test]
fn an_overlong_line_arrives_whole() {
    let job = Job::script(&["-np", "1"], "head -c 1000000 /dev/zero | tr '\\0' x; echo").run();
    assert_eq!(job.stdout.len(), 4 + 1_000_000 + 1);
    assert!(job.stdout[4..1_000_004].iter().all(|&byte| byte == b'x'));
}

#[test]
fn a_prefix_says_what_it_is_asked_for() {
    let options =
        ["-np", "2", "-H", "localhost:2", "--output-prefix", "{{{rank}/{local_rank}}}@{host}: "];
    let job = Job::script(&options, "hostname > /dev/null; echo out; echo err >&2").run();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let expected = [0, 1].map(|rank| format!("{{{rank}/{rank}}}@{host}: out"));
    assert_eq!(job.sorted_lines(), expected, "{}", job.stderr);
    assert!(job.stderr.contains(&format!("{{1/1}}@{host}: err\n")), "{}", job.stderr);
    let job = Job::script(&["-np", "1"], "echo out").env("PACELINE_OUTPUT_PREFIX", "{time} ").run();
    let shape: String =
        job.text().chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "00:00:00.000 out\n", "{}", job.stderr);
    let job =
        Job::script(&["-np", "1", "--output-prefix", "{rank} ", "--no-prefix"], "echo out").run();
    assert_eq!(job.text(), "out\n", "{}", job.stderr);
    let job = Job::script(&["-np", "1", "--output-prefix", "[{rnk}] "], "echo started").run();
    assert_eq!((job.code, job.text().as_str()), (2, ""), "{}", job.stderr);
    assert!(job.stderr.contains("has an unknown field {rnk}"), "{}", job.stderr);
    let hint = "hint: the fields are {rank}, {local_rank}, {host}, {time}";
    assert!(job.stderr.contains(hint), "{}", job.stderr);
}

#[test]
fn only_the_ranks_asked_for_are_shown_and_files_have_all() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("UTF-8");
    let options = ["-np", "5", "-q", "--show-ranks", "0,3-4", "--log-dir", path];
    let script = "echo out $RANK; echo err $RANK >&2; [ $RANK != 1 ] || sleep 0.1; [ $RANK != 1 ]";
    let job = Job::script(&options, script).run();
    assert_eq!(job.code, 1);
    let lines = job.sorted_lines();
    assert!(lines.iter().all(|line| ["[0] ", "[3] ", "[4] "].contains(&&line[..4])), "{lines:?}");
    assert!(!job.stderr.contains("[1] err 1"), "{}", job.stderr);
    // What a rank said last is still told when it fails.
    assert!(job.stderr.contains("  | err 1\n"), "{}", job.stderr);
    assert_eq!(fs::read_to_string(format!("{path}/rank.01/stdout")).expect("there"), "out 1\n");
    for (list, said) in [
        ("5", "rank 5 cannot be shown: the ranks are 0 to 4"),
        ("3-1", "'--show-ranks <LIST>': expected ranks such as 0,3-5"),
    ] {
        let job = Job::new(&["-np", "5", "--show-ranks", list, "true"]).run();
        assert_eq!(job.code, 2, "{}", job.stderr);
        assert!(job.stderr.contains(said), "{}", job.stderr);
    }
}

#[test]
fn a_line_of_several_ranks_is_shown_once_and_files_have_it_of_each() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("UTF-8");
    // Nobody comes to its second line before all have said the first.
    let script =
        "echo all; touch $D/$RANK; while [ $(ls -d $D/? | wc -l) -lt 4 ]; do sleep 0.01; done
        [ $RANK = 2 ] || echo most; echo $RANK";
    let options = ["-np", "4", "-q", "--fold", "on", "--log-dir", path, "-x", &format!("D={path}")];
    let job = Job::script(&options, script).run();
    let lines = job.sorted_lines();
    // How many meet within a moment is for the machine to say; who said what is not.
    let said = |text: &str| -> Vec<String> {
        let of = lines.iter().filter_map(|line| line.strip_suffix(&format!("] {text}")));
        let ranges = of.flat_map(|ranks| ranks.trim_start_matches('[').split(','));
        ranges.flat_map(ranks_of).collect()
    };
    let mut all = said("all");
    all.sort();
    assert_eq!(all, ["0", "1", "2", "3"], "{lines:?}");
    let mut most = said("most");
    most.sort();
    assert_eq!(most, ["0", "1", "3"], "{lines:?}");
    for rank in 0..4 {
        assert_eq!(said(&rank.to_string()), [rank.to_string()]);
        let file = fs::read_to_string(format!("{path}/rank.0{rank}/stdout")).expect("written");
        let most = if rank == 2 { "" } else { "most\n" };
        assert_eq!(file, format!("all\n{most}{rank}\n"));
    }
}

/// `2`, `3`, `4` for `2-4`.
fn ranks_of(range: &str) -> Vec<String> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u32>().expect("a rank");
    (number(first)..=number(last)).map(|rank| rank.to_string()).collect()
}

#[test]
fn equal_lines_are_folded_on_a_terminal_and_nowhere_else() {
    let script = "echo same; sleep 0.1";
    let each = ["[0] same", "[1] same", "[2] same"];
    let job = Job::script(&["-np", "3", "-q"], script).run();
    assert_eq!(job.sorted_lines(), each);
    // Without the ranks in the prefix one line could not say whose it is.
    let options = ["-np", "3", "-q", "--fold", "on", "--output-prefix", "> "];
    assert_eq!(Job::script(&options, script).run().sorted_lines(), ["> same"; 3]);
    let job = Job::new(&["-np", "3", "--fold", "perhaps", "true"]).run();
    assert_eq!(job.code, 2, "{}", job.stderr);

    // On a loaded machine they may not meet the first time.
    eventually("ranks meet on a terminal", || {
        let (terminal, ours) = terminal();
        let job = Job::script(&["-np", "3", "-q"], script).stdout(ours).start().wait();
        assert_eq!(job.code, 0, "{}", job.stderr);
        let shown = all_of(terminal);
        let ranks = shown.lines().filter_map(|line| line.strip_suffix("] same"));
        let ranges = ranks.flat_map(|ranks| ranks.trim_start_matches('[').split(','));
        let mut ranks: Vec<String> = ranges.flat_map(ranks_of).collect();
        ranks.sort();
        assert_eq!(ranks, ["0", "1", "2"], "{shown}");
        shown.lines().count() < 3
    });
}
