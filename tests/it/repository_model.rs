//! Random operations on a repository and on the reference model; every answer is compared.
//!
//! Whoever is listed in [`MAKERS`] is compared with [`MEMORY`]. Ids, tokens and keys that a
//! repository chooses itself differ between the two, so each is told by its number in the order
//! of its first use; everything else must be equal to the letter.
//!
//! `DEADLETTER_MODEL_CASES` sets how many sequences are tried, `DEADLETTER_MODEL_SEED` where they
//! begin; the seed stands in the message of a failure.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Debug;
use std::time::Duration;

use deadletter::{
    Act, Cause, Changed, Completion, Config, Decision, Durability, Entry, EntryId, Error,
    EvictRequest, Filter, Leased, NewFailure, Order, Page, Priority, ReplayType, Resolution,
    SlaThresholds, Status, Timestamp,
};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use crate::contract::{Fixture, MAKERS, MEMORY, Maker, check_books, everything};

const CASES: u32 = 128;
const STEPS: usize = 200;
const SEED: u64 = 20_260_701;

/// An entry, by its number in the order of creation; large numbers are entries that are unknown.
type Nth = usize;

#[derive(Debug, Clone)]
enum Step {
    Create(Offer),
    CreateBatch(Vec<Offer>),
    Ask(Question),
    Find(Narrow, Part),
    Act(Deed),
    Replay(Attempt),
    /// Changes, keeps, removes or refuses, as the digits say.
    ChangeAll(Vec<(Nth, u8)>),
    Advance(u64),
    SetWall(u64),
    Flush,
    Reopen,
}

#[derive(Debug, Clone)]
struct Offer {
    domain: &'static str,
    failure_type: &'static str,
    key: Option<u8>,
    max_retries: Option<u32>,
    user: Option<i64>,
    entity: Option<&'static str>,
    text: &'static str,
    /// Before now, in milliseconds.
    created_before: Option<u64>,
    expires_after: Option<u64>,
    not_before: Option<u64>,
}

#[derive(Debug, Clone)]
enum Question {
    Get(Nth),
    Key(u8),
    Facets(Option<Status>, Option<&'static str>),
    Statistics,
    Tallies,
    Accounting,
    ByStatus(Status, Option<&'static str>, usize),
    Replayable(Option<&'static str>, usize),
    PendingOf(&'static str, usize),
    Breached(u64, u64, usize),
    Expired(u64, usize),
    Oldest(usize, Option<&'static str>),
    Window(u64, u64),
    Active(&'static str),
    ArchivedBefore(u64),
    Cleanup(u64),
}

/// A filter; times are in milliseconds before the end of the test's reach.
#[derive(Debug, Clone)]
struct Narrow {
    status: Option<Status>,
    domain: Option<&'static str>,
    failure_type: Option<&'static str>,
    /// Created between, due at, expiring before, aged before; relative to now.
    times: [Option<u64>; 5],
}

#[derive(Debug, Clone)]
struct Part {
    newest: bool,
    offset: u64,
    limit: usize,
    after: Option<Nth>,
}

#[derive(Debug, Clone)]
enum Deed {
    Set(Nth, Status, bool),
    SetMany(Vec<Nth>, Status),
    Resolve(Nth, Option<i64>),
    Charge(Nth),
    Delete(Nth),
    Expire(u64, usize),
    Archive(Status, u64, usize),
    Purge(Vec<Nth>),
    PurgeBefore(u64, usize),
    /// Evicts so many, of all or those of a domain, done ones too, into summaries.
    Evict(u64, Option<&'static str>, bool, bool),
    AgeSummaries(u64),
}

/// Leases are named by their number in the order in which they were granted.
#[derive(Debug, Clone)]
enum Attempt {
    Acquire(Nth, u64, bool, bool),
    Lease(Vec<Nth>, u64),
    Start(usize, u8),
    Complete(usize, u8),
    TurnOver(Option<(usize, u8)>, Option<(usize, u8)>),
    GiveBack(Vec<usize>),
    Extend(usize, u64),
    ReleaseStale(Option<u64>),
}

const DOMAINS: [&str; 5] = ["orders", "payment", "mail", " Payment ", "no domain!"];
const CLEAN: [&str; 4] = ["orders", "payment", "mail", "nobody"];

fn domain() -> impl Strategy<Value = &'static str> {
    prop::sample::select(CLEAN.to_vec())
}

fn status() -> impl Strategy<Value = Status> {
    prop::sample::select(Status::ALL.to_vec())
}

/// Mostly one of the first, so that operations meet.
fn nth() -> impl Strategy<Value = Nth> {
    prop_oneof![6 => 0_usize..4, 6 => 0_usize..10, 1 => 8_usize..24, 1 => Just(1_000_000_usize)]
}

fn limit() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0_usize..6, 1 => Just(usize::MAX)]
}

/// A duration; 60,000 is the length of most leases.
fn ms() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..50,
        2 => Just(60_000_u64),
        1 => Just(59_999_u64),
        1 => 0_u64..200_000,
        1 => Just(u64::from(u32::MAX)),
    ]
}

fn offer() -> impl Strategy<Value = Offer> {
    let names = (
        prop::sample::select(DOMAINS.to_vec()),
        prop_oneof![9 => Just("PG_TIMEOUT"), 4 => Just("ODD"), 1 => Just("")],
        prop::option::weighted(0.3, 0_u8..5),
    );
    let values = (
        prop::option::weighted(0.5, 0_u32..4),
        prop::option::of(-1_i64..2),
        prop::option::of(prop::sample::select(vec!["", "order"])),
        prop::sample::select(vec!["", "canceled", "tab\there"]),
    );
    let times = (
        prop::option::weighted(0.3, ms()),
        prop::option::weighted(0.3, ms()),
        prop::option::weighted(0.3, ms()),
    );
    (names, values, times).prop_map(|(names, values, times)| {
        let (domain, failure_type, key) = names;
        let (max_retries, user, entity, text) = values;
        let (created_before, expires_after, not_before) = times;
        Offer {
            domain,
            failure_type,
            key,
            max_retries,
            user,
            entity,
            text,
            created_before,
            expires_after,
            not_before,
        }
    })
}

fn question() -> impl Strategy<Value = Question> {
    let domain_or_all = || prop::option::of(domain());
    prop_oneof![
        nth().prop_map(Question::Get),
        (0_u8..6).prop_map(Question::Key),
        (prop::option::of(status()), domain_or_all())
            .prop_map(|(status, domain)| Question::Facets(status, domain)),
        Just(Question::Statistics),
        Just(Question::Tallies),
        Just(Question::Accounting),
        (status(), domain_or_all(), limit())
            .prop_map(|(status, domain, limit)| Question::ByStatus(status, domain, limit)),
        (domain_or_all(), limit()).prop_map(|(domain, limit)| Question::Replayable(domain, limit)),
        (domain(), limit()).prop_map(|(domain, limit)| Question::PendingOf(domain, limit)),
        (ms(), ms(), limit()).prop_map(|(all, one, limit)| Question::Breached(all, one, limit)),
        (ms(), limit()).prop_map(|(at, limit)| Question::Expired(at, limit)),
        (limit(), domain_or_all()).prop_map(|(limit, domain)| Question::Oldest(limit, domain)),
        (ms(), ms()).prop_map(|(from, to)| Question::Window(from, to)),
        domain().prop_map(Question::Active),
        ms().prop_map(Question::ArchivedBefore),
        (0_u64..200).prop_map(Question::Cleanup),
    ]
}

fn narrow() -> impl Strategy<Value = Narrow> {
    let time = || prop::option::weighted(0.2, ms());
    let names = (
        prop::option::of(status()),
        prop::option::weighted(0.4, domain()),
        prop::option::weighted(0.3, prop::sample::select(vec!["PG_TIMEOUT", "ODD", "none"])),
    );
    let times = [time(), time(), time(), time(), time()];
    (names, times).prop_map(|((status, domain, failure_type), times)| Narrow {
        status,
        domain,
        failure_type,
        times,
    })
}

fn part() -> impl Strategy<Value = Part> {
    let offset = prop_oneof![6 => 0_u64..5, 1 => Just(u64::MAX)];
    (any::<bool>(), offset, limit(), prop::option::weighted(0.3, nth()))
        .prop_map(|(newest, offset, limit, after)| Part { newest, offset, limit, after })
}

fn deed() -> impl Strategy<Value = Deed> {
    let many = || prop::collection::vec(nth(), 0..5);
    let chunk = || 0_usize..4;
    prop_oneof![
        6 => (nth(), status(), any::<bool>()).prop_map(|(n, s, told)| Deed::Set(n, s, told)),
        1 => (many(), status()).prop_map(|(many, status)| Deed::SetMany(many, status)),
        1 => (nth(), prop::option::of(0_i64..3)).prop_map(|(n, who)| Deed::Resolve(n, who)),
        2 => nth().prop_map(Deed::Charge),
        1 => nth().prop_map(Deed::Delete),
        1 => (ms(), chunk()).prop_map(|(at, chunk)| Deed::Expire(at, chunk)),
        2 => (status(), ms(), chunk()).prop_map(|(s, at, chunk)| Deed::Archive(s, at, chunk)),
        3 => many().prop_map(Deed::Purge),
        3 => (ms(), chunk()).prop_map(|(at, chunk)| Deed::PurgeBefore(at, chunk)),
        1 => (0_u64..3, prop::option::of(domain()), any::<bool>(), any::<bool>())
            .prop_map(|(count, of, done, sum)| Deed::Evict(count, of, done, sum)),
        1 => (0_u64..200).prop_map(Deed::AgeSummaries),
    ]
}

fn attempt() -> impl Strategy<Value = Attempt> {
    // The newest leases are the likeliest to hold.
    let lease = || prop_oneof![6 => 0_usize..3, 1 => 3_usize..12, 1 => Just(1_000_000_usize)];
    // Failures lead the furthest.
    let outcome = || prop_oneof![1 => 0_u8..6, 1 => 2_u8..4];
    let half = || prop::option::of((lease(), 0_u8..3));
    prop_oneof![
        6 => (nth(), ms(), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(n, ms, force, told)| Attempt::Acquire(n, ms, force, told)),
        3 => (prop::collection::vec(nth(), 0..6), ms()).prop_map(|(m, ms)| Attempt::Lease(m, ms)),
        4 => (lease(), 0_u8..3).prop_map(|(lease, kind)| Attempt::Start(lease, kind)),
        6 => (lease(), outcome()).prop_map(|(lease, outcome)| Attempt::Complete(lease, outcome)),
        3 => (half(), half()).prop_map(|(ended, next)| Attempt::TurnOver(ended, next)),
        1 => prop::collection::vec(lease(), 0..4).prop_map(Attempt::GiveBack),
        1 => (lease(), ms()).prop_map(|(lease, ms)| Attempt::Extend(lease, ms)),
        2 => prop::option::of(ms()).prop_map(Attempt::ReleaseStale),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let decisions = prop::collection::vec((nth(), 0_u8..8), 0..5);
    prop_oneof![
        10 => offer().prop_map(Step::Create),
        2 => prop::collection::vec(offer(), 0..5).prop_map(Step::CreateBatch),
        10 => question().prop_map(Step::Ask),
        6 => (narrow(), part()).prop_map(|(narrow, part)| Step::Find(narrow, part)),
        10 => deed().prop_map(Step::Act),
        22 => attempt().prop_map(Step::Replay),
        3 => decisions.prop_map(Step::ChangeAll),
        7 => ms().prop_map(Step::Advance),
        1 => ms().prop_map(Step::SetWall),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

/// A repository with the names that it gave.
struct Side {
    fixture: Fixture,
    ids: Vec<EntryId>,
    leases: Vec<Leased>,
    /// The most attempts that each entry was ever seen with.
    attempts: BTreeMap<EntryId, u32>,
}

fn settings() -> Config {
    let mut config = crate::store::config();
    let ranks = [("payment", Priority::Critical), ("mail", Priority::Low)];
    config.bounds.domain_priorities = ranks.map(|(domain, rank)| (domain.to_owned(), rank)).into();
    config
}

fn kind(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

/// An answer, or the kind of its error.
fn told<T: Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => kind(&error),
    }
}

fn completion(number: u8, now: Timestamp) -> Completion {
    let not_before = number.is_multiple_of(2).then_some(Timestamp(now.0 + 30));
    let note = ["", "said"][usize::from(number % 2)].to_owned();
    match number / 2 {
        0 => Completion::Success { note, resolution_type: String::new() },
        1 => Completion::Failure { note, not_before },
        _ => Completion::Throttled { note, not_before },
    }
}

fn replay_type(number: u8) -> ReplayType {
    [ReplayType::Single, ReplayType::Batch, ReplayType::Conditional][usize::from(number % 3)]
}

fn operator() -> Act {
    Act { actor: "ana".to_owned(), reason: "asked".to_owned(), ticket: String::new() }
}

impl Side {
    fn new(maker: Maker) -> Self {
        let fixture = Fixture::new(maker, settings());
        Self { fixture, ids: Vec::new(), leases: Vec::new(), attempts: BTreeMap::new() }
    }

    /// A time before now.
    fn before(&self, ms: u64) -> Timestamp {
        Timestamp(self.fixture.now().0.saturating_sub(ms))
    }

    fn id(&self, nth: Nth) -> EntryId {
        self.ids.get(nth).copied().unwrap_or(EntryId(u64::MAX - 1))
    }

    fn many(&self, numbers: &[Nth]) -> Vec<EntryId> {
        numbers.iter().map(|nth| self.id(*nth)).collect()
    }

    /// The newest lease is number 0; one that was never granted names the first entry.
    fn leased(&self, number: usize) -> Leased {
        let newest = self.leases.iter().rev().nth(number);
        newest.copied().unwrap_or(Leased { id: self.id(0), token: 0 })
    }

    fn number(&self, id: EntryId) -> EntryId {
        let known = self.ids.iter().position(|known| *known == id);
        EntryId(known.map_or(u64::MAX, |nth| nth as u64))
    }

    /// The entry with the names that both sides share, as one line.
    fn entry(&mut self, entry: &Entry) -> String {
        let id = entry.operation.id;
        let total = entry.state().attempts_total();
        let most = self.attempts.entry(id).or_default();
        assert!(total >= *most, "the attempts of {id} fell from {most} to {total}");
        *most = total;
        let mut entry = entry.clone();
        entry.operation.id = self.number(id);
        if !entry.key.starts_with("key-") {
            entry.key.clear();
        }
        if let Some(lease) = &mut entry.lease {
            let own = Leased { id, token: lease.token };
            let known = self.leases.iter().position(|leased| *leased == own);
            lease.token = known.map_or(u64::MAX, |number| number as u64);
        }
        serde_json::to_string(&entry).unwrap()
    }

    fn entries(&mut self, entries: Result<Vec<Entry>, Error>) -> String {
        match entries {
            Ok(entries) => {
                let lines: Vec<_> = entries.iter().map(|entry| self.entry(entry)).collect();
                lines.join("\n")
            }
            Err(error) => kind(&error),
        }
    }

    fn one(&mut self, entry: Result<Option<Entry>, Error>) -> String {
        self.entries(entry.map(|entry| entry.into_iter().collect()))
    }

    fn numbers(&self, ids: Result<Vec<EntryId>, Error>) -> String {
        told(ids.map(|ids| ids.iter().map(|id| self.number(*id)).collect::<Vec<_>>()))
    }

    fn failure(&self, offer: &Offer) -> NewFailure {
        let now = self.fixture.now().0;
        let mut failure = NewFailure::new(offer.domain, offer.failure_type);
        failure.key = offer.key.map(|key| format!("key-{key}"));
        failure.max_retries = offer.max_retries;
        failure.user_id = offer.user;
        failure.entity_id = offer.entity.map(str::to_owned);
        failure.error_message = offer.text.to_owned();
        failure.created_at = offer.created_before.map(|ms| self.before(ms));
        failure.expires_at = offer.expires_after.map(|ms| Timestamp(now + ms));
        failure.not_before = offer.not_before.map(|ms| Timestamp(now + ms));
        failure
    }

    fn create_batch(&mut self, offers: &[Offer]) -> String {
        let failures = offers.iter().map(|offer| self.failure(offer)).collect();
        match self.fixture.create_batch(failures, Durability::Synced) {
            Ok(stored) => {
                let told = stored.into_iter().map(|stored| {
                    if !stored.duplicate {
                        self.ids.push(stored.id);
                    }
                    format!("{:?} {}", self.number(stored.id), stored.duplicate)
                });
                told.collect::<Vec<_>>().join("\n")
            }
            Err(error) => format!("{} {}", kind(&error.source), error.failures.len()),
        }
    }

    fn ask(&mut self, question: &Question) -> String {
        let f = &self.fixture;
        match question {
            Question::Get(nth) => self.one(f.get_by_id(self.id(*nth))),
            Question::Key(key) => self.one(f.get_by_key(&format!("key-{key}"))),
            Question::Facets(status, domain) => told(f.get_facet_counts(*status, *domain)),
            Question::Statistics => told(f.get_statistics()),
            Question::Tallies => {
                let mut rows = f.tallies().unwrap();
                rows.sort_by(|a, b| {
                    (&a.domain, &a.failure_type).cmp(&(&b.domain, &b.failure_type))
                });
                format!("{rows:?}")
            }
            Question::Accounting => told(f.accounting()),
            Question::ByStatus(status, domain, limit) => {
                self.entries(f.find_by_status(*status, *domain, None, *limit))
            }
            Question::Replayable(domain, limit) => {
                self.entries(f.find_replayable(*domain, Some("ODD"), *limit))
            }
            Question::PendingOf(domain, limit) => {
                let count = f.get_pending_count_by_domain(domain).unwrap();
                self.entries(f.get_pending_by_domain(domain, *limit)) + &count.to_string()
            }
            Question::Breached(default, orders, limit) => {
                let default = Duration::from_millis(*default);
                let orders = ("orders".to_owned(), Duration::from_millis(*orders));
                let thresholds = SlaThresholds { default, by_domain: BTreeMap::from([orders]) };
                self.entries(f.find_sla_breached(f.now(), &thresholds, *limit))
            }
            Question::Expired(ms, limit) => {
                self.entries(f.find_expired(Timestamp(f.now().0 + ms), *limit))
            }
            Question::Oldest(limit, domain) => self.numbers(f.get_oldest_ids(*limit, *domain)),
            Question::Window(from, to) => {
                told(f.count_created_in_window(self.before(*from), self.before(*to)))
            }
            Question::Active(domain) => {
                let of = (f.count_active_by_domain(domain), f.count_by_domain(domain));
                format!("{:?} {} {}", f.count_all().unwrap(), told(of.0), told(of.1))
            }
            Question::ArchivedBefore(ms) => told(f.count_archived_before(self.before(*ms))),
            Question::Cleanup(days) => {
                told(f.get_cleanup_stats(Timestamp(f.now().0 + days * 86_400_000)))
            }
        }
    }

    fn find(&mut self, narrow: &Narrow, part: &Part) -> String {
        let [from, to, due, expires, aged] = narrow.times.map(|ms| ms.map(|ms| self.before(ms)));
        let filter = Filter {
            status: narrow.status,
            domain: narrow.domain.map(str::to_owned),
            failure_type: narrow.failure_type.map(str::to_owned),
            created_from: from,
            created_to: to,
            due_at: due,
            expires_before: expires,
            aged_before: aged,
        };
        let page = Page {
            order: if part.newest { Order::Newest } else { Order::Oldest },
            offset: part.offset,
            limit: part.limit,
            after: part.after.map(|nth| self.id(nth)),
        };
        let all = self.fixture.find(&filter, everything()).unwrap();
        let count = self.fixture.count(&filter).unwrap();
        assert_eq!(count, all.len() as u64, "{filter:?}");
        assert!(all.iter().all(|entry| entry.matches(&filter)), "{filter:?}");
        let selected = self.numbers(self.fixture.select(&filter, page));
        format!("{count} {selected}\n{}", self.entries(self.fixture.find(&filter, page)))
    }

    fn act(&mut self, deed: &Deed) -> String {
        let f = &self.fixture;
        let act = operator();
        match deed {
            Deed::Set(nth, status, is_told) => {
                let resolution = Resolution::new(if *is_told { "manual" } else { "" }, "");
                told(f.update_status(self.id(*nth), *status, &resolution, is_told.then_some(&act)))
            }
            Deed::SetMany(numbers, status) => {
                told(f.bulk_update_status(&self.many(numbers), *status))
            }
            Deed::Resolve(nth, who) => {
                let mut resolution = Resolution::new("manual_fix", "by hand");
                resolution.resolved_by_id = *who;
                told(f.mark_as_resolved(self.id(*nth), &resolution, None))
            }
            Deed::Charge(nth) => told(f.increment_retry_count(self.id(*nth))),
            Deed::Delete(nth) => told(f.delete(self.id(*nth))),
            Deed::Expire(ms, chunk) => {
                told(f.expire(Timestamp(f.now().0 + ms), *chunk, Some(&act)))
            }
            Deed::Archive(status, ms, chunk) => {
                told(f.archive_before(*status, self.before(*ms), *chunk, None))
            }
            Deed::Purge(numbers) => told(f.purge_archived(&self.many(numbers))),
            Deed::PurgeBefore(ms, chunk) => {
                let announced = f.count_archived_before(self.before(*ms)).unwrap();
                let purged = f.purge_archived_before(self.before(*ms), *chunk).unwrap();
                assert_eq!(announced, purged);
                purged.to_string()
            }
            Deed::Evict(count, domain, terminal, compress) => {
                let (domain, count) = (domain.map(str::to_owned), *count);
                let (terminal, compress) = (*terminal, *compress);
                told(f.evict(&EvictRequest { count, domain, terminal, compress }))
            }
            Deed::AgeSummaries(days) => {
                told(f.age_summaries(Timestamp(f.now().0 + days * 86_400_000)))
            }
        }
    }

    fn replay(&mut self, attempt: &Attempt) -> String {
        let f = &self.fixture;
        let now = f.now();
        match attempt {
            Attempt::Acquire(nth, ms, force, is_told) => {
                let act = is_told.then(operator);
                let lease = Duration::from_millis(*ms);
                let id = self.id(*nth);
                let acquired = f.try_acquire_for_replay(id, lease, *force, act.as_ref()).unwrap();
                let Some((leased, entry)) = acquired else { return String::new() };
                self.leases.push(leased);
                self.entry(&entry)
            }
            Attempt::Lease(numbers, ms) => {
                let lease = Duration::from_millis(*ms);
                let leased = f.acquire_batch(&self.many(numbers), lease).unwrap();
                self.leases.extend(&leased);
                self.numbers(Ok(leased.iter().map(|leased| leased.id).collect()))
            }
            Attempt::Start(lease, kind) => {
                let started = f.start(self.leased(*lease), replay_type(*kind));
                self.one(started.map(Some))
            }
            Attempt::Complete(lease, outcome) => {
                let ended = f.complete_replay(self.leased(*lease), &completion(*outcome, now));
                self.one(ended.map(Some))
            }
            Attempt::TurnOver(ended, next) => {
                let outcome = ended.map(|(_, outcome)| completion(outcome * 2, now));
                let ended = ended.map(|(lease, _)| self.leased(lease));
                let next = next.map(|(lease, kind)| (self.leased(lease), replay_type(kind)));
                let turned = f.turn_over(ended.zip(outcome.as_ref()), next).unwrap();
                let mut half = |half: Option<Result<Entry, Error>>| {
                    half.map(|entry| self.one(entry.map(Some)))
                };
                format!("{:?}\n{:?}", half(turned.ended), half(turned.started))
            }
            Attempt::GiveBack(leases) => {
                let leased: Vec<_> = leases.iter().map(|lease| self.leased(*lease)).collect();
                told(f.release(&leased))
            }
            Attempt::Extend(lease, ms) => {
                format!("{}", f.extend_lease(self.leased(*lease), Duration::from_millis(*ms)))
            }
            Attempt::ReleaseStale(ms) => {
                told(f.release_stale_replaying(ms.map(Duration::from_millis)))
            }
        }
    }

    fn change_all(&mut self, digits: &[(Nth, u8)]) -> String {
        let ids: Vec<_> = digits.iter().map(|(nth, _)| self.id(*nth)).collect();
        let mut decided = 0;
        let changed = self.fixture.change_all(&ids, &mut |entry| {
            decided += 1;
            let at = ids.iter().position(|id| *id == entry.operation.id).unwrap();
            let mut state = entry.state();
            match digits[at].1 {
                0 => return Err(Error::NotFound { id: String::new() }),
                1 => return Ok(Decision::Keep),
                2 => return Ok(Decision::Remove(Cause::Evicted)),
                3 => return Ok(Decision::Remove(Cause::Other)),
                4 => state.status = Status::Pending,
                5 => state.not_before = None,
                _ => state.resolution_note = "changed".to_owned(),
            }
            Ok(Decision::Change(Box::new(state), Cause::Other))
        });
        let changed = match changed {
            Ok(changed) => changed,
            Err(error) => return kind(&error),
        };
        let lines: Vec<_> = changed
            .iter()
            .map(|changed| match changed {
                Changed::Missing => "missing".to_owned(),
                Changed::Kept(entry) => format!("kept {}", self.entry(entry)),
                Changed::Changed(entry) => format!("changed {}", self.entry(entry)),
                Changed::Removed(entry) => format!("removed {}", self.entry(entry)),
            })
            .collect();
        format!("{decided} {}", lines.join("\n"))
    }

    fn run(&mut self, step: &Step) -> String {
        match step {
            Step::Create(offer) => {
                let failure = self.failure(offer);
                match self.fixture.create(failure, Durability::Synced) {
                    Ok(stored) => {
                        if !stored.duplicate {
                            self.ids.push(stored.id);
                        }
                        format!("{:?} {}", self.number(stored.id), stored.duplicate)
                    }
                    Err(error) => kind(&error.source),
                }
            }
            Step::CreateBatch(offers) => self.create_batch(offers),
            Step::Ask(question) => self.ask(question),
            Step::Find(narrow, part) => self.find(narrow, part),
            Step::Act(deed) => self.act(deed),
            Step::Replay(attempt) => self.replay(attempt),
            Step::ChangeAll(digits) => self.change_all(digits),
            Step::Advance(ms) => {
                self.fixture.advance_ms(*ms);
                String::new()
            }
            Step::SetWall(ms) => {
                self.fixture.env.set_wall_ms(1_700_000_000_000 + ms);
                String::new()
            }
            Step::Flush => {
                self.fixture.step().unwrap();
                told(self.fixture.flush())
            }
            Step::Reopen => {
                self.fixture.reopen();
                String::new()
            }
        }
    }

    /// Everything there is, at the end.
    fn all(&mut self) -> String {
        check_books(&self.fixture);
        let summaries = told(self.fixture.summaries());
        summaries + &self.entries(self.fixture.find(&Filter::default(), everything()))
    }
}

/// Runs the steps on both; what an operation did to an entry is compared at once, even if its
/// answer does not show it.
fn compare(maker: Maker, steps: &[Step], seen: &Seen) -> Result<(), TestCaseError> {
    let (mut model, mut other) = (Side::new(MEMORY), Side::new(maker));
    for (at, step) in steps.iter().enumerate() {
        let (wanted, found) = (model.run(step), other.run(step));
        prop_assert_eq!(wanted, found, "step {}: {:?}", at, step);
        if !matches!(step, Step::Ask(_) | Step::Find(..) | Step::Advance(_)) {
            let (wanted, found) = (model.all(), other.all());
            prop_assert_eq!(wanted, found, "after step {}: {:?}", at, step);
        }
    }
    for row in model.fixture.tallies().unwrap() {
        seen.borrow_mut().extend(row.counts.keys());
    }
    Ok(())
}

/// Why records were written so far.
type Seen = RefCell<BTreeSet<Cause>>;

/// The sequences are worth nothing if they do not get everywhere: all that the operations of a
/// repository can write was written. Two causes are the service's own.
fn check_reach(seen: &BTreeSet<Cause>) {
    for cause in Cause::ALL {
        let is_ours = !matches!(cause, Cause::Unwanted | Cause::Escalated);
        assert_eq!(seen.contains(&cause), is_ours, "{cause}");
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn every_repository_answers_as_the_model() {
    let cases =
        number("DEADLETTER_MODEL_CASES").map_or(CASES, |cases| u32::try_from(cases).unwrap());
    let seed = number("DEADLETTER_MODEL_SEED").unwrap_or(SEED);
    for maker in MAKERS {
        let config = ProptestConfig {
            cases,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(seed),
            ..ProptestConfig::default()
        };
        let steps = prop::collection::vec(step(), 0..STEPS);
        let seen = Seen::default();
        let outcome = TestRunner::new(config).run(&steps, |steps| compare(*maker, &steps, &seen));
        outcome.unwrap_or_else(|error| panic!("{}, seed {seed}: {error}", maker.name));
        if cases >= CASES && seed == SEED {
            check_reach(&seen.borrow());
        }
    }
}
