//! One host: `HOST[:SLOTS]`, `user@HOST`, `[IPv6]:SLOTS`, `HOST:@0+2+3`, each perhaps with a range.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::str::FromStr;

use super::devices::{self, DeviceName};
use super::error::{HostError, HostProblem};
use super::local::LocalRule;
use super::range;

/// Longest name of a host that a resolver takes.
const NAME_BYTES_MAX: usize = 255;

/// Longest name of a user; the usual limit is 32, directories of companies have longer ones.
const USER_BYTES_MAX: usize = 255;

/// One host of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSlots {
    /// Who to log in as, where it is not the present user. Never starts with a hyphen.
    pub user: Option<String>,
    /// Name or address, without brackets: never empty, and never with a hyphen first, so that no
    /// program takes it for an option. An IPv6 address is in its shortest form.
    pub host: String,
    /// Ranks that it may run; `None` where the user gave no number, which mostly counts as one. As
    /// many as there are devices where those are listed.
    pub slots: Option<NonZeroU32>,
    /// Its devices, in the order of local ranks; empty where none are listed.
    pub devices: Vec<DeviceName>,
}

impl HostSlots {
    /// A host of this name, without user and devices.
    pub fn new(host: impl Into<String>, slots: Option<NonZeroU32>) -> Self {
        Self { user: None, host: host.into(), slots, devices: Vec::new() }
    }

    /// Whether the name or address means this machine, whose own names and addresses are given.
    ///
    /// Only the host counts: an entry with a user is dialled even if this is so.
    pub fn is_local(&self, own_name: &str, own_addresses: &[IpAddr]) -> bool {
        LocalRule::Own.covers(&self.host, own_name, own_addresses)
    }

    /// Its slots, where a host without a number has one.
    pub fn slots_or_one(&self) -> NonZeroU32 {
        self.slots.unwrap_or(NonZeroU32::MIN)
    }
}

/// As it is read again.
impl fmt::Display for HostSlots {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(formatter, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(formatter, "[{}]", self.host)?;
        } else {
            formatter.write_str(&self.host)?;
        }
        if self.devices.is_empty() {
            return self.slots.map_or(Ok(()), |slots| write!(formatter, ":{slots}"));
        }
        let names: Vec<&str> = self.devices.iter().map(DeviceName::as_str).collect();
        write!(formatter, ":@{}", names.join("+"))
    }
}

impl FromStr for HostSlots {
    type Err = HostError;

    /// Parses one host; a range that stands for several is refused.
    fn from_str(text: &str) -> Result<Self, HostError> {
        let wrong = |problem| HostError { entry: text.to_owned(), problem };
        let hosts = parse(text).map_err(wrong)?;
        match <[Self; 1]>::try_from(hosts) {
            Ok([host]) => Ok(host),
            Err(hosts) => Err(wrong(HostProblem::Several { count: hosts.len() })),
        }
    }
}

/// The hosts that an entry stands for: one, or as many as its range has.
pub(super) fn parse(text: &str) -> Result<Vec<HostSlots>, HostProblem> {
    if text.starts_with('+') {
        return Err(HostProblem::Relative { name: text.to_owned() });
    }
    let (user, rest) = match text.split_once('@') {
        // A later one belongs to the devices.
        Some((user, rest)) if !user.contains([':', '[']) => (Some(check_user(user)?), rest),
        _ => (None, text),
    };
    let (names, rest) = names(rest)?;
    let (slots, devices) = match rest {
        Some(rest) => slots(rest)?,
        None => (None, Vec::new()),
    };
    let host = |host| HostSlots { user: user.clone(), host, slots, devices: devices.clone() };
    Ok(names.into_iter().map(host).collect())
}

/// The names of the hosts, and what follows the colon behind them.
fn names(text: &str) -> Result<(Vec<String>, Option<&str>), HostProblem> {
    if let Some(bracketed) = text.strip_prefix('[')
        && (!bracketed.contains(']') || before(bracketed, ']').contains(':'))
    {
        let (address, after) = bracketed.split_once(']').ok_or(HostProblem::Bracket)?;
        let address = check_address(address)?;
        return match after.strip_prefix(':') {
            Some(rest) => Ok((vec![address], Some(rest))),
            None if after.is_empty() => Ok((vec![address], None)),
            None => Err(HostProblem::Bracket),
        };
    }
    let (pattern, rest) = match text.split_once(':') {
        // More than one colon: an address without brackets, hence without slots.
        Some((_, rest)) if before(rest, '@').contains(':') => {
            return Ok((vec![check_address(text)?], None));
        }
        Some((pattern, rest)) => (pattern, Some(rest)),
        None => (text, None),
    };
    // Before a range multiplies what is too long already.
    check_length(pattern.len())?;
    let names = if pattern.contains(['[', ']']) {
        range::expand(pattern)?
    } else {
        vec![pattern.to_owned()]
    };
    names.iter().try_for_each(|name| check_name(name))?;
    Ok((names, rest))
}

/// `4`, `@0+1` or `2@0+1`: what stands behind the colon.
fn slots(text: &str) -> Result<(Option<NonZeroU32>, Vec<DeviceName>), HostProblem> {
    let (number, listed) = match text.split_once('@') {
        Some((number, listed)) => (number, Some(listed)),
        None => (text, None),
    };
    let Some(listed) = listed else { return Ok((Some(parse_slots(number)?), Vec::new())) };
    let devices = devices::parse(listed)?;
    let count = u32::try_from(devices.len()).ok().and_then(NonZeroU32::new);
    if !number.is_empty() {
        let slots = parse_slots(number)?;
        if Some(slots) != count {
            let devices = devices.len();
            return Err(HostProblem::DeviceCount { slots: slots.get(), devices });
        }
    }
    Ok((count, devices))
}

/// A number of slots, at least 1, in digits alone.
pub(super) fn parse_slots(text: &str) -> Result<NonZeroU32, HostProblem> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let slots = if is_number { text.parse().ok() } else { None };
    slots.ok_or_else(|| HostProblem::Slots { slots: text.to_owned() })
}

fn before(text: &str, end: char) -> &str {
    text.split(end).next().unwrap_or(text)
}

fn check_length(length: usize) -> Result<(), HostProblem> {
    if length > NAME_BYTES_MAX { Err(HostProblem::Long { length }) } else { Ok(()) }
}

/// Whether it is the name of a host, or an IPv4 address.
fn check_name(name: &str) -> Result<(), HostProblem> {
    check_length(name.len())?;
    if name.is_empty() {
        return Err(HostProblem::Nameless);
    }
    if name.starts_with('-') {
        return Err(HostProblem::Hyphen { name: name.to_owned() });
    }
    let is_wrong = |letter: char| !letter.is_ascii_alphanumeric() && !"-_.".contains(letter);
    match name.chars().find(|letter| is_wrong(*letter)) {
        Some(character) => Err(HostProblem::Character { name: name.to_owned(), character }),
        None => Ok(()),
    }
}

/// An IPv6 address in its shortest form, perhaps with a zone: `fe80::1%eth0`.
fn check_address(text: &str) -> Result<String, HostProblem> {
    let wrong = || HostProblem::Address { address: text.to_owned() };
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
    match zone {
        Some(zone) => {
            check_name(zone).map_err(|_| wrong())?;
            Ok(format!("{address}%{zone}"))
        }
        None => Ok(address.to_string()),
    }
}

fn check_user(user: &str) -> Result<String, HostProblem> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.+\\$".contains(letter);
    let is_long = user.len() > USER_BYTES_MAX;
    if user.is_empty() || is_long || user.starts_with('-') || !user.chars().all(fits) {
        return Err(HostProblem::User { user: user.to_owned() });
    }
    Ok(user.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Result<(String, String, Option<u32>, usize), HostProblem> {
        let host: HostSlots = text.parse().map_err(|error: HostError| error.problem)?;
        let slots = host.slots.map(NonZeroU32::get);
        Ok((host.user.unwrap_or_default(), host.host, slots, host.devices.len()))
    }

    #[test]
    fn every_form_is_understood() {
        for (text, user, host, slots, devices) in [
            ("a", "", "a", None, 0),
            ("a:4", "", "a", Some(4), 0),
            ("me@a.example:4", "me", "a.example", Some(4), 0),
            ("DOM\\me@a", "DOM\\me", "a", None, 0),
            ("10.0.0.1:2", "", "10.0.0.1", Some(2), 0),
            ("[::1]:2", "", "::1", Some(2), 0),
            ("[fe80::1]", "", "fe80::1", None, 0),
            ("fe80::1", "", "fe80::1", None, 0),
            ("fe80:0:0::0001", "", "fe80::1", None, 0),
            ("me@[fe80::1%eth0]:3", "me", "fe80::1%eth0", Some(3), 0),
            ("a:@0+2+3", "", "a", Some(3), 3),
            ("me@a:@GPU-1", "me", "a", Some(1), 1),
            ("[::1]:@0+1", "", "::1", Some(2), 2),
            ("a:2@0+1", "", "a", Some(2), 2),
            ("node[7]:2", "", "node7", Some(2), 0),
            ("[7]n", "", "7n", None, 0),
        ] {
            let expected = (user.to_owned(), host.to_owned(), slots, devices);
            assert_eq!(one(text), Ok(expected), "{text}");
        }
        let hosts = parse("me@n[1-2]:@0+1").expect("well formed");
        let texts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["me@n1:@0+1", "me@n2:@0+1"]);
    }

    #[test]
    fn nonsense_is_named() {
        for text in ["a:0", "a:x", "a:", "a:+4", "a:4294967296", "a:x@0", "a:1 "] {
            assert!(matches!(one(text), Err(HostProblem::Slots { .. })), "{text}");
        }
        for text in ["", ":4", "me@", "me@:4", ":@0"] {
            assert_eq!(one(text), Err(HostProblem::Nameless), "{text}");
        }
        for text in ["[::1", "[::1]4", "[::1] "] {
            assert_eq!(one(text), Err(HostProblem::Bracket), "{text}");
        }
        for text in ["a:1:2", "[a:b]", "[::1%]", "fe80::1%a b", "a::@0"] {
            assert!(matches!(one(text), Err(HostProblem::Address { .. })), "{text}");
        }
        for (text, character) in [("a b", ' '), ("a/b:2", '/'), ("ä", 'ä'), ("a=b", '=')] {
            let name = before(text, ':').to_owned();
            assert_eq!(one(text), Err(HostProblem::Character { name, character }), "{text}");
        }
        for text in ["@a", "-l@a", "a b@c", "ü@c"] {
            assert!(matches!(one(text), Err(HostProblem::User { .. })), "{text}");
        }
        assert!(matches!(one("-oProxyCommand=x"), Err(HostProblem::Hyphen { .. })));
        assert!(matches!(one("+n0"), Err(HostProblem::Relative { .. })));
        assert!(matches!(one("a:@"), Err(HostProblem::Devices(_))));
        assert!(matches!(one("a:@0+0"), Err(HostProblem::Devices(_))));
        assert_eq!(one("a:2@0"), Err(HostProblem::DeviceCount { slots: 2, devices: 1 }));
        assert_eq!(one("a[1-2]"), Err(HostProblem::Several { count: 2 }));
        assert!(matches!(one(&"a".repeat(256)), Err(HostProblem::Long { .. })));
        assert!(matches!(one(&"a[1-60000]".repeat(99)), Err(HostProblem::Long { .. })));
    }

    #[test]
    fn errors_show_the_entry_and_have_a_hint() {
        let error = "localhost:x".parse::<HostSlots>().expect_err("no number");
        assert_eq!(error.to_string(), r#""localhost:x": "x" is not a number of slots"#);
        assert!(error.hint().is_some_and(|hint| hint.contains("HOST:SLOTS")));
    }

    fn hosts() -> impl Strategy<Value = HostSlots> {
        let name = prop_oneof![
            "[a-z0-9][a-z0-9_.-]{0,12}",
            any::<[u16; 8]>().prop_map(|parts| Ipv6Addr::from(parts).to_string()),
            "[a-z]{1,4}".prop_map(|zone| format!("fe80::1%{zone}")),
        ];
        let user = proptest::option::of("[a-z_][a-z0-9_.-]{0,8}");
        let device = prop_oneof!["[1-9][0-9]{0,3}", "(GPU|MIG)-[0-9a-f]{4}"];
        let devices = proptest::collection::hash_set(device, 0..4);
        (user, name, any::<Option<NonZeroU32>>(), devices).prop_map(|(user, host, slots, names)| {
            let devices: Vec<DeviceName> =
                names.iter().map(|name| name.parse().expect("well formed")).collect();
            let listed = u32::try_from(devices.len()).ok().and_then(NonZeroU32::new);
            HostSlots { user, host, slots: listed.or(slots), devices }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(host in hosts()) {
            prop_assert_eq!(host.to_string().parse(), Ok(host));
        }

        #[test]
        fn nothing_panics_and_what_is_understood_can_be_written(
            text in r"[-a0-9:@+.,%é\[\] ]{0,16}"
        ) {
            for host in parse(&text).unwrap_or_default() {
                prop_assert!(!host.host.is_empty() && !host.host.starts_with('-'));
                prop_assert_eq!(host.to_string().parse(), Ok(host));
            }
        }
    }
}
