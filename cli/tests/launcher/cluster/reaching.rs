//! Hosts that cannot be reached, or on which the job cannot start.

use super::on_hosts;

/// Behaviours 6 to 8: named once, with the host, and nothing runs anywhere.
#[test]
fn what_is_not_there_is_named_with_its_host() {
    on_hosts(2, |cluster| {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let path = directory.path().display().to_string();
        for (program, code, what) in
            [("/no/such/program", 127, "/no/such/program"), (path.as_str(), 126, path.as_str())]
        {
            let ended = cluster.job(&["-H", "n1:2,n2:2", program]).run();
            assert_eq!(ended.code, code, "{ended:?}");
            assert!(ended.stderr.contains(what), "{ended:?}");
            let hosts = ["n1", "n2"].map(|host| ended.stderr.contains(&format!("on {host}")));
            assert!(hosts.contains(&true), "{ended:?}");
            cluster.wait_until_empty();
        }
    });
}

/// Behaviour 8.
#[test]
fn a_directory_that_another_host_lacks_is_named_with_it() {
    on_hosts(2, |cluster| {
        let directory = cluster.launchers_own().join("work");
        std::fs::create_dir(&directory).expect("a directory");
        let job = cluster.job(&["-H", "localhost:1,n2:1", "touch", "begun"]);
        let ended = job.directory(&directory).run();
        assert_eq!(ended.code, 125, "{ended:?}");
        let path = directory.display().to_string();
        assert!(ended.stderr.contains(&path) && ended.stderr.contains("on n2"), "{ended:?}");
        cluster.wait_until_empty();
    });
}

/// Behaviour 22: hosts that no rank is left for take no part, so they cannot end a job.
#[test]
fn hosts_without_ranks_are_not_even_reached() {
    on_hosts(1, |cluster| {
        let options = ["-np", "1", "-H", "n1:1,no-such-host.invalid:4", "true"];
        let ended = cluster.job(&options).run();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stderr.contains("no-such-host.invalid"), "{ended:?}");
    });
}

/// Behaviour 30.
#[test]
fn hosts_that_cannot_be_reached_are_all_named_with_a_remedy() {
    on_hosts(2, |cluster| {
        cluster.kill_sshd(2);
        let ended = cluster.job(&["-H", "n1,n2,no-such-host.invalid", "true"]).run();
        assert_eq!(ended.code, 125, "{ended:?}");
        for words in [
            "no agent on n2: ssh: connect to host n2 port 22: Connection refused",
            "--ssh-port",
            "no agent on no-such-host.invalid: ",
            "check the spelling of no-such-host.invalid",
        ] {
            assert!(ended.stderr.contains(words), "{words:?}: {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("no agent on n1"), "{ended:?}");
        cluster.wait_until_empty();
    });
}

#[test]
fn a_host_that_does_not_answer_is_named_when_the_start_takes_too_long() {
    on_hosts(2, |cluster| {
        cluster.set_link(2, "down");
        let ended = cluster.job(&["-H", "n1,n2", "--start-timeout", "2", "true"]).run();
        assert_eq!(ended.code, 124, "{ended:?}");
        // The other one only waits for it.
        let missing = "missing on n2 (ssh has not brought up its agent)\n";
        assert!(ended.stderr.contains(missing), "{ended:?}");
        cluster.wait_until_empty();
    });
}

#[test]
fn who_is_not_let_in_is_told_so() {
    on_hosts(1, |cluster| {
        let ended = cluster.job_with_key("/no/such/key", &["-H", "n1", "true"]).run();
        assert_eq!(ended.code, 125, "{ended:?}");
        assert!(ended.stderr.contains("Permission denied"), "{ended:?}");
        assert!(ended.stderr.contains("ssh-copy-id n1"), "{ended:?}");
    });
}

#[test]
fn a_host_without_paceline_is_told_what_to_do() {
    on_hosts(1, |cluster| {
        let job = cluster.job(&["-H", "n1", "--remote-program", "/no/such/paceline", "true"]);
        let ended = job.run();
        assert_eq!(ended.code, 125, "{ended:?}");
        assert!(ended.stderr.contains("install paceline on n1"), "{ended:?}");
    });
}

#[test]
fn what_a_login_prints_harms_nothing() {
    on_hosts(1, |cluster| {
        let talks = cluster.path("talks");
        let program = env!("CARGO_BIN_EXE_paceline");
        let script = format!("#!/bin/sh\necho Welcome to our cluster\nexec {program} \"$@\"\n");
        std::fs::write(&talks, script).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&talks, mode).expect("our file");
        let talks = talks.display().to_string();
        let ended = cluster.job(&["-H", "n1", "--remote-program", &talks, "echo", "hi"]).run();
        assert_eq!((ended.code, ended.text().as_str()), (0, "[0] hi\n"), "{ended:?}");
    });
}

#[test]
fn what_a_login_says_instead_of_starting_an_agent_is_told() {
    on_hosts(1, |cluster| {
        let refuses = cluster.path("refuses");
        let says = "Please login as the user \"me\" rather than the user \"root\".";
        let script = format!("#!/bin/sh\necho '{says}'\nexit 142\n");
        std::fs::write(&refuses, script).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&refuses, mode).expect("our file");
        let refuses = refuses.display().to_string();
        let ended = cluster.job(&["-H", "n1", "--remote-program", &refuses, "true"]).run();
        assert_eq!(ended.code, 125, "{ended:?}");
        assert!(ended.stderr.contains(&format!("no agent on n1: {says}\n")), "{ended:?}");
        assert!(ended.stderr.contains("as somebody else, as in USER@n1"), "{ended:?}");
    });
}

#[test]
fn the_binary_is_copied_where_that_is_asked_for() {
    on_hosts(2, |cluster| {
        let cache = cluster.path("cache").display().to_string();
        let set = format!("{} SetEnv=XDG_CACHE_HOME={cache}", cluster.known_hosts());
        let script = "tr '\\0' ' ' </proc/$PACELINE_AGENT_PID/cmdline; echo";
        for _ in 0..2 {
            let options = ["-H", "n1,n2", "--no-prefix", "--copy-binary", "--ssh-options", &set];
            let ended = cluster.script_with_own_options(&options, script).run();
            assert_eq!(ended.code, 0, "{ended:?}");
            let lines = ended.sorted_lines();
            let is_a_copy = |line: &String| line.starts_with(&format!("{cache}/paceline/"));
            assert!(lines.len() == 2 && lines.iter().all(is_a_copy), "{ended:?}");
        }
        cluster.wait_until_empty();
    });
}

/// The connection breaks while the binary is on its way; later a copy is damaged.
#[test]
fn a_copy_that_is_not_whole_is_made_anew() {
    on_hosts(1, |cluster| {
        let cache = cluster.path("cache");
        let set = format!("{} SetEnv=XDG_CACHE_HOME={}", cluster.known_hosts(), cache.display());
        let broken = cluster.path("broken");
        let script = "#!/bin/bash\nexec 3<>/dev/tcp/10.78.0.1/22\ncat <&3 &\ndd bs=64k count=60 status=none >&3\nkill $!\n";
        std::fs::write(&broken, script).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&broken, mode).expect("our file");
        let breaks = format!("{set} ProxyCommand={}", broken.display());
        let run = |ssh_options: &str| {
            let options = ["-H", "n1", "--copy-binary", "--ssh-options", ssh_options];
            let ended = cluster.script_with_own_options(&options, "echo hi").run();
            cluster.wait_until_empty();
            ended
        };
        let files = || {
            let build = std::fs::read_dir(cache.join("paceline")).expect("a directory").next();
            let build = build.expect("one build").expect("a directory").path();
            let files = std::fs::read_dir(build).expect("a directory");
            files.map(|file| file.expect("a file").path()).collect::<Vec<_>>()
        };
        let ended = run(&breaks);
        assert_eq!(ended.code, 125, "{ended:?}");
        assert_eq!(
            files(),
            [""; 0].map(std::path::PathBuf::from),
            "nothing is left of half a copy"
        );
        assert_eq!(run(&set).text(), "[0] hi\n");
        let [copy] = &files()[..] else { panic!("{:?}", files()) };
        let whole = std::fs::metadata(copy).expect("a file").len();
        let half = std::fs::OpenOptions::new().write(true).open(copy).expect("our file");
        half.set_len(whole / 2).expect("our file");
        drop(half);
        assert_eq!(run(&set).text(), "[0] hi\n");
        assert_eq!(std::fs::metadata(copy).expect("a file").len(), whole);
    });
}

#[test]
fn a_copy_takes_no_longer_than_the_job_may() {
    on_hosts(1, |cluster| {
        cluster.set_link(1, "down");
        // ssh itself would wait for longer than a test does.
        let patient = format!("{} ConnectTimeout=1000", cluster.known_hosts());
        let events = cluster.path("events").display().to_string();
        let times = ["--timeout", "1", "--events", &events];
        let copy = ["-H=n1", "--copy-binary", "--ssh-options", &patient];
        let ended = cluster.script_with_own_options(&[times, copy].concat(), "true").run();
        assert_eq!(ended.code, 124, "{ended:?}");
        assert!(ended.stderr.contains("it took longer than --timeout 1"), "{ended:?}");
        let events = std::fs::read_to_string(events).expect("our file");
        assert!(events.contains(r#""event":"finished","code":124"#), "{events}");
    });
}

#[test]
fn an_interface_that_a_host_lacks_is_named() {
    on_hosts(2, |cluster| {
        let ended = cluster.job(&["-H", "n1,n2", "--interface", "eth7", "true"]).run();
        assert_eq!(ended.code, 125, "{ended:?}");
        assert!(ended.stderr.contains("n1 has no interface that matches eth7"), "{ended:?}");
        let ended = cluster.job(&["-H", "n1,n2", "--interface", "10.78.0.0/24", "true"]).run();
        assert_eq!(ended.code, 0, "{ended:?}");
    });
}

#[test]
fn nothing_secret_is_on_any_command_line() {
    on_hosts(1, |cluster| {
        let script = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; done 2>/dev/null | \
                      grep -c -F \"$(cat $PACELINE_SECRET_FILE)\"; true";
        let ended = cluster.script(&["-H", "n1", "--no-prefix"], script).run();
        // The grep itself is a process of which the shell has put the secret on the command line.
        let count: u32 = ended.text().trim().parse().expect("a number");
        assert!(count <= 1, "{ended:?}");
    });
}
