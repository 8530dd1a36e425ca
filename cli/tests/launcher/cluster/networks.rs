//! Hosts that have several networks in common.

use super::on_hosts;

/// What each rank was told to listen at.
const SCRIPT: &str = "echo $PACELINE_INTERFACE $MASTER_ADDR";

#[test]
fn networks_are_tried_and_what_was_found_is_said() {
    on_hosts(3, |cluster| {
        cluster.add_network();
        let program = env!("CARGO_BIN_EXE_paceline");
        let bench = format!("exec {program} bench all_reduce --sizes 1M --rounds 1 --check every");
        let ended = cluster.script(&["-H", "n1,n2,n3"], &bench).run();
        assert_eq!(ended.code, 0, "{ended:?}");
        // Both are as fast as this machine is; how they compare is chance.
        for line in ["network: 10.7", "10.78.0.0/24 (eth0)  ", "10.79.0.0/24 (eth1)  ", " GB/s  "] {
            assert!(ended.stderr.contains(line), "{line}: {ended:?}");
        }
        let quiet = cluster.script(&["-q", "-H", "n1,n2,n3"], "true").run();
        assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""), "{quiet:?}");
        cluster.wait_until_empty();
    });
}

#[test]
fn the_fastest_network_is_used() {
    on_hosts(3, |cluster| {
        cluster.add_network();
        if !cluster.slow_down("80mbit") {
            println!("skipped: the kernel limits no link (tc with tbf)");
            return;
        }
        let ended = cluster.script(&["-H", "n1,n2,n3"], SCRIPT).run();
        assert_eq!(ended.text().matches(" 10.79.0.1\n").count(), 3, "{ended:?}");
        let said = "times as fast as 10.78.0.0/24 (eth0)";
        assert!(ended.stderr.contains(said), "{ended:?}");
    });
}

#[test]
fn a_host_with_two_names_is_noticed() {
    on_hosts(1, |cluster| {
        let ended = cluster.job(&["-H", "n1,10.78.0.1", "true"]).run();
        assert_eq!(ended.code, 0, "{ended:?}");
        let said =
            "n1, 10.78.0.1 have the same address, 10.78.0.1: if they are one host, name it once";
        assert!(ended.stderr.contains(said), "{ended:?}");
    });
}

#[test]
fn a_network_on_which_hosts_do_not_reach_each_other_is_not_used() {
    on_hosts(2, |cluster| {
        cluster.add_network();
        cluster.block(2, "10.78.0.1");
        let ended = cluster.script(&["-H", "n1,n2", "--no-prefix"], SCRIPT).run();
        assert_eq!(
            ended.sorted_lines(),
            ["10.79.0.1 10.79.0.1", "10.79.0.2 10.79.0.1"],
            "{ended:?}"
        );
        let said = "network: 10.79.0.0/24 (eth1), the only one that leads to all hosts";
        assert!(ended.stderr.contains(said), "{ended:?}");
        assert!(ended.stderr.contains("n2 to n1 (10.78.0.1): no connection: "), "{ended:?}");
        // What the user wants is not doubted.
        let options = ["-H", "n1,n2", "--no-prefix", "--interface", "eth0"];
        let ended = cluster.script(&options, "echo $MASTER_ADDR").run();
        assert_eq!(ended.sorted_lines(), ["10.78.0.1", "10.78.0.1"], "{ended:?}");
        cluster.block(2, "10.79.0.1");
        let ended = cluster.script(&["-H", "n1,n2", "--no-prefix"], SCRIPT).run();
        assert_eq!(
            ended.sorted_lines(),
            ["10.78.0.1 10.78.0.1", "10.78.0.2 10.78.0.1"],
            "{ended:?}"
        );
        assert!(ended.stderr.contains("`paceline doctor` tries every way"), "{ended:?}");
        cluster.wait_until_empty();
    });
}

#[test]
fn hosts_may_be_told_one_by_one_where_to_listen() {
    on_hosts(2, |cluster| {
        cluster.add_network();
        let options = ["-H", "n1,n2", "--no-prefix", "--interface", "n1=eth1,ib0,10.79.0.0/24"];
        let ended = cluster.script(&options, SCRIPT).run();
        assert_eq!(
            ended.sorted_lines(),
            ["10.79.0.1 10.79.0.1", "10.79.0.2 10.79.0.1"],
            "{ended:?}"
        );
        let job = cluster.script(&["-H", "n1,n2", "--no-prefix"], SCRIPT);
        let ended = job.env("PACELINE_INTERFACE", "n1=eth0,n2=eth1").run();
        assert_eq!(
            ended.sorted_lines(),
            ["10.78.0.1 10.78.0.1", "10.79.0.2 10.78.0.1"],
            "{ended:?}"
        );
        let ended = cluster.script(&["-H", "n1,n2", "--interface", "n3=eth0"], "true").run();
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains("names n3, which is none of the hosts"), "{ended:?}");
    });
}

#[test]
fn one_network_takes_no_trying() {
    on_hosts(2, |cluster| {
        let ended = cluster.script(&["-H", "n1,n2"], "true").run();
        let said = "network: 10.78.0.0/24 (eth0), the only one that all hosts have";
        assert!(ended.stderr.contains(said), "{ended:?}");
    });
}
