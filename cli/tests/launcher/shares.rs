//! What ranks get of their host: GPUs, processors, what they run under.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{Finished, Job};

/// Runs a job on a host with two GPUs, the second one divided, as far as `nvidia-smi` says.
fn on_gpus(options: &[&str], script: &str, pipes: Option<&Path>) -> Finished {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("nvidia-smi");
    let answers = "#!/bin/sh
        if [ $1 = -L ]; then
            echo 'GPU 0: NVIDIA A100 (UUID: GPU-a)'
            echo 'GPU 1: NVIDIA A100 (UUID: GPU-b)'
            echo '  MIG 3g.20gb     Device  0: (UUID: MIG-b0)'
        else
            for bus in 7 8; do
                echo \"GPU 00000000:0$bus:00.0\"
                echo '    FB Memory Usage'
                echo '        Total : 40960 MiB'
            done
        fi\n";
    fs::write(&program, answers).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
    let job = Job::script(options, script);
    let job = job.env("PATH", &format!("{}:/usr/bin:/bin", directory.path().display()));
    match pipes {
        Some(pipes) => job.env("CUDA_MPS_PIPE_DIRECTORY", &pipes.display().to_string()).run(),
        None => job.run(),
    }
}

#[test]
fn ranks_get_the_gpus_that_are_listed() {
    let script = "echo $CUDA_VISIBLE_DEVICES $PACELINE_DEVICE $JAX_LOCAL_DEVICE_IDS";
    let whole = on_gpus(&["--no-prefix", "-H", "localhost:@MIG-b0+0"], script, None);
    // A part is all that a process can see, so each sees its own.
    assert_eq!(whole.sorted_lines(), ["GPU-a local:GPU-a", "MIG-b0 local:MIG-b0"], "{whole:?}");
    let one = on_gpus(&["--no-prefix", "--gpus", "localhost:0"], script, None);
    assert_eq!(one.text(), "GPU-a local:GPU-a 0\n", "{one:?}");
    let part = ["--no-prefix", "--gpus", "1", "--gpu-fraction", "0.5", "-np", "1"];
    assert_eq!(on_gpus(&part, script, None).text(), "MIG-b0 local:MIG-b0\n");
}

#[test]
fn shares_of_a_gpu_are_limits_of_mps_where_it_runs() {
    let options = ["--no-prefix", "--gpus", "0", "--gpu-fraction", "0.25"];
    let script = "echo $CUDA_VISIBLE_DEVICES $CUDA_MPS_ACTIVE_THREAD_PERCENTAGE \
                  $CUDA_MPS_PINNED_DEVICE_MEM_LIMIT $PACELINE_DEVICE";
    let pipes = tempfile::tempdir().expect("a directory");
    let refused = on_gpus(&options, script, Some(pipes.path()));
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.stderr.contains("and MPS does not run"), "{refused:?}");
    assert!(refused.stderr.contains("nvidia-cuda-mps-control -d"), "{refused:?}");
    fs::write(pipes.path().join("control"), "").expect("written");
    let shared = on_gpus(&options, script, Some(pipes.path()));
    assert_eq!(shared.text(), "GPU-a 25 0=10240M local:GPU-a@0.25\n".repeat(4), "{shared:?}");
}

#[test]
fn gpus_that_a_host_does_not_have_are_refused() {
    let refused = on_gpus(&["-H", "localhost:@0+7"], "echo started", None);
    assert_eq!((refused.code, refused.text().as_str()), (125, ""), "{refused:?}");
    assert!(refused.stderr.contains("there is no GPU 7; there are 0 (GPU-a)"), "{refused:?}");
    for (options, said) in [
        (&["-np", "1", "--gpu-fraction", "0.5"][..], "no rank has a GPU"),
        (&["-np", "1", "--gpus", "0", "-x", "CUDA_VISIBLE_DEVICES=0"], "each one gets its own"),
        (&["-np", "1", "--gpus", "0,0"], "names every host twice"),
        (&["-np", "3", "-H", "localhost:3", "--gpus", "0+1"], "have only 2 devices"),
        (&["-np", "1", "--gpus", "0", "--gpu-fraction", "1.5"], "expected a number above 0"),
    ] {
        let refused = Job::script(options, "true").run();
        assert_eq!(refused.code, 2, "{options:?}: {refused:?}");
        assert!(refused.stderr.contains(said), "{options:?}: {refused:?}");
    }
}

#[test]
fn ranks_run_under_a_wrapper() {
    let wrap = "env 'WRAPPED=a b' RANK_IS={local_rank}/{rank}";
    let options = ["-np", "2", "--no-prefix", "--wrap", wrap];
    let ended = Job::script(&options, "echo $WRAPPED $RANK_IS $RANK").run();
    assert_eq!(ended.sorted_lines(), ["a b 0/0 0", "a b 1/1 1"], "{ended:?}");
    // Signals and codes are the wrapper's, which env replaces itself by.
    assert_eq!(Job::script(&options, "kill -9 $$").run().code, 137);
    let ended = Job::new(&["-np", "1", "--wrap", "no-such-wrapper --", "true"]).run();
    assert_eq!(ended.code, 127, "{ended:?}");
    assert!(ended.stderr.contains("no-such-wrapper: no such program"), "{ended:?}");
    let ended = Job::new(&["-np", "1", "--wrap", "env 'a", "true"]).run();
    assert_eq!(ended.code, 2, "{ended:?}");
}

/// What a rank may run on, as the kernel says it.
const ALLOWED: &str = "grep Cpus_allowed_list /proc/self/status | cut -f2; echo $OMP_NUM_THREADS";

#[test]
fn ranks_are_bound_to_cores_of_their_own() {
    let cores = std::thread::available_parallelism().expect("known").get();
    let each = format!("echo $OMP_NUM_THREADS $({ALLOWED} | head -1)");
    // More ranks than cores: there is no core for each.
    let count = (cores + 1).to_string();
    let refused = Job::script(&["-np", &count, "--bind-to", "core"], &each).run();
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.stderr.contains("cannot have a core each"), "{refused:?}");
    let one = Job::script(&["-np", "1", "--no-prefix", "--bind-to", "core"], &each).run();
    assert_eq!(one.code, 0, "{one:?}");
    assert!(one.stderr.contains("local rank 0 to "), "{one:?}");
    if cores < 2 {
        return;
    }
    let two = Job::script(&["-np", "2", "--no-prefix", "--bind-to", "core"], &each).run();
    let lists: BTreeSet<String> = two.sorted_lines().into_iter().collect();
    if refused.stderr.contains(&format!("it may use {cores}")) {
        assert_eq!(lists.len(), 2, "{two:?}");
    }
}

#[test]
fn a_numa_node_is_all_of_it() {
    let unbound = Job::script(&["-np", "1", "--no-prefix"], ALLOWED).run();
    if Path::new("/sys/devices/system/node/node1").exists() {
        println!("skipped: this machine has several NUMA nodes");
        return;
    }
    let bound = Job::script(&["-np", "1", "--no-prefix", "--bind-to", "numa"], ALLOWED).run();
    let list = |ended: &Finished| ended.text().lines().next().map(str::to_owned);
    assert_eq!(list(&bound), list(&unbound), "{bound:?}");
}

#[test]
fn tensorflow_and_jax_are_told_who_meets_where() {
    let options = ["-np", "2", "--no-prefix", "--tf-config"];
    let script = "echo $TF_CONFIG $JAX_COORDINATOR_ADDRESS $JAX_PROCESS_ID/$JAX_NUM_PROCESSES";
    let ended = Job::script(&options, script).run();
    let lines = ended.sorted_lines();
    assert_eq!(lines.len(), 2, "{ended:?}");
    let mut clusters = BTreeSet::new();
    for (rank, line) in lines.iter().enumerate() {
        let [tensorflow, address, place] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("three words: {ended:?}")
        };
        let config: serde_json::Value = serde_json::from_str(tensorflow).expect("JSON");
        assert_eq!(config["task"]["index"], rank, "{ended:?}");
        assert_eq!(config["task"]["type"], "worker");
        clusters.insert(config["cluster"]["worker"].to_string());
        assert!(address.parse::<std::net::SocketAddr>().is_ok(), "{ended:?}");
        assert_eq!(place, format!("{rank}/2"));
    }
    let all: Vec<String> = clusters.into_iter().collect();
    let [workers] = &all[..] else { panic!("one cluster: {all:?}") };
    let workers: Vec<String> = serde_json::from_str(workers).expect("a list");
    assert_eq!(workers.iter().collect::<BTreeSet<_>>().len(), 2, "{ended:?}");
    for worker in &workers {
        let address: std::net::SocketAddr = worker.parse().expect("an address");
        std::net::TcpListener::bind(address).expect("nobody listens there");
    }
    let refused = Job::script(&["-np", "1", "--tf-config", "-x", "TF_CONFIG={}"], "true").run();
    assert_eq!(refused.code, 2, "{refused:?}");
}
