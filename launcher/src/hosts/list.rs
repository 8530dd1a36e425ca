//! Lists of hosts, as `-H` takes them, and hosts that are named more than once.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;

use super::HOSTS_MAX;
use super::entry::{self, HostSlots};
use super::error::{ConflictKind, HostConflict, HostError, HostProblem};

/// Hosts that are named one by one in a notice; of more there is only the number.
const NAMED_MAX: usize = 8;

/// The hosts of a job, each once, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostList {
    /// The hosts.
    pub hosts: Vec<HostSlots>,
    /// Decisions that the user may want to know of, one sentence each.
    pub notices: Vec<String>,
}

impl HostList {
    /// Parses entries between commas; commas in brackets do not separate.
    ///
    /// A host that is named twice has the slots and devices of both entries, one slot where an entry
    /// has no number, and there is a notice.
    ///
    /// # Errors
    /// Names the first entry that cannot be understood, or does not go with an earlier one.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let mut merger = Merger::default();
        for (number, entry) in (1..).zip(split(text)) {
            let wrong = |problem| HostError { entry: entry.to_owned(), problem };
            for host in entry::parse(entry).map_err(wrong)? {
                merger.add(host, number).map_err(wrong)?;
            }
        }
        Ok(Self { hosts: merger.hosts(), notices: merger.notices() })
    }

    /// Whether no host is named.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

impl From<Vec<HostSlots>> for HostList {
    fn from(hosts: Vec<HostSlots>) -> Self {
        Self { hosts, notices: Vec::new() }
    }
}

/// The entries between commas that are not in brackets.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut is_inside = false;
    let separates = move |letter| {
        match letter {
            '[' => is_inside = true,
            ']' => is_inside = false,
            _ => {}
        }
        letter == ',' && !is_inside
    };
    text.split(separates).map(str::trim)
}

/// Makes one entry of all those for a host.
#[derive(Debug, Default)]
pub(super) struct Merger {
    /// With the place at which each was named first.
    hosts: Vec<(HostSlots, usize)>,
    known: HashMap<String, usize>,
    /// Hosts that were named again.
    doubled: BTreeSet<usize>,
}

impl Merger {
    /// Takes in a host that is named at a place: the number of an entry or line.
    pub(super) fn add(&mut self, host: HostSlots, place: usize) -> Result<(), HostProblem> {
        let Some(&index) = self.known.get(&host.host) else {
            if self.hosts.len() == HOSTS_MAX {
                return Err(HostProblem::TooMany);
            }
            self.known.insert(host.host.clone(), self.hosts.len());
            self.hosts.push((host, place));
            return Ok(());
        };
        let (earlier, first_place) = &mut self.hosts[index];
        let conflict = |kind| {
            HostProblem::Conflict(HostConflict {
                first: earlier.to_string(),
                first_place: *first_place,
                second: host.to_string(),
                kind,
            })
        };
        *earlier = combine(earlier, &host).map_err(conflict)?;
        self.doubled.insert(index);
        Ok(())
    }

    /// What has become of hosts that were named more than once.
    fn notices(&self) -> Vec<String> {
        let count = self.doubled.len();
        if count > NAMED_MAX {
            return vec![format!("{count} hosts are named more than once: their slots add up")];
        }
        let hosts = self.doubled.iter().map(|index| &self.hosts[*index].0);
        let notice = |host: &HostSlots| {
            format!("{} is named more than once: {} slots", host.host, host.slots_or_one())
        };
        hosts.map(notice).collect()
    }

    /// The hosts, in the order in which they were named first.
    pub(super) fn hosts(&self) -> Vec<HostSlots> {
        self.hosts.iter().map(|(host, _)| host.clone()).collect()
    }
}

/// One entry for a host that two describe: the name is the first one's, slots and devices add up.
pub(crate) fn combine(one: &HostSlots, other: &HostSlots) -> Result<HostSlots, ConflictKind> {
    if one.user != other.user {
        return Err(ConflictKind::User);
    }
    let is_shared = other.devices.iter().any(|device| one.devices.contains(device));
    if is_shared || one.devices.is_empty() != other.devices.is_empty() {
        return Err(ConflictKind::Devices);
    }
    let slots = one.slots_or_one().saturating_add(other.slots_or_one().get());
    let devices = one.devices.iter().chain(&other.devices).cloned().collect();
    Ok(HostSlots { slots: Some(slots), devices, ..one.clone() })
}

/// The first slots of a host, and the devices that go with them.
pub(super) fn first_slots(host: &HostSlots, count: NonZeroU32) -> HostSlots {
    let mut fewer = HostSlots { slots: Some(count), ..host.clone() };
    fewer.devices.truncate(usize::try_from(count.get()).unwrap_or(usize::MAX));
    fewer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(list: &str) -> Result<String, HostError> {
        let list = HostList::parse(list)?;
        Ok(list.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn entries_are_separated_by_commas_outside_brackets() {
        assert_eq!(texts("a:4,b:2"), Ok("a:4 b:2".into()));
        assert_eq!(texts(" a:4 , b"), Ok("a:4 b".into()));
        assert_eq!(texts("n[1,3-4]:2,[fe80::1]:2"), Ok("n1:2 n3:2 n4:2 [fe80::1]:2".into()));
        assert_eq!(texts("a:@0+1,me@b:@2"), Ok("a:@0+1 me@b:@2".into()));
        // What one entry has does not leak to its neighbours.
        assert_eq!(texts("a:3,b,c:2"), Ok("a:3 b c:2".into()));
    }

    #[test]
    fn the_first_bad_entry_is_named() {
        let said = |list: &str| texts(list).expect_err(list).to_string();
        assert_eq!(said("a,,b"), r#""": no host is named"#);
        assert_eq!(said(""), r#""": no host is named"#);
        assert_eq!(said("a:1,b:x,c:y"), r#""b:x": "x" is not a number of slots"#);
        let descends = r#""n[3-1]:2": the range 3-1 descends"#;
        assert_eq!(said("n[3-1]:2"), descends);
        assert!(said("[::1,b").contains("bracket"));
    }

    #[test]
    fn a_host_that_is_named_again_has_the_slots_of_both() {
        let list = HostList::parse("a:2,b,a:1,b,a").expect("well formed");
        assert_eq!(list.hosts.len(), 2);
        assert_eq!(list.hosts[0].to_string(), "a:4");
        assert_eq!(list.hosts[1].to_string(), "b:2");
        let notices = ["a is named more than once: 4 slots", "b is named more than once: 2 slots"];
        assert_eq!(list.notices, notices);
        assert_eq!(texts("a:@0,b,a:@2+1"), Ok("a:@0+2+1 b".into()));
        let huge = u32::MAX.to_string();
        assert_eq!(texts(&format!("a:{huge},a:2")), Ok(format!("a:{huge}")));
        assert!(HostList::parse("a,b").expect("well formed").notices.is_empty());
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_both_places() {
        let said = |list: &str| texts(list).expect_err(list).to_string();
        let user = r#""you@a:2": you@a:2 has another user than me@a, entry 1 of the list"#;
        assert_eq!(said("me@a,b,you@a:2"), user);
        assert!(said("a,me@a").contains("another user than a, entry 1"));
        let devices =
            r#""a:@1": a:@1 does not add up with the devices of a:@0+1, entry 2 of the list"#;
        assert_eq!(said("b,a:@0+1,a:@1"), devices);
        assert!(said("a:2,a:@1").contains("does not add up"));
        assert!(texts("a,me@a").expect_err("users").hint().is_some());
    }

    #[test]
    fn lists_have_a_limit() {
        assert!(texts("n[1-65536]").is_ok());
        let error = texts("n[1-65536],m").expect_err("too many");
        assert_eq!(error, HostError { entry: "m".into(), problem: HostProblem::TooMany });
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_host_is_there_twice(text in r"[ab1:@+,\[\]-]{0,20}") {
            if let Ok(list) = HostList::parse(&text) {
                let names: std::collections::HashSet<_> =
                    list.hosts.iter().map(|host| &host.host).collect();
                prop_assert_eq!(names.len(), list.hosts.len());
                prop_assert!(!list.is_empty());
            }
        }
    }
}
