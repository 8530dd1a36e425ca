//! Which device a rank may use, and how much of it.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// The device of a rank, as the plan of the job assigns it.
///
/// As text: `none`, `local:UUID@FRACTION`, `remote:LEASE@FRACTION`; the fraction is left out when
/// it is the whole device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceAssignment {
    /// Host memory only.
    #[default]
    None,
    /// A device of this node.
    Local {
        /// Its UUID; not empty, without `@`.
        uuid: String,
        /// The share of it that the rank may use.
        fraction: Fraction,
    },
    /// A device of another node.
    Remote {
        /// Name of the lease; not empty, without `@`.
        lease: String,
        /// The share of it that the rank may use.
        fraction: Fraction,
    },
}

impl fmt::Display for DeviceAssignment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name, fraction) = match self {
            Self::None => return formatter.write_str("none"),
            Self::Local { uuid, fraction } => ("local", uuid, fraction),
            Self::Remote { lease, fraction } => ("remote", lease, fraction),
        };
        write!(formatter, "{kind}:{name}")?;
        if *fraction == Fraction::WHOLE { Ok(()) } else { write!(formatter, "@{fraction}") }
    }
}

/// The text describes no device or no fraction of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not none, local:UUID@FRACTION or remote:LEASE@FRACTION with a fraction in (0, 1]")]
pub struct ParseDeviceError;

impl FromStr for DeviceAssignment {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::None);
        }
        let (kind, rest) = text.split_once(':').ok_or(ParseDeviceError)?;
        let (name, fraction) = match rest.split_once('@') {
            Some((name, fraction)) => (name, fraction.parse()?),
            None => (rest, Fraction::WHOLE),
        };
        if name.is_empty() {
            return Err(ParseDeviceError);
        }
        match kind {
            "local" => Ok(Self::Local { uuid: name.to_owned(), fraction }),
            "remote" => Ok(Self::Remote { lease: name.to_owned(), fraction }),
            _ => Err(ParseDeviceError),
        }
    }
}

/// A share of a device in `(0, 1]`, exact to a millionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fraction(NonZeroU32);

impl Fraction {
    /// All of it.
    pub const WHOLE: Self = Self(NonZeroU32::new(Self::MILLION).expect("a million is not zero"));

    const MILLION: u32 = 1_000_000;

    /// That many millionths, `1..=1_000_000`.
    pub fn from_millionths(millionths: u32) -> Option<Self> {
        NonZeroU32::new(millionths).filter(|count| count.get() <= Self::MILLION).map(Self)
    }

    /// The number of millionths, `1..=1_000_000`.
    pub const fn millionths(self) -> u32 {
        self.0.get()
    }

    /// How many such shares a device has room for, at least 1.
    pub const fn per_device(self) -> u32 {
        Self::MILLION / self.0.get()
    }

    /// The share as a number in `(0, 1]`.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0.get()) / f64::from(Self::MILLION)
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::WHOLE {
            return formatter.write_str("1");
        }
        let digits = format!("{:06}", self.0);
        write!(formatter, "0.{}", digits.trim_end_matches('0'))
    }
}

impl FromStr for Fraction {
    type Err = ParseDeviceError;

    /// Parses `1`, `0.5`, `.25`; more than six decimals are refused rather than rounded.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let is_number = all_digits(whole) && all_digits(decimals);
        if !is_number || (whole.is_empty() && decimals.is_empty()) || decimals.len() > 6 {
            return Err(ParseDeviceError);
        }
        let whole: u32 =
            if whole.is_empty() { 0 } else { whole.parse().map_err(|_| ParseDeviceError)? };
        let millionths: u32 = format!("{decimals:0<6}").parse().map_err(|_| ParseDeviceError)?;
        whole
            .checked_mul(Self::MILLION)
            .and_then(|whole| whole.checked_add(millionths))
            .and_then(Self::from_millionths)
            .ok_or(ParseDeviceError)
    }
}
