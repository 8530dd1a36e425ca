//! `--gpus a:0+1,b:2`: devices of hosts that are listed elsewhere.

use std::num::NonZeroU32;

use paceline_rendezvous::Fraction;
use thiserror::Error;

use super::devices::{self, DeviceError, DeviceName};
use super::entry::HostSlots;
use super::list::HostList;

/// Devices of hosts, as `--gpus` names them: `a:0+1,b:2`, or `0+1` for those of every host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuList {
    /// The host, `None` for every one that has no entry of its own; its devices.
    entries: Vec<(Option<String>, Vec<DeviceName>)>,
}

/// Devices that make no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GpuListError {
    /// An entry that cannot be understood.
    #[error("--gpus {entry:?}: {problem}")]
    Device {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        problem: DeviceError,
    },
    /// The same host twice.
    #[error("--gpus names {host} twice")]
    Twice {
        /// The host, or `every host`.
        host: String,
    },
    /// A host that is none of the job's.
    #[error("--gpus names {host}, which is none of the hosts")]
    UnknownHost {
        /// The host.
        host: String,
    },
    /// Devices in both places.
    #[error("the devices of {host} are listed twice: with the host, and by --gpus")]
    Both {
        /// The host.
        host: String,
    },
}

impl GpuListError {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Device { .. } => {
                "GPUs are named as in --gpus a:0+1,b:2 or, the same on every host, --gpus 0+1"
                    .into()
            }
            Self::Twice { .. } => "put a host's GPUs into one entry, as in a:0+1".into(),
            Self::UnknownHost { .. } => "name it as it is named with -H or in the hostfile".into(),
            Self::Both { .. } => "leave one of the two out".into(),
        })
    }
}

impl GpuList {
    /// Parses `a:0+1,b:2`.
    ///
    /// # Errors
    /// [`GpuListError::Device`], [`GpuListError::Twice`].
    pub fn parse(text: &str) -> Result<Self, GpuListError> {
        let mut entries: Vec<(Option<String>, Vec<DeviceName>)> = Vec::new();
        for entry in text.split(',') {
            let entry = entry.trim();
            // The address of a host may have colons of its own; devices have none.
            let (host, names) = match entry.rsplit_once(':') {
                Some((host, names)) => (Some(host.trim_matches(['[', ']']).to_owned()), names),
                None => (None, entry),
            };
            let devices = devices::parse(names.strip_prefix('@').unwrap_or(names))
                .map_err(|problem| GpuListError::Device { entry: entry.to_owned(), problem })?;
            if entries.iter().any(|(known, _)| *known == host) {
                let host = host.unwrap_or_else(|| "every host".to_owned());
                return Err(GpuListError::Twice { host });
            }
            entries.push((host, devices));
        }
        Ok(Self { entries })
    }

    /// The hosts that are named, where none are listed elsewhere.
    fn hosts(&self) -> Vec<HostSlots> {
        let names = self.entries.iter().filter_map(|(host, _)| host.clone());
        let names: Vec<String> = names.collect();
        if names.is_empty() && !self.entries.is_empty() {
            return vec![HostSlots::new("localhost", None)];
        }
        names.into_iter().map(|host| HostSlots::new(host, None)).collect()
    }
}

impl HostList {
    /// With the devices that `--gpus` lists, each of which has room for as many ranks as `fraction`
    /// lets share it. A host whose slots nobody has given has as many as its devices have room for.
    ///
    /// # Errors
    /// [`GpuListError::UnknownHost`], [`GpuListError::Both`].
    pub fn with_devices(self, gpus: &GpuList, fraction: Fraction) -> Result<Self, GpuListError> {
        let mut hosts = if self.is_empty() { gpus.hosts() } else { self.hosts };
        let named = gpus.entries.iter().filter_map(|(host, _)| host.as_ref());
        for name in named {
            if !hosts.iter().any(|host| host.host == *name) {
                return Err(GpuListError::UnknownHost { host: name.clone() });
            }
        }
        for host in &mut hosts {
            let of_host = gpus.entries.iter().find(|(name, _)| name.as_ref() == Some(&host.host));
            let of_all = || gpus.entries.iter().find(|(name, _)| name.is_none());
            match (of_host.or_else(of_all), host.devices.is_empty()) {
                (Some((_, devices)), true) => {
                    host.devices.clone_from(devices);
                    host.slots = host.slots.or_else(|| room(devices, fraction));
                }
                (Some(_), false) => return Err(GpuListError::Both { host: host.host.clone() }),
                // What is listed with the host has no other number of slots.
                (None, false) => host.slots = room(&host.devices, fraction),
                (None, true) => {}
            }
        }
        Ok(Self { hosts, notices: self.notices })
    }
}

fn room(devices: &[DeviceName], fraction: Fraction) -> Option<NonZeroU32> {
    let devices = u32::try_from(devices.len()).unwrap_or(u32::MAX);
    NonZeroU32::new(devices.saturating_mul(fraction.per_device()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(hosts: &str, gpus: &str, fraction: &str) -> Result<String, GpuListError> {
        let hosts = match hosts {
            "" => HostList::default(),
            hosts => HostList::parse(hosts).expect("well formed"),
        };
        let fraction = fraction.parse().expect("a fraction");
        let hosts = hosts.with_devices(&GpuList::parse(gpus)?, fraction)?.hosts;
        let one = |host: &HostSlots| {
            let names: Vec<&str> = host.devices.iter().map(DeviceName::as_str).collect();
            format!("{}:{}@{}", host.host, host.slots_or_one(), names.join("+"))
        };
        Ok(hosts.iter().map(one).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn hosts_get_devices_and_as_many_slots_as_those_have_room_for() {
        for (hosts, gpus, fraction, expected) in [
            ("a,b", "a:0+1,b:2", "1", "a:2@0+1 b:1@2"),
            ("", "a:0+1,b:2", "1", "a:2@0+1 b:1@2"),
            ("", "0+1", "1", "localhost:2@0+1"),
            ("a,b", "@0+1", "0.5", "a:4@0+1 b:4@0+1"),
            ("a,b", "3,b:0", "1", "a:1@3 b:1@0"),
            ("a:3", "a:0+1", "0.5", "a:3@0+1"),
            ("::1", "[::1]:0", "0.25", "::1:4@0"),
        ] {
            assert_eq!(given(hosts, gpus, fraction), Ok(expected.to_owned()), "{hosts} {gpus}");
        }
        let listed = HostList::parse("a:@0+1,b").expect("well formed");
        let half = "0.5".parse().expect("a fraction");
        let shared = listed.with_devices(&GpuList::default(), half).expect("sound").hosts;
        assert_eq!(shared[0].slots, NonZeroU32::new(4));
        assert_eq!(shared[1].slots, None);
    }

    #[test]
    fn nonsense_is_named() {
        let both = GpuListError::Both { host: "a".into() };
        assert_eq!(given("a:@0", "a:1", "1"), Err(both));
        let unknown = GpuListError::UnknownHost { host: "c".into() };
        assert_eq!(given("a", "c:1", "1"), Err(unknown));
        assert_eq!(given("a", "a:1,a:2", "1"), Err(GpuListError::Twice { host: "a".into() }));
        for text in ["", "a:", "a:0+", "a:0,", "0+0", "a:x y"] {
            assert!(matches!(given("a", text, "1"), Err(GpuListError::Device { .. })), "{text}");
        }
    }
}
