//! `-H` beside `--hostfile`: the file says what there is, the list what of it is used.

use std::collections::HashMap;

use thiserror::Error;

use super::entry::HostSlots;
use super::list::first_slots;

/// A list asks for what the hostfile does not have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// A host that is not there.
    #[error("host {host} is not in the hostfile")]
    Unknown {
        /// The host.
        host: String,
    },
    /// More slots than the host has.
    #[error("{wanted} slots are asked of {host}, which has {slots} in the hostfile")]
    Slots {
        /// The host.
        host: String,
        /// Slots that the list asks for.
        wanted: u32,
        /// Slots that the file has.
        slots: u32,
    },
    /// A device that is not there.
    #[error("{host} has no device {device} in the hostfile")]
    Device {
        /// The host.
        host: String,
        /// The device.
        device: String,
    },
    /// Two users.
    #[error("{wanted} has another user than {listed} in the hostfile")]
    User {
        /// As the list has it.
        wanted: String,
        /// As the file has it.
        listed: String,
    },
}

impl SelectionError {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        Some("with a hostfile, -H chooses among the hosts that the file has".to_owned())
    }
}

/// The hosts of a list, in its order, with the slots that a hostfile gives them.
///
/// A host without a number has all slots of the file, one with a number the first so many; devices
/// that the list names replace those of the file, which must have them if it has any.
///
/// # Errors
/// A host, slots, a device or a user that the file does not have.
pub fn select(
    listed: &[HostSlots],
    wanted: &[HostSlots],
) -> Result<Vec<HostSlots>, SelectionError> {
    let known: HashMap<&str, &HostSlots> =
        listed.iter().map(|host| (host.host.as_str(), host)).collect();
    let choose = |wanted: &HostSlots| match known.get(wanted.host.as_str()) {
        Some(listed) => choose(listed, wanted),
        None => Err(SelectionError::Unknown { host: wanted.host.clone() }),
    };
    wanted.iter().map(choose).collect()
}

fn choose(listed: &HostSlots, wanted: &HostSlots) -> Result<HostSlots, SelectionError> {
    let host = || wanted.host.clone();
    if wanted.user.is_some() && listed.user.is_some() && wanted.user != listed.user {
        let (wanted, listed) = (wanted.to_string(), listed.to_string());
        return Err(SelectionError::User { wanted, listed });
    }
    let mut chosen = match wanted.slots {
        None => listed.clone(),
        Some(count) if count > listed.slots_or_one() => {
            let slots = listed.slots_or_one().get();
            return Err(SelectionError::Slots { host: host(), wanted: count.get(), slots });
        }
        Some(count) => first_slots(listed, count),
    };
    if !wanted.devices.is_empty() {
        let is_missing =
            |device: &&_| !listed.devices.is_empty() && !listed.devices.contains(device);
        if let Some(device) = wanted.devices.iter().find(is_missing) {
            return Err(SelectionError::Device { host: host(), device: device.to_string() });
        }
        chosen.devices.clone_from(&wanted.devices);
    }
    if wanted.user.is_some() {
        chosen.user.clone_from(&wanted.user);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::hosts::{HostList, parse_hostfile};

    fn chosen(file: &str, list: &str) -> Result<String, String> {
        let listed = parse_hostfile(file, Path::new("f")).expect("well formed");
        let wanted = HostList::parse(list).expect("well formed").hosts;
        let hosts = select(&listed, &wanted).map_err(|error| error.to_string())?;
        Ok(hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_list_chooses_and_orders_what_the_file_has() {
        let file = "a slots=4\nme@b slots=2\nc\nd:@0+1+2";
        assert_eq!(chosen(file, "b,a"), Ok("me@b:2 a:4".into()));
        assert_eq!(chosen(file, "a:2,c"), Ok("a:2 c".into()));
        assert_eq!(chosen(file, "a,a"), Ok("a:2".into()));
        assert_eq!(chosen(file, "me@b,you@a"), Ok("me@b:2 you@a:4".into()));
        assert_eq!(chosen(file, "d"), Ok("d:@0+1+2".into()));
        assert_eq!(chosen(file, "d:2"), Ok("d:@0+1".into()));
        assert_eq!(chosen(file, "d:@2+0"), Ok("d:@2+0".into()));
        assert_eq!(chosen(file, "a:@5"), Ok("a:@5".into()));
    }

    #[test]
    fn what_the_file_does_not_have_is_refused() {
        let file = "a slots=4\nme@b\nd:@0+1";
        let error = |list| chosen(file, list).expect_err(list);
        assert_eq!(error("a,x"), "host x is not in the hostfile");
        assert_eq!(error("a:5"), "5 slots are asked of a, which has 4 in the hostfile");
        assert_eq!(error("b:2"), "2 slots are asked of b, which has 1 in the hostfile");
        assert_eq!(error("d:@7"), "d has no device 7 in the hostfile");
        assert_eq!(error("you@b"), "you@b has another user than me@b in the hostfile");
    }
}
