//! Tests of placing ranks.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::Path;

use proptest::prelude::*;

use super::placement::Rules;
use super::placement::{MapBy, Placed, PlacementError, RANKS_MAX, RANKS_PER_HOST_MAX, place};
use super::rank_file::parse_rank_file;
use crate::hosts::{HostList, HostSlots};

fn hosts(list: &str) -> Vec<HostSlots> {
    HostList::parse(list).expect("well formed").hosts
}

fn rules(per_host: u32) -> Rules {
    Rules { per_host: number(per_host), per_device: 1 }
}

fn number(count: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(count)
}

/// Places ranks; 0 stands for nothing said.
fn placed(
    ranks: u32,
    list: &str,
    order: &MapBy,
    per_host: u32,
) -> Result<Vec<Placed>, PlacementError> {
    place(number(ranks), &hosts(list), order, &rules(per_host))
}

/// `host.local_rank` for each rank.
fn places(placed: &[Placed]) -> String {
    let text = |place: &Placed| format!("{}.{}", place.host, place.local_rank);
    placed.iter().map(text).collect::<Vec<_>>().join(" ")
}

#[test]
fn hosts_are_filled_one_after_the_other() {
    let by_slot = |ranks, list| placed(ranks, list, &MapBy::Slot, 0).expect("fits");
    assert_eq!(places(&by_slot(0, "a:2,b:3")), "0.0 0.1 1.0 1.1 1.2");
    assert_eq!(places(&by_slot(3, "a:2,b:3")), "0.0 0.1 1.0");
    assert_eq!(places(&by_slot(0, "a,b,c")), "0.0 1.0 2.0");
    assert_eq!(places(&by_slot(2, "a:2,b:3")), "0.0 0.1");
}

#[test]
fn hosts_take_turns_as_long_as_they_have_slots() {
    let by_node = |ranks, list| placed(ranks, list, &MapBy::Node, 0).expect("fits");
    assert_eq!(places(&by_node(0, "a:2,b:4,c:1")), "0.0 1.0 2.0 0.1 1.1 1.2 1.3");
    assert_eq!(places(&by_node(4, "a:2,b:4,c:1")), "0.0 1.0 2.0 0.1");
    assert_eq!(places(&by_node(2, "a:2,b:4,c:1")), "0.0 1.0");
}

#[test]
fn cross_ranks_count_the_hosts_that_have_the_local_rank() {
    for order in [MapBy::Slot, MapBy::Node] {
        let ranks = placed(0, "h1:2,h2:4,h3:1", &order, 0).expect("fits");
        let cross = |host: usize| -> Vec<(u32, u32)> {
            let own = ranks.iter().filter(|place| place.host == host);
            own.map(|place| (place.cross_rank, place.cross_size)).collect()
        };
        assert_eq!(cross(0), [(0, 3), (0, 2)]);
        assert_eq!(cross(1), [(1, 3), (1, 2), (0, 1), (0, 1)]);
        assert_eq!(cross(2), [(2, 3)]);
        let sizes: Vec<u32> = ranks.iter().map(|place| place.local_size).collect();
        assert_eq!(sizes.iter().sum::<u32>(), 2 * 2 + 4 * 4 + 1);
    }
}

#[test]
fn so_many_ranks_per_host() {
    let per_host =
        |ranks, list, count| placed(ranks, list, &MapBy::Slot, count).map(|ranks| places(&ranks));
    assert_eq!(per_host(0, "a,b", 2), Ok("0.0 0.1 1.0 1.1".into()));
    assert_eq!(per_host(3, "a:8,b:2", 2), Ok("0.0 0.1 1.0".into()));
    let too_small = PlacementError::HostTooSmall { host: "b".into(), ranks: 3, slots: 2 };
    assert_eq!(per_host(0, "a,b:2", 3), Err(too_small));
    let too_few = PlacementError::TooFewSlots { rank_count: 5, slots: 4 };
    assert_eq!(per_host(5, "a,b", 2), Err(too_few));
}

#[test]
fn what_does_not_fit_is_refused() {
    let error = |ranks, list| placed(ranks, list, &MapBy::Slot, 0).expect_err(list);
    let too_few = error(5, "a:2,b");
    assert_eq!(too_few.to_string(), "5 ranks do not fit into 3 slots");
    assert!(too_few.hint().is_some());
    let huge = format!("a:{}", u32::MAX);
    let too_many = PlacementError::TooManyRanks { rank_count: u64::from(u32::MAX) };
    assert_eq!(error(0, &huge), too_many);
    assert_eq!(error(u32::MAX, "a"), too_many);
    let ranks = RANKS_PER_HOST_MAX + 1;
    let too_full = PlacementError::HostTooFull { host: "a".into(), ranks };
    assert_eq!(error(ranks, &huge), too_full);
    assert!(matches!(error(RANKS_MAX, &huge), PlacementError::HostTooFull { .. }));
    assert_eq!(place(None, &[], &MapBy::Slot, &rules(0)), Err(PlacementError::NoHosts));
    assert!(place(number(1), &[], &MapBy::Node, &rules(0)).is_err());
}

#[test]
fn devices_with_room_for_several_ranks_are_filled_evenly() {
    let mut hosts = hosts("a:@2+GPU-1");
    let rules = Rules { per_device: 2, ..rules(0) };
    let devices_of = |hosts: &[HostSlots], ranks| {
        let placed = place(number(ranks), hosts, &MapBy::Slot, &rules)?;
        let devices = placed.iter().filter_map(|place| place.device.clone());
        Ok(devices.map(|device| device.to_string()).collect::<Vec<_>>().join(" "))
    };
    hosts[0].slots = number(4);
    assert_eq!(devices_of(&hosts, 0), Ok("2 GPU-1 2 GPU-1".to_owned()));
    assert_eq!(devices_of(&hosts, 2), Ok("2 GPU-1".to_owned()));
    hosts[0].slots = number(5);
    let too_few = PlacementError::TooFewDevices { host: "a".into(), ranks: 5, devices: 2 };
    assert_eq!(devices_of(&hosts, 0), Err(too_few));
}

#[test]
fn each_rank_has_a_device_of_its_own() {
    let ranks = placed(4, "a:@2+0,b:@GPU-1+3", &MapBy::Node, 0).expect("fits");
    let devices: Vec<_> = ranks.iter().filter_map(|place| place.device.clone()).collect();
    let devices: Vec<&str> = devices.iter().map(|device| device.as_str()).collect();
    assert_eq!(devices, ["2", "GPU-1", "0", "3"]);
    assert_eq!(placed(1, "a", &MapBy::Slot, 0).expect("fits")[0].device, None);
    // Whoever fills these in by hand may get them wrong.
    let mut host = hosts("a:@0").remove(0);
    host.slots = number(2);
    let too_few = PlacementError::TooFewDevices { host: "a".into(), ranks: 2, devices: 1 };
    assert_eq!(place(None, &[host], &MapBy::Slot, &rules(0)), Err(too_few));
}

#[test]
fn a_rank_file_places_ranks_where_it_says() {
    let by_file = |text, ranks, list, per_host| {
        let file = parse_rank_file(text, Path::new("f")).expect("well formed");
        placed(ranks, list, &MapBy::RankFile(file), per_host).map(|ranks| places(&ranks))
    };
    let text = "rank 1=a\nrank 0=b slot=3\nrank 2=a";
    assert_eq!(by_file(text, 0, "a:2,b", 0), Ok("1.0 0.0 0.1".into()));
    assert_eq!(by_file(text, 3, "a,b", 0), Ok("1.0 0.0 0.1".into()));
    let count = PlacementError::RankFileCount { rank_count: 2, placed: 3 };
    assert_eq!(by_file(text, 2, "a,b", 0), Err(count));
    let unknown = PlacementError::UnknownHost { rank: 0, host: "b".into() };
    assert_eq!(by_file(text, 0, "a", 0), Err(unknown));
    let too_small = PlacementError::HostTooSmall { host: "a".into(), ranks: 2, slots: 1 };
    assert_eq!(by_file(text, 0, "a:1,b", 0), Err(too_small.clone()));
    assert_eq!(by_file(text, 0, "a,b", 1), Err(too_small));
}

fn some_hosts() -> impl Strategy<Value = Vec<HostSlots>> {
    let host = (proptest::option::of(1_u32..6), 0_usize..4);
    proptest::collection::vec(host, 1..8).prop_map(|hosts| {
        let host = |(index, (slots, devices)): (usize, (Option<u32>, usize))| {
            let names = (0..devices).map(|device| device.to_string());
            let devices: Vec<_> = names.map(|name| name.parse().expect("a number")).collect();
            let listed = u32::try_from(devices.len()).ok().and_then(NonZeroU32::new);
            let slots = listed.or_else(|| slots.and_then(NonZeroU32::new));
            HostSlots { devices, ..HostSlots::new(format!("h{index}"), slots) }
        };
        hosts.into_iter().enumerate().map(host).collect()
    })
}

proptest! {
    #[test]
    fn every_rank_has_one_place_and_no_host_more_than_its_slots(
        hosts in some_hosts(), ranks in 0_u32..40, per_host in 0_u32..4, turns in any::<bool>()
    ) {
        let order = if turns { MapBy::Node } else { MapBy::Slot };
        let Ok(placed) = place(number(ranks), &hosts, &order, &rules(per_host)) else {
            let room = |host: &HostSlots| if per_host > 0 { per_host } else { host.slots_or_one().get() };
            let is_small = |host: &HostSlots| host.slots.is_some_and(|slots| per_host > slots.get());
            let slots: u32 = hosts.iter().map(room).sum();
            prop_assert!(ranks > slots || hosts.iter().any(is_small));
            return Ok(());
        };
        if ranks > 0 {
            prop_assert_eq!(placed.len(), ranks as usize);
        }
        let mut places = HashSet::new();
        let mut nodes = HashSet::new();
        for place in &placed {
            prop_assert!(places.insert((place.host, place.local_rank)));
            nodes.insert(place.node);
            let of_host = placed.iter().filter(|other| other.host == place.host).count();
            prop_assert_eq!(of_host, place.local_size as usize);
            prop_assert!(place.local_rank < place.local_size);
            let host = &hosts[place.host];
            prop_assert!(host.slots.is_none_or(|slots| place.local_size <= slots.get()));
            prop_assert!(per_host == 0 || place.local_size <= per_host);
            prop_assert_eq!(place.device.as_ref(), host.devices.get(place.local_rank as usize));
            let peers = placed.iter().filter(|other| other.local_rank == place.local_rank);
            prop_assert_eq!(peers.clone().count(), place.cross_size as usize);
            let before = peers.filter(|other| other.host < place.host).count();
            prop_assert_eq!(before, place.cross_rank as usize);
        }
        let last = nodes.iter().max().copied().unwrap_or(0);
        prop_assert_eq!(nodes.len(), last as usize + 1);
    }
}
