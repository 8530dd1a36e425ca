//! What follows from what all ranks announced: a pure function of it, so that all ranks conclude the
//! same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::cache::Cache;
use super::error::QueueError;
use super::neutral;
use super::request::{Announcement, Request, Tensor, Verb};

/// Tensors that failed on some ranks before the others submitted them, and who is to be told yet.
pub(super) type Owed = HashMap<String, Debt>;

#[derive(Debug)]
pub(super) struct Debt {
    error: QueueError,
    ranks: Vec<u32>,
}

/// What to do after an exchange, in this order.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// What fails, and on which ranks.
    pub(super) failures: Vec<Failure>,
    /// What all ranks have submitted that have not joined.
    pub(super) ready: Vec<Complete>,
    /// What waits for ranks that have not submitted it.
    pub(super) waiting: Vec<Lacking>,
    /// The last rank that joined, when all have and nothing is left to do.
    pub(super) all_joined: Option<u32>,
    /// Who leaves. Nothing can be completed after that.
    pub(super) leaving: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) name: String,
    pub(super) ranks: Vec<u32>,
    pub(super) error: QueueError,
}

#[derive(Debug)]
pub(super) struct Complete {
    pub(super) name: String,
    pub(super) request: Arc<Request>,
}

#[derive(Debug)]
pub(super) struct Lacking {
    pub(super) name: String,
    pub(super) submitted: Vec<u32>,
    pub(super) missing: Vec<u32>,
    pub(super) waited: Duration,
}

/// What people call a rank of the communicator.
pub(super) type InWorld<'a> = &'a dyn Fn(u32) -> u32;

/// Who submitted what under one name.
struct Candidate {
    name: String,
    by: Vec<(u32, Arc<Request>)>,
    waited: Duration,
    is_expired: bool,
}

impl Candidate {
    fn submitters(&self) -> Vec<u32> {
        self.by.iter().map(|(rank, _)| *rank).collect()
    }

    fn agrees(&self) -> bool {
        self.by.windows(2).all(|pair| pair[0].1 == pair[1].1)
    }

    /// Who submitted what, the ranks of one opinion together.
    fn sides(&self, in_world: InWorld<'_>) -> String {
        let mut sides: Vec<(Vec<u32>, &Request)> = Vec::new();
        for (rank, request) in &self.by {
            match sides.iter_mut().find(|(_, known)| *known == &**request) {
                Some((ranks, _)) => ranks.push(*rank),
                None => sides.push((vec![*rank], request)),
            }
        }
        let sides = sides.into_iter().map(|(ranks, request)| {
            let ranks: Vec<u32> = ranks.into_iter().map(in_world).collect();
            format!("{} submitted {request}", super::error::name_ranks(&ranks))
        });
        sides.collect::<Vec<_>>().join(", ")
    }
}

/// # Errors
/// [`QueueError::Announcement`] if a rank makes no sense, or has other settings than rank 0.
pub(super) fn decide(
    announcements: &[Announcement],
    cache: &mut Cache,
    owed: &mut Owed,
    in_world: InWorld<'_>,
) -> Result<Decision, QueueError> {
    let joined = ranks_that(announcements, |rank| rank.joined_in.is_some());
    let mut decision =
        Decision { leaving: ranks_that(announcements, |rank| rank.leaves), ..Decision::default() };
    for mut candidate in candidates(announcements, cache, in_world)? {
        settle_debts(&mut candidate, owed, &mut decision);
        let submitted = candidate.submitters();
        if submitted.is_empty() {
            continue;
        }
        let lacks = |rank: &u32| !submitted.contains(rank) && !joined.contains(rank);
        let missing: Vec<u32> =
            ranks_that(announcements, |_| true).into_iter().filter(lacks).collect();
        if !candidate.agrees() {
            // Who submits it later must not find what it submits in the cache: it has to say.
            cache.forget(&candidate.name);
        }
        let error = if !missing.is_empty() {
            if !candidate.is_expired {
                let Candidate { name, waited, .. } = candidate;
                decision.waiting.push(Lacking { name, submitted, missing, waited });
                continue;
            }
            let (name, waited) = (candidate.name.clone(), candidate.waited);
            let error = QueueError::Stalled {
                name,
                missing: missing.iter().copied().map(in_world).collect(),
                waited,
            };
            owe(owed, &candidate.name, &error, missing);
            // For the same reason.
            cache.forget(&candidate.name);
            error
        } else if !candidate.agrees() {
            QueueError::Mismatch { name: candidate.name.clone(), sides: candidate.sides(in_world) }
        } else {
            let request = Arc::clone(&candidate.by[0].1);
            let absent: Vec<u32> =
                joined.iter().copied().filter(|rank| !submitted.contains(rank)).collect();
            match obstacle(&request, &absent) {
                None => {
                    decision.ready.push(Complete { name: candidate.name, request });
                    continue;
                }
                Some(reason) => {
                    let name = candidate.name.clone();
                    let joined = absent.into_iter().map(in_world).collect();
                    QueueError::Unjoinable { name, joined, reason }
                }
            }
        };
        decision.failures.push(Failure { name: candidate.name, ranks: submitted, error });
    }
    if announcements.iter().all(|rank| rank.joined_in.is_some() && rank.entries.is_empty()) {
        let order = |rank: &u32| (announcements[*rank as usize].joined_in, *rank);
        decision.all_joined = joined.into_iter().max_by_key(order);
    }
    Ok(decision)
}

/// A rank may owe several times to ranks that are steps ahead.
fn owe(owed: &mut Owed, name: &str, error: &QueueError, ranks: Vec<u32>) {
    let (name, error) = (name.to_owned(), error.clone());
    let debt = owed.entry(name).or_insert_with(|| Debt { error, ranks: Vec::new() });
    debt.ranks.extend(ranks);
}

fn ranks_that(announcements: &[Announcement], holds: impl Fn(&Announcement) -> bool) -> Vec<u32> {
    (0u32..).zip(announcements).filter(|(_, rank)| holds(rank)).map(|(rank, _)| rank).collect()
}

/// What was submitted anywhere, in the order of the lowest rank that did.
fn candidates(
    announcements: &[Announcement],
    cache: &Cache,
    in_world: InWorld<'_>,
) -> Result<Vec<Candidate>, QueueError> {
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (rank, announcement) in (0u32..).zip(announcements) {
        let unusable = |what: String| QueueError::Announcement { rank: in_world(rank), what };
        if announcement.settings != announcements[0].settings {
            let (theirs, first) = (announcement.settings, announcements[0].settings);
            return Err(unusable(format!(
                "its settings are {theirs:?}, those of rank 0 {first:?}"
            )));
        }
        for entry in &announcement.entries {
            let (name, request) = match &entry.tensor {
                Tensor::Named(name, request) => (name.clone(), Arc::new(request.clone())),
                Tensor::Cached(slot) => {
                    let known = cache.slot(*slot as usize);
                    known
                        .and_then(|slot| Some((slot.name.to_string(), slot.request.clone()?)))
                        .ok_or_else(|| unusable(format!("slot {slot} of the cache is empty")))?
                }
            };
            if request.dtype().is_none() {
                return Err(unusable(format!("{name} is of an unknown type")));
            }
            let place = *places.entry(name.clone()).or_insert_with(|| {
                let (by, waited, is_expired) = (Vec::new(), Duration::ZERO, false);
                candidates.push(Candidate { name, by, waited, is_expired });
                candidates.len() - 1
            });
            let candidate = &mut candidates[place];
            candidate.by.push((rank, request));
            candidate.waited = candidate.waited.max(Duration::from_millis(entry.waited_ms));
            candidate.is_expired |= entry.is_expired;
        }
    }
    Ok(candidates)
}

/// Who comes late to what failed elsewhere gets that failure, and the others wait for nobody.
fn settle_debts(candidate: &mut Candidate, owed: &mut Owed, decision: &mut Decision) {
    let Some(debt) = owed.get_mut(&candidate.name) else { return };
    let late: Vec<u32> =
        candidate.submitters().into_iter().filter(|rank| debt.ranks.contains(rank)).collect();
    if late.is_empty() {
        return;
    }
    candidate.by.retain(|(rank, _)| !late.contains(rank));
    for rank in &late {
        if let Some(place) = debt.ranks.iter().position(|debtor| debtor == rank) {
            debt.ranks.swap_remove(place);
        }
    }
    let error = debt.error.clone();
    if debt.ranks.is_empty() {
        owed.remove(&candidate.name);
    }
    decision.failures.push(Failure { name: candidate.name.clone(), ranks: late, error });
}

/// Why the operation cannot go on without the data of these ranks, if it cannot.
fn obstacle(request: &Request, absent: &[u32]) -> Option<&'static str> {
    if absent.is_empty() {
        return None;
    }
    match &request.verb {
        Verb::AllReduce(operator, _) | Verb::ReduceScatter(operator) => {
            let lacks = "and this reduction has no neutral element";
            (!neutral::exists(operator)).then_some(lacks)
        }
        Verb::Broadcast { root } if absent.contains(root) => Some("and one of them is the root"),
        Verb::Broadcast { .. } | Verb::Adasum | Verb::AllGatherV | Verb::Barrier => None,
        Verb::AllGather => Some("and an all_gather needs data of every rank"),
        Verb::AllToAll | Verb::AllToAllV => Some("and some data is for them"),
    }
}

#[cfg(test)]
mod tests {
    use paceline_devices::{DType, ReduceOp};

    use super::super::request::{Entry, Operator};
    use super::*;
    use crate::reduction::Scale;

    fn all_reduce(count: u64) -> Request {
        let operator = Operator::new(Some(ReduceOp::Sum), None, Scale::default());
        Request::new(Verb::AllReduce(operator, None), DType::F32, vec![count], 0)
    }

    fn named(name: &str, request: Request) -> Entry {
        let tensor = Tensor::Named(name.to_owned(), request);
        Entry { tensor, waited_ms: 0, is_expired: false }
    }

    fn of(entries: impl IntoIterator<Item = Entry>) -> Announcement {
        Announcement { entries: entries.into_iter().collect(), ..Announcement::default() }
    }

    fn names(decision: &Decision) -> Vec<&str> {
        decision.ready.iter().map(|ready| &*ready.name).collect()
    }

    struct World {
        cache: Cache,
        owed: Owed,
    }

    impl World {
        fn new() -> Self {
            Self { cache: Cache::new(16), owed: Owed::new() }
        }

        fn decide(&mut self, announcements: &[Announcement]) -> Decision {
            decide(announcements, &mut self.cache, &mut self.owed, &|rank| rank).unwrap()
        }
    }

    #[test]
    fn what_all_have_is_ready_in_the_order_of_rank_0() {
        let entry = |name| named(name, all_reduce(8));
        let decision = World::new().decide(&[
            of([entry("b"), entry("a"), entry("c")]),
            of([entry("a"), entry("d"), entry("b")]),
        ]);
        assert_eq!(names(&decision), ["b", "a"]);
        let lacking: Vec<_> =
            decision.waiting.iter().map(|lacking| (&*lacking.name, &lacking.missing[..])).collect();
        assert_eq!(lacking, [("c", &[1][..]), ("d", &[0])]);
    }

    #[test]
    fn a_difference_names_both_sides_and_leaves_the_others() {
        let mut world = World::new();
        let decision = world.decide(&[
            of([named("a", all_reduce(8)), named("b", all_reduce(8))]),
            of([named("a", all_reduce(9)), named("b", all_reduce(8))]),
            of([named("a", all_reduce(8)), named("b", all_reduce(8))]),
        ]);
        assert_eq!(names(&decision), ["b"]);
        let [failure] = &decision.failures[..] else { panic!("{decision:?}") };
        assert_eq!((&*failure.name, &failure.ranks[..]), ("a", &[0, 1, 2][..]));
        assert_eq!(
            failure.error.to_string(),
            "the ranks disagree on a: ranks 0, 2 submitted all_reduce of 8 f32 (sum), rank 1 \
             submitted all_reduce of 9 f32 (sum)"
        );
    }

    #[test]
    fn a_difference_is_not_hidden_by_the_cache() {
        let mut world = World::new();
        let slot = world.cache.insert("a", &Arc::new(all_reduce(8)), 1);
        let cached = |slot| Entry {
            tensor: Tensor::Cached(u32::try_from(slot).unwrap()),
            waited_ms: 0,
            is_expired: false,
        };
        let decision = world.decide(&[of([cached(slot)]), of([named("a", all_reduce(9))]), of([])]);
        assert_eq!(decision.waiting.len(), 1);
        // The third one has to announce it, and then all learn of the difference.
        assert_eq!(world.cache.find("a", &all_reduce(8)), None);
    }

    #[test]
    fn who_comes_late_fails_once() {
        let mut world = World::new();
        let late = Entry { waited_ms: 2000, is_expired: true, ..named("a", all_reduce(8)) };
        let decision = world.decide(&[of([late]), of([])]);
        assert_eq!(decision.failures[0].ranks, [0]);
        let text = decision.failures[0].error.to_string();
        assert_eq!(text, "a was not submitted by rank 1 within 2.0 s");
        // Rank 0 is in its next step already.
        let both = [of([named("a", all_reduce(8))]), of([named("a", all_reduce(8))])];
        let decision = world.decide(&both);
        assert_eq!(decision.failures[0].ranks, [1]);
        assert_eq!((decision.waiting[0].missing[..]), [1]);
        assert_eq!(names(&world.decide(&both)), ["a"]);
        assert!(world.owed.is_empty());
    }

    #[test]
    fn nobody_waits_for_who_has_joined() {
        let joined = |round| Announcement { joined_in: Some(round), ..Announcement::default() };
        let mut world = World::new();
        let decision = world.decide(&[of([named("a", all_reduce(8))]), joined(3)]);
        assert_eq!((names(&decision), decision.all_joined), (vec!["a"], None));
        let gather = Request::new(Verb::AllGather, DType::F32, vec![8], 0);
        let decision = world.decide(&[of([named("a", gather)]), joined(3)]);
        assert!(decision.failures[0].error.to_string().contains("needs data of every rank"));
        let from_absent = Request::new(Verb::Broadcast { root: 1 }, DType::F32, vec![8], 0);
        let decision = world.decide(&[of([named("a", from_absent)]), joined(3)]);
        assert!(decision.failures[0].error.to_string().contains("is the root"));
        assert_eq!(world.decide(&[joined(5), joined(3), joined(5)]).all_joined, Some(2));
    }

    #[test]
    fn settings_that_differ_are_an_error() {
        let settings = super::super::request::Settings { fusion_threshold: 1, cache_capacity: 0 };
        let other = Announcement { settings, ..Announcement::default() };
        let error = decide(&[of([]), other], &mut Cache::new(1), &mut Owed::new(), &|rank| rank)
            .unwrap_err();
        assert!(matches!(error, QueueError::Announcement { rank: 1, .. }), "{error}");
    }
}
