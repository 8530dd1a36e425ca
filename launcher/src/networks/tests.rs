use super::*;
use crate::probe::Way;

/// A host with addresses as `interface address/prefix`, each perhaps with the megabits of its link.
fn host(name: &str, addresses: &[(&str, Option<u32>)]) -> Described {
    let address = |(text, megabits): &(&str, Option<u32>)| {
        let (interface, rest) = text.split_once(' ').expect("an interface");
        let (address, prefix) = rest.split_once('/').expect("a prefix");
        HostAddress {
            interface: interface.to_owned(),
            address: address.parse().expect("an address"),
            prefix: prefix.parse().expect("a number"),
            megabits_per_second: *megabits,
        }
    };
    let facts = AgentFacts {
        version: "1".into(),
        build: None,
        cores: 2,
        framework_ports: vec![20_001, 20_002],
        reached_at: None,
        reached_from: None,
        addresses: addresses.iter().map(address).collect(),
    };
    (name.to_owned(), facts)
}

/// The names of the networks; the first address of each host is the usual one.
fn found(hosts: &[Described]) -> Vec<Network> {
    let usual: Vec<Candidate> = hosts.iter().map(|host| host.1.addresses[0].candidate()).collect();
    networks(hosts, &usual)
}

fn names(networks: &[Network]) -> Vec<&str> {
    networks.iter().map(|network| network.name.as_str()).collect()
}

#[test]
fn hosts_that_meet_at_one_address_are_named() {
    let at = |name: &str, address: &str| host(name, &[(address, None)]);
    let warnings = |hosts: &[Described]| {
        let members: Vec<Candidate> =
            hosts.iter().map(|host| host.1.addresses[0].candidate()).collect();
        shared_addresses(hosts, &members)
    };
    let (a, b) = (at("a", "eth0 10.0.0.1/24"), at("b", "eth0 10.0.0.2/24"));
    assert_eq!(warnings(&[a.clone(), b.clone()]), [""; 0]);
    let again = at("10.0.0.1", "eth0 10.0.0.1/24");
    let [warning] = &warnings(&[a, b, again])[..] else { panic!("one warning") };
    assert!(warning.starts_with("a, 10.0.0.1 have the same address, 10.0.0.1: "), "{warning}");
    let many: Vec<Described> =
        (1..=6).map(|number| at(&format!("n{number}"), "lo 127.0.0.1/8")).collect();
    let expected =
        "n1, n2, n3, n4 and 2 more are to meet at 127.0.0.1, which leads each of them to itself";
    assert_eq!(warnings(&many), [expected]);
}

#[test]
fn networks_are_what_all_hosts_have() {
    let two = [
        host(
            "a",
            &[
                ("eth0 10.0.0.1/24", Some(10_000)),
                ("eth1 10.1.0.1/24", Some(100_000)),
                ("docker0 172.17.0.1/16", None),
                ("lo 127.0.0.1/8", None),
                ("eth0 fd00::1/64", Some(10_000)),
            ],
        ),
        host(
            "b",
            &[
                ("eth0 10.0.0.2/24", Some(1000)),
                // The same subnet by another name.
                ("ens7 10.1.0.2/24", Some(100_000)),
                ("docker0 172.17.0.1/16", None),
                ("lo 127.0.0.1/8", None),
                ("eth0 fd00::2/64", Some(1000)),
            ],
        ),
    ];
    let both = found(&two);
    // The same wires are not another network because they have another address, too.
    assert_eq!(names(&both), ["10.0.0.0/24 (eth0)", "10.1.0.0/24"]);
    assert_eq!((both[0].megabits, both[1].megabits), (Some(1000), Some(100_000)));
    assert_eq!(addresses_of(&both, 1).len(), 2);
    let three = [&two[..], &[host("c", &[("eth0 10.0.0.3/24", None)])]].concat();
    assert_eq!(names(&found(&three)), ["10.0.0.0/24 (eth0)"]);
    assert_eq!(found(&three)[0].megabits, None);
}

#[test]
fn interfaces_of_one_name_are_a_network_although_routers_are_between() {
    let hosts = [
        host("a", &[("eth0 10.0.0.1/24", None), ("eth1 10.1.1.2/31", None)]),
        host("b", &[("eth0 10.0.0.2/24", None), ("eth1 10.1.2.2/31", None)]),
    ];
    assert_eq!(names(&found(&hosts)), ["10.0.0.0/24 (eth0)", "eth1"]);
    let odd = [host("a", &[("eth0 10.0.0.1/24", None)]), host("b", &[("ens3 10.9.0.2/24", None)])];
    assert_eq!(names(&found(&odd)), ["the network that ssh uses"]);
}

fn way(gigabytes_per_second: u64) -> Way {
    Way {
        local_address: "10.0.0.1".parse().expect("an address"),
        p50_ns: 20_000,
        p99_ns: 30_000,
        round_trips: 20,
        mtu: None,
        burst_bytes: 1000 * gigabytes_per_second,
        burst_ns: 1000,
    }
}

fn choice(ways: &[Result<&[u64], &str>]) -> (usize, NetworkChoice) {
    let network =
        |index: usize| Network { name: format!("net{index}"), members: Vec::new(), megabits: None };
    let networks: Vec<Network> = (0..ways.len()).map(network).collect();
    let one = |outcome: &Result<&[u64], &str>| match outcome {
        Ok(ways) => Found::of(ways.iter().map(|speed| way(*speed)).collect(), None),
        Err(problem) => Found::of(Vec::new(), Some((*problem).to_owned())),
    };
    let found: Vec<Found> = ways.iter().map(one).collect();
    choose(&networks, &found)
}

#[test]
fn the_fastest_network_is_chosen_where_it_is_clearly_faster() {
    let (chosen, said) = choice(&[Ok(&[4, 4]), Ok(&[9, 8, 10])]);
    assert_eq!((chosen, said.why.as_str()), (1, "2.0 times as fast as net0"));
    assert_eq!(said.networks[1].gigabytes_per_second, Some(8.0));
    // A network is as fast as its slowest way.
    let (chosen, said) = choice(&[Ok(&[4, 4]), Ok(&[100, 4])]);
    assert_eq!((chosen, said.why.as_str()), (0, "ssh's way, and no other is 1.25 times as fast"));
    let (chosen, _) = choice(&[Ok(&[]), Ok(&[1])]);
    assert_eq!(chosen, 1);
}

#[test]
fn a_network_that_does_not_reach_all_hosts_is_not_chosen() {
    let (chosen, said) = choice(&[Err("a to b: refused"), Ok(&[])]);
    assert_eq!((chosen, said.why.as_str()), (1, "the only one that leads to all hosts"));
    assert_eq!(said.networks[0].problem.as_deref(), Some("a to b: refused"));
    let (chosen, said) = choice(&[Err("x"), Ok(&[2]), Ok(&[2])]);
    assert_eq!(
        (chosen, said.why.as_str()),
        (1, "the first of them, and no other is 1.25 times as fast")
    );
    let (chosen, said) = choice(&[Err("x"), Err("y")]);
    assert_eq!(chosen, 0);
    assert!(said.warnings[0].contains("paceline doctor"), "{said:?}");
}

#[test]
fn who_wants_the_slower_network_is_told_so() {
    let network = |name: &str, interface: &str, megabits| Network {
        name: name.to_owned(),
        members: vec![Candidate {
            interface: interface.to_owned(),
            address: "10.0.0.1".parse().expect("an address"),
        }],
        megabits,
    };
    let slow = network("eth0", "eth0", Some(10_000));
    let fast = network("eth1", "eth1", Some(100_000));
    let said = unchosen(&slow, std::slice::from_ref(&fast), true);
    assert_eq!(said.why, "as --interface says");
    assert!(said.warnings[0].contains("eth1, with links of 100 Gb/s"), "{said:?}");
    for other in [&slow, &network("x", "eth1", None), &network("y", "eth1", Some(19_999))] {
        let said = unchosen(&slow, std::slice::from_ref(other), true);
        assert!(said.warnings.is_empty(), "{said:?}");
    }
    assert!(unchosen(&fast, std::slice::from_ref(&slow), true).warnings.is_empty());
}
