//! Devices of a host by name: `0+2+3`, `GPU-8f1c…`, `MIG-…`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest name of a device; a UUID of a part of one has 80 letters in its longest form.
const NAME_BYTES_MAX: usize = 128;

/// A device of a host: its number there, or a name such as `GPU-…` or `MIG-…`.
///
/// # Invariants
/// Not empty; letters, digits and `-_./` only; a number has no leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeviceName(String);

impl DeviceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A list of devices that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Nothing where a device should be.
    #[error("a device has no name: devices are listed as in @0+2+3")]
    Empty,
    /// Something that is neither a number nor a name.
    #[error("{name:?} is neither the number nor the name of a device")]
    Name {
        /// What was given.
        name: String,
    },
    /// The same device twice.
    #[error("device {name} is listed twice")]
    Twice {
        /// The device.
        name: DeviceName,
    },
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        if text.is_empty() {
            return Err(DeviceError::Empty);
        }
        let wrong = || DeviceError::Name { name: text.to_owned() };
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            // 00 and 0 are one device.
            return Ok(Self(text.parse::<u32>().map_err(|_| wrong())?.to_string()));
        }
        let is_named = text.starts_with(|first: char| first.is_ascii_alphabetic());
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if is_named && text.len() <= NAME_BYTES_MAX && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(wrong())
        }
    }
}

/// Parses `0+2+3`.
pub(super) fn parse(text: &str) -> Result<Vec<DeviceName>, DeviceError> {
    let mut devices: Vec<DeviceName> = Vec::new();
    for name in text.split('+') {
        let name: DeviceName = name.parse()?;
        if devices.contains(&name) {
            return Err(DeviceError::Twice { name });
        }
        devices.push(name);
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, DeviceError> {
        Ok(parse(text)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn devices_are_numbers_and_names() {
        assert_eq!(names("0+2+3"), Ok(vec!["0".into(), "2".into(), "3".into()]));
        assert_eq!(names("007"), Ok(vec!["7".into()]));
        let uuids = "GPU-8f1c2d3e-0000-1111-2222-333344445555+MIG-GPU-8f1c/1/0";
        assert_eq!(names(uuids).map(|names| names.join("+")), Ok(uuids.to_owned()));
    }

    #[test]
    fn nonsense_and_repetitions_are_named() {
        assert_eq!(names(""), Err(DeviceError::Empty));
        assert_eq!(names("0++1"), Err(DeviceError::Empty));
        for wrong in ["-1", "4294967296", "0x1", "a b", "é", "/dev", "a@b"] {
            assert_eq!(names(wrong), Err(DeviceError::Name { name: wrong.into() }), "{wrong}");
        }
        let said = |text| names(text).expect_err("twice").to_string();
        assert_eq!(said("0+1+0"), "device 0 is listed twice");
        assert_eq!(said("1+01"), "device 1 is listed twice");
    }
}
