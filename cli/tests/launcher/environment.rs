//! What ranks find in their environment.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Job, command_line, eventually};

#[test]
fn ranks_know_their_place_in_every_dialect() {
    let script = "echo $PACELINE_RANK/$PACELINE_WORLD_SIZE $HOROVOD_RANK/$HOROVOD_SIZE \
        $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $HOROVOD_CROSS_RANK/$PACELINE_NODE_COUNT";
    let job = Job::script(&["-np", "3"], script).run();
    let line = |rank: u32| format!("[{rank}] {rank}/3 {rank}/3 {rank}/3 {rank}/3 0/1");
    assert_eq!(job.sorted_lines(), [line(0), line(1), line(2)]);
}

#[test]
fn inherited_places_are_removed_and_settings_pass() {
    let job = Job::script(&["-np", "1"], "env").env("OMPI_COMM_WORLD_RANK", "7");
    let job = job.env("PMI_RANK", "7").env("SLURM_PROCID", "7").env("HOROVOD_RANK", "7");
    let job = job.env("PACELINE_RANK", "7").env("NCCL_DEBUG", "INFO").run();
    let lines = job.sorted_lines();
    let has = |text: &str| lines.iter().any(|line| line == &format!("[0] {text}"));
    assert!(has("NCCL_DEBUG=INFO") && has("PACELINE_RANK=0") && has("HOROVOD_RANK=0"));
    for name in ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"] {
        assert!(!job.text().contains(name), "{name}");
    }
}

#[test]
fn variables_are_set_and_passed_on() {
    let options =
        ["-np", "1", "-x", "A=b=c d", "-x", "HOME", "-x", "MASTER_PORT=5", "--transport", "tcp"];
    let script = "echo \"$A|$HOME|$MASTER_PORT|$PACELINE_TRANSPORT\"";
    let job = Job::script(&options, script).env("HOME", "/h").run();
    assert_eq!(job.text(), "[0] b=c d|/h|5|tcp\n");
    let job = Job::script(&["-np", "1", "-x", "RANK=5"], "exit 0").run();
    assert_eq!(job.code, 2, "{}", job.stderr);
}

#[test]
fn thread_counts_are_suggested_with_a_notice() {
    let script = "echo $OMP_NUM_THREADS $PYTHONUNBUFFERED";
    let job = Job::script(&["-np", "4096", "--dry-run"], script).run();
    let row = job.text().lines().nth(3).map(str::to_owned).unwrap_or_default();
    assert!(row.contains("0-4095") && row.ends_with(" 1"), "{}", job.text());
    let job = Job::script(&["-np", "1"], script).run();
    assert!(job.stderr.contains("OMP_NUM_THREADS="), "{}", job.stderr);
    let job = Job::script(&["-np", "1"], script);
    let job = job.env("OMP_NUM_THREADS", "3").env("PYTHONUNBUFFERED", "x").run();
    assert_eq!(job.text(), "[0] 3 x\n");
    assert_eq!(job.stderr, "");
}

#[test]
fn the_secret_is_private_and_on_no_command_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = "cat $PACELINE_SECRET_FILE > secret; stat -L -c %a $PACELINE_SECRET_FILE;
        while [ ! -e end ]; do sleep 0.02; done";
    let job = Job::script(&["-np", "1"], script).directory(directory.path()).start();
    let secret = || fs::read_to_string(directory.path().join("secret")).unwrap_or_default();
    eventually("the secret was read", || secret().trim().len() == 64);
    let secret = secret().trim().to_owned();
    for pid in job.processes() {
        assert!(!command_line(pid).contains(&secret));
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&environ).contains(&secret), "in an environment");
    }
    fs::write(directory.path().join("end"), "").expect("writable");
    assert_eq!(job.wait().text(), "[0] 600\n");
}

#[test]
fn the_frameworks_port_is_free() {
    let script = "echo $MASTER_ADDR:$MASTER_PORT";
    let job = Job::script(&["-np", "1", "--no-prefix"], script).run();
    let address: std::net::SocketAddr = job.text().trim().parse().expect("an address");
    std::net::TcpListener::bind(address).expect("nobody listens there");
}

#[test]
fn python_files_and_modules_run_under_python() {
    let directory = tempfile::tempdir().expect("a directory");
    let bin = directory.path().join("bin");
    fs::create_dir(&bin).expect("created");
    // A stand-in, so that the test needs no Python.
    let python = bin.join("python3");
    fs::write(&python, "#!/bin/sh\necho python \"$@\"\n").expect("writable");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("ours");
    fs::write(directory.path().join("train.py"), "").expect("writable");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let run = |arguments: &[&str]| {
        let job = Job::new(arguments).env("PATH", &path).directory(directory.path()).run();
        assert_eq!(job.code, 0, "{}", job.stderr);
        job.text()
    };
    assert_eq!(run(&["-np", "1", "train.py", "-np", "3"]), "[0] python train.py -np 3\n");
    assert_eq!(run(&["-np", "1", "-m", "pkg.mod", "-x"]), "[0] python -m pkg.mod -x\n");
}
