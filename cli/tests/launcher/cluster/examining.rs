//! `paceline doctor` on several hosts.

use rustix::process::Signal;
use serde_json::Value;

use super::hosts::Cluster;
use super::on_hosts;
use crate::support::eventually;

/// Runs it; returns the exit code, what it says and its JSON.
fn doctor(cluster: &Cluster, hosts: &str) -> (i32, String, Value) {
    let ended = cluster.doctor(&["-H", hosts, "--json", "-"]).run();
    let json = serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| {
        panic!("{error}: {ended:?}");
    });
    cluster.wait_until_empty();
    (ended.code, ended.stderr, json)
}

fn check<'a>(host: &'a Value, name: &str) -> &'a Value {
    let mut checks = host["checks"].as_array().expect("a list").iter();
    checks.find(|check| check["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn hosts_that_see_each_other_are_fine() {
    on_hosts(2, |cluster| {
        let (code, said, json) = doctor(cluster, "n1,n2");
        assert_eq!(code, 0, "{said}");
        for (index, name) in ["n1", "n2"].into_iter().enumerate() {
            let host = &json["hosts"][index];
            assert_eq!(host["host"], name, "{said}");
            for phase in ["name", "ssh", "agent", "clock", "eth0"] {
                assert_eq!(check(host, phase)["status"], "ok", "{phase}: {said}");
            }
        }
        let pairs = json["pairs"].as_array().expect("a list");
        assert_eq!(pairs.len(), 2, "{said}");
        for (pair, address) in pairs.iter().zip(["10.78.0.2", "10.78.0.1"]) {
            let [way] = &pair["ways"].as_array().expect("a list")[..] else {
                panic!("one address: {said}");
            };
            assert_eq!((&way["address"], &way["interface"]), (&address.into(), &"eth0".into()));
            assert_eq!(way["way"]["mtu"], 1500, "{said}");
            assert!(way["way"]["burst_bytes"].as_u64() > Some(0), "{said}");
        }
    });
}

#[test]
fn a_host_without_sshd_is_named_and_the_others_are_examined() {
    on_hosts(3, |cluster| {
        cluster.kill_sshd(2);
        let (code, said, json) = doctor(cluster, "n1,n2,n3,no-such-host.invalid");
        assert_eq!(code, 1, "{said}");
        let n2 = &json["hosts"][1];
        assert_eq!(check(n2, "name")["status"], "ok", "{said}");
        let ssh = check(n2, "ssh");
        assert_eq!(ssh["status"], "failed", "{said}");
        assert!(ssh["found"].as_str().is_some_and(|text| text.contains("refused")), "{said}");
        assert!(said.contains("start sshd on n2"), "{said}");
        assert_eq!(n2["checks"].as_array().map(Vec::len), Some(2), "{said}");
        let unknown = check(&json["hosts"][3], "name");
        assert_eq!(unknown["status"], "failed", "{said}");
        let pair = (&json["pairs"][0]["from"], &json["pairs"][0]["to"]);
        assert_eq!(pair, (&"n1".into(), &"n3".into()), "{said}");
        let (_, said, _) = doctor(cluster, "n1,n2");
        assert!(said.contains("fewer than two of 2 hosts are up"), "{said}");
    });
}

#[test]
fn a_host_of_which_the_link_is_pulled_does_not_answer() {
    on_hosts(2, |cluster| {
        cluster.set_link(2, "down");
        let (code, said, json) = doctor(cluster, "n1,n2");
        assert_eq!(code, 1, "{said}");
        assert_eq!(check(&json["hosts"][0], "agent")["status"], "ok", "{said}");
        let ssh = check(&json["hosts"][1], "ssh");
        assert_eq!(ssh["status"], "failed", "{said}");
        assert!(ssh["remedy"].as_str().is_some_and(|text| text.contains("n2 is up")), "{said}");
    });
}

#[test]
fn a_signal_leaves_nothing() {
    on_hosts(2, |cluster| {
        // ssh to the second host waits for an answer, which keeps the first one's agent.
        cluster.set_link(2, "down");
        let running = cluster.doctor(&["-H", "n1,n2"]).start();
        eventually("the agent on the first host runs", || !cluster.processes(1).is_empty());
        running.signal(Signal::INT);
        assert_eq!(running.wait().code, 130);
        cluster.wait_until_empty();
    });
}
