//! Hosts that are alike, as one: `n[01-16]`.

use paceline_launcher::{HostSummary, RankSummary};

/// Hosts that follow each other, with numbers that do, and the same for each but for the numbers of its
/// ranks, which grow by the same from host to host. At least one.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) hosts: &'a [HostSummary],
    /// The names of all.
    pub(super) name: String,
}

/// A name with a number in it.
struct Numbered<'a> {
    before: &'a str,
    number: u64,
    /// Digits that it has at least.
    width: usize,
    after: &'a str,
}

/// All hosts, as few groups as there may be without changing their order.
pub(super) fn groups(hosts: &[HostSummary]) -> Vec<Group<'_>> {
    let mut groups = Vec::new();
    let mut rest = hosts;
    while let Some(first) = rest.first() {
        let (count, name) = beginning(first, rest);
        let (hosts, after) = rest.split_at(count);
        let user = first.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        groups.push(Group { hosts, name: format!("{user}{name}") });
        rest = after;
    }
    groups
}

/// How many hosts from the first on are alike, and their name.
fn beginning(first: &HostSummary, hosts: &[HostSummary]) -> (usize, String) {
    let alone = || (1, first.host.clone());
    let Some(second) = hosts.get(1) else { return alone() };
    let Some(grows_by) = growth(first, second) else { return alone() };
    let is_next = |name: &Numbered<'_>| name.plus(1).as_ref() == Some(&second.host);
    let Some(name) = numbers(&first.host).into_iter().find(is_next) else { return alone() };
    let pairs = hosts.iter().zip(&hosts[1..]);
    let is_alike = |((one, next), step): &((&HostSummary, &HostSummary), u64)| {
        growth(one, next) == Some(grows_by) && name.plus(*step).as_ref() == Some(&next.host)
    };
    let count = 1 + pairs.zip(1..).take_while(is_alike).count();
    let last = name.number + u64::try_from(count - 1).unwrap_or_default();
    let Numbered { before, number, width, after } = name;
    (count, format!("{before}[{number:0width$}-{last:0width$}]{after}"))
}

/// By how much the ranks of `next` are above those of `one`, if the two are alike.
fn growth(one: &HostSummary, next: &HostSummary) -> Option<u32> {
    let what = |host: &HostSummary| {
        let devices = host.ranks.iter().map(|rank| rank.device.clone()).collect::<Vec<_>>();
        (host.user.clone(), host.is_this_host, host.omp_num_threads.clone(), devices)
    };
    if one.is_this_host || what(one) != what(next) {
        return None;
    }
    let by = |(one, next): (&RankSummary, &RankSummary)| next.rank.checked_sub(one.rank);
    let mut growths = one.ranks.iter().zip(&next.ranks).map(by);
    let first = growths.next()??;
    growths.all(|growth| growth == Some(first)).then_some(first)
}

/// Every number of a name, the last one first: that is what mostly counts.
fn numbers(name: &str) -> Vec<Numbered<'_>> {
    let is_digit = |at: usize| name.as_bytes()[at].is_ascii_digit();
    let starts = (0..name.len()).rev().filter(|&at| is_digit(at) && (at == 0 || !is_digit(at - 1)));
    let numbered = |start: usize| {
        let length = name[start..].bytes().take_while(u8::is_ascii_digit).count();
        let (digits, after) = name[start..].split_at(length);
        let width = if digits.starts_with('0') { length } else { 1 };
        Some(Numbered { before: &name[..start], number: digits.parse().ok()?, width, after })
    };
    starts.filter_map(numbered).collect()
}

impl Numbered<'_> {
    /// The name of the host so many places further.
    fn plus(&self, step: u64) -> Option<String> {
        let (number, width) = (self.number.checked_add(step)?, self.width);
        Some(format!("{}{number:0width$}{}", self.before, self.after))
    }
}
