//! The bodies of records by a second, maintained reader, and the field lists of
//! `docs/format.md`.
//!
//! The library writes bodies with a crate that is frozen. Should it ever be replaced, the bytes
//! must stay: here another crate reads them, from nothing but the structures that the document
//! lists.

use std::fmt::Write as _;
use std::fs;

use bincode::Options;
use deadletter::format as real;
use deadletter::{Json, Timestamp};
use proptest::prelude::*;
use serde::Serialize;
use wincode::{SchemaRead, SchemaWrite};

/// How a type is called in the document.
trait Form {
    fn form() -> String;
}

macro_rules! forms {
    ($($type:ty = $form:literal),+) => {
        $(impl Form for $type {
            fn form() -> String {
                $form.to_owned()
            }
        })+
    };
}

forms!(
    u8 = "u8",
    u32 = "u32",
    u64 = "u64",
    i64 = "i64",
    bool = "bool",
    String = "string",
    [u8; 16] = "uuid"
);

impl<T: Form> Form for Option<T> {
    fn form() -> String {
        format!("option of {}", T::form())
    }
}

impl<T: Form> Form for Vec<T> {
    fn form() -> String {
        format!("list of {}", T::form())
    }
}

/// A structure of the document: its title there, its fields in order.
macro_rules! mirror {
    ($form:literal, $title:literal, $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        #[derive(Serialize, SchemaRead, SchemaWrite)]
        struct $name {
            $($field: $type,)*
        }

        impl Form for $name {
            fn form() -> String {
                $form.to_owned()
            }
        }

        impl $name {
            fn fields() -> String {
                let mut text = String::from($title);
                $(write!(text, "\n{} {}", stringify!($field), <$type>::form()).unwrap();)*
                text
            }
        }
    };
}

macro_rules! wrapper {
    ($form:literal, $name:ident($type:ty)) => {
        #[derive(SchemaRead, SchemaWrite)]
        struct $name($type);

        impl Form for $name {
            fn form() -> String {
                $form.to_owned()
            }
        }
    };
}

wrapper!("time", Time(u64));
wrapper!("json", JsonText(String));

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Timestamp(self.0).serialize(serializer)
    }
}

impl Serialize for JsonText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[derive(Serialize, SchemaRead, SchemaWrite)]
#[serde(rename_all = "snake_case")]
enum Status {
    Pending,
    Replaying,
    Reviewing,
    Replayed,
    RequiresReview,
    Resolved,
    Rejected,
    Archived,
    Expired,
    PermanentlyFailed,
}

impl Form for Status {
    fn form() -> String {
        "status".to_owned()
    }
}

mirror!("lease", "lease", Lease { token: u64, deadline: Time });
mirror!("attempt", "attempt", Attempt { number: u32, at: Time, outcome: String, note: String });
mirror!(
    "action",
    "action",
    Action {
        at: Time,
        actor: String,
        action: String,
        reason: String,
        ticket: String,
        from: Status,
        to: Status,
    }
);
mirror!("state", "state", State {
    status: Status,
    retry_count: u32,
    max_retries: u32,
    last_retry_at: Option<Time>,
    resolved_at: Option<Time>,
    resolved_by_id: Option<i64>,
    resolution_type: String,
    resolution_note: String,
    recommended_action: String,
    updated_at: Time,
    expires_at: Option<Time>,
    not_before: Option<Time>,
    archived_at: Option<Time>,
    lease: Option<Lease>,
    attempts: Vec<Attempt>,
    attempts_older: u32,
    audit: Vec<Action>,
    audit_older: u32,
    terminal_at: Option<Time>,
    previous_total_retries: u32,
    force_redrive_count: u32,
});
mirror!("entry", "entry body", EntryBody {
    uuid: [u8; 16],
    key: Option<String>,
    domain: String,
    original_domain: Option<String>,
    failure_type: String,
    entity_type: Option<String>,
    entity_id: Option<String>,
    entity_refs: JsonText,
    user_id: Option<i64>,
    snapshot_data: JsonText,
    error_code: String,
    error_message: String,
    request_data: JsonText,
    response_data: JsonText,
    metadata: JsonText,
    next_action_hint: String,
    created_at: Time,
    runnable: bool,
    state: State,
});
mirror!(
    "change",
    "change body",
    ChangeBody { target: u64, state: State, cause: u8, domain: String, failure_type: String }
);
mirror!(
    "segment item",
    "segment item",
    SegmentItem { segment: u64, generation: u32, first_lsn: u64, last_lsn: u64, entries: u64 }
);
mirror!("totals", "totals", Totals { captured: u64, purged: u64, evicted: u64, lost: u64 });
mirror!(
    "lost",
    "lost body",
    Loss { segment: u64, offset: u64, bytes: u64, lsn_from: u64, lsn_to: u64, entries: u64 }
);
mirror!("count", "count", Count { cause: u8, records: u64 });
mirror!(
    "tally",
    "tally",
    Tally { domain: String, failure_type: String, counts: Vec<Count> }
);
mirror!("segment end", "segment end", SegmentEnd { end: u64, footer_crc: u32, folded_lsn: u64 });
mirror!("pending jump", "pending jump", PendingJump { wall: Time, uptime_ms: u64 });
mirror!("jump", "jump", Jump { from: Time, to: Time });
mirror!("shift", "shift", Shift { lsn: u64, ms: i64, at: Time });
mirror!("clock", "clock body", ClockBody {
    wall: Time,
    trusted: Time,
    pending: Option<PendingJump>,
    jumps: u64,
    last_jump: Option<Jump>,
    shifts: Vec<Shift>,
});
mirror!("summary", "summary body", SummaryBody {
    id: String,
    domain: String,
    failure_type: String,
    error_code: String,
    count: u64,
    first_seen: Time,
    last_seen: Time,
    sample_error_message: String,
    sample_context: JsonText,
    status: u8,
    compressed_at: Time,
    stale_at: Option<Time>,
    archived_at: Option<Time>,
});
mirror!("segment set", "segment set body", SegmentSet {
    segments: Vec<SegmentItem>,
    totals: Totals,
    losses: Vec<Loss>,
    drained: Vec<[u8; 16]>,
    tallies: Vec<Tally>,
    ends: Vec<SegmentEnd>,
    clock: ClockBody,
    summaries: Vec<SummaryBody>,
});
mirror!("drop", "drop body", DropBody { segment: u64, generation: u32 });
mirror!("replace", "replace body", ReplaceBody {
    old: Vec<DropBody>,
    new: SegmentItem,
    end: SegmentEnd,
});
mirror!("drained", "drained body", DrainedBody { uuid: [u8; 16], entries: u64 });

/// The lists of the document in the form of [`State::fields`]: a title begins at the margin, its
/// fields are indented, and what stands behind a comma or colon is said to people only.
fn documented() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/format.md");
    let document = fs::read_to_string(path).unwrap();
    let mut lists: Vec<String> = Vec::new();
    for block in document.split("```text\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let second = block.lines().nth(1).unwrap_or_default();
        if !second.starts_with("  ") || second.starts_with("   ") {
            continue;
        }
        for line in block.lines() {
            if let Some(field) = line.strip_prefix("  ") {
                let plain = field.split([',', ':']).next().unwrap();
                let words: Vec<&str> = plain.split_whitespace().collect();
                let list = lists.last_mut().unwrap();
                write!(list, "\n{}", words.join(" ")).unwrap();
            } else {
                lists.push(line.to_owned());
            }
        }
    }
    lists
}

#[test]
fn the_document_lists_every_field_in_order() {
    let documented = documented();
    let wanted = [
        EntryBody::fields(),
        State::fields(),
        Lease::fields(),
        Attempt::fields(),
        Action::fields(),
        ChangeBody::fields(),
        SegmentSet::fields().replace("totals totals", "totals totals over those segments"),
        SegmentItem::fields(),
        Totals::fields(),
        Tally::fields(),
        Count::fields(),
        SegmentEnd::fields(),
        DropBody::fields(),
        ReplaceBody::fields(),
        Loss::fields(),
        DrainedBody::fields(),
        ClockBody::fields(),
        PendingJump::fields(),
        Jump::fields(),
        Shift::fields(),
        SummaryBody::fields(),
    ];
    assert_eq!(documented.len(), wanted.len(), "{documented:#?}");
    for (documented, wanted) in documented.iter().zip(&wanted) {
        assert_eq!(documented, wanted);
    }
}

/// The short form, in which the library writes entries and changes.
fn written_short<T: Serialize>(body: &T) -> Vec<u8> {
    let options = bincode::DefaultOptions::new().with_varint_encoding().with_little_endian();
    options.serialize(body).unwrap()
}

/// The library's own encoding: [`real`] shows the structures, and this is how it writes them.
fn written<T: Serialize>(body: &T) -> Vec<u8> {
    let options = bincode::DefaultOptions::new().with_fixint_encoding().with_little_endian();
    options.serialize(body).unwrap()
}

/// Reads a body with the other crate and writes it again: not one byte may differ.
macro_rules! check {
    ($mirror:ty, $bytes:expr) => {{
        let bytes: &[u8] = $bytes;
        let read: $mirror = wincode::deserialize(bytes).expect(stringify!($mirror));
        assert_eq!(wincode::serialize(&read).unwrap(), bytes);
        read
    }};
}

/// As `check!`, for the short form.
macro_rules! check_short {
    ($mirror:ty, $bytes:expr) => {{
        let bytes: &[u8] = $bytes;
        let config = wincode::config::Configuration::default().with_varint_encoding();
        let read: $mirror = wincode::config::deserialize(bytes, config).expect(stringify!($mirror));
        assert_eq!(wincode::config::serialize(&read, config).unwrap(), bytes);
        read
    }};
}

/// What the newest version of a body has behind an older one: a body is read with zeros there.
fn added(kind: real::Kind, version: u16) -> usize {
    let state = 1 + 4 + 4;
    let set = 8 + (8 + 8 + 1 + 8 + 1 + 8) + 8;
    match (kind, version) {
        (real::Kind::Entry, 1) => state,
        (real::Kind::Change, 1) => state + 1 + 8 + 8,
        (real::Kind::SegmentSet, 1) => 8 + set,
        (real::Kind::SegmentSet, 2) => set,
        _ => 0,
    }
}

pub(crate) fn check_body(kind: real::Kind, version: u16, bytes: &[u8]) {
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len() + added(kind, version), 0);
    let bytes: &[u8] = &whole;
    match kind {
        real::Kind::Entry if version >= 3 => drop(check_short!(EntryBody, bytes)),
        real::Kind::Change if version >= 3 => drop(check_short!(ChangeBody, bytes)),
        real::Kind::Entry => drop(check!(EntryBody, bytes)),
        real::Kind::Change => drop(check!(ChangeBody, bytes)),
        real::Kind::SegmentSet => drop(check!(SegmentSet, bytes)),
        real::Kind::Lost => assert!(!said(&check!(Loss, bytes)).is_empty()),
        real::Kind::Drained => assert!(!said(&check!(DrainedBody, bytes)).is_empty()),
        real::Kind::Mark => assert!(bytes.is_empty()),
        real::Kind::Drop => assert!(!said(&check!(DropBody, bytes)).is_empty()),
        real::Kind::Replace => assert!(!said(&check!(ReplaceBody, bytes)).is_empty()),
        real::Kind::Clock => assert!(!said(&check!(ClockBody, bytes)).is_empty()),
        real::Kind::Summary => drop(check!(SummaryBody, bytes)),
        real::Kind::Dictionary => assert!(!bytes.is_empty()),
        other @ real::Kind::Other(_) => panic!("{other:?}"),
    }
}

fn text() -> impl Strategy<Value = String> {
    "[ -~\u{e9}\u{20ac}]{0,12}"
}

fn json() -> impl Strategy<Value = Json> {
    (any::<i64>(), "[a-z ]{0,9}").prop_map(|(number, space)| {
        let space = space.replace(|letter: char| letter != ' ', "");
        Json::object(format!("{{{space}\"n\":{space}{number}}}")).unwrap()
    })
}

fn time() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp)
}

fn status() -> impl Strategy<Value = deadletter::Status> {
    prop::sample::select(deadletter::Status::ALL.to_vec())
}

prop_compose! {
    fn attempt()(number in any::<u32>(), at in time(), outcome in text(), note in text())
        -> deadletter::Attempt
    {
        deadletter::Attempt { number, at, outcome, note }
    }
}

prop_compose! {
    fn action()(
        at in time(),
        (actor, action, reason, ticket) in (text(), text(), text(), text()),
        (from, to) in (status(), status()),
    ) -> deadletter::Action {
        deadletter::Action { at, actor, action, reason, ticket, from, to }
    }
}

prop_compose! {
    fn lease()(token in any::<u64>(), deadline in time()) -> deadletter::Lease {
        deadletter::Lease { token, deadline }
    }
}

prop_compose! {
    fn state()(
        (status, retry_count, max_retries) in (status(), any::<u32>(), any::<u32>()),
        (last_retry_at, resolved_at, expires_at) in
            (prop::option::of(time()), prop::option::of(time()), prop::option::of(time())),
        (not_before, archived_at) in (prop::option::of(time()), prop::option::of(time())),
        resolved_by_id in any::<Option<i64>>(),
        (resolution_type, resolution_note, recommended_action) in (text(), text(), text()),
        updated_at in time(),
        lease in prop::option::of(lease()),
        attempts in prop::collection::vec(attempt(), 0..3),
        audit in prop::collection::vec(action(), 0..3),
        (attempts_older, audit_older) in any::<(u32, u32)>(),
        terminal_at in prop::option::of(time()),
        (previous_total_retries, force_redrive_count) in any::<(u32, u32)>(),
    ) -> deadletter::State {
        deadletter::State {
            status, retry_count, max_retries, last_retry_at, resolved_at, resolved_by_id,
            resolution_type, resolution_note, recommended_action, updated_at, expires_at,
            not_before, archived_at, lease, attempts, attempts_older, audit, audit_older,
            terminal_at, previous_total_retries, force_redrive_count,
        }
    }
}

/// Bodies do not show themselves, since they hold payloads; a failing case is told by its seed.
struct Quiet<T>(T);

impl<T> std::fmt::Debug for Quiet<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a body")
    }
}

prop_compose! {
    fn entry()(
        uuid in any::<[u8; 16]>(),
        (key, original_domain) in (prop::option::of(text()), prop::option::of(text())),
        (domain, failure_type, next_action_hint) in (text(), text(), text()),
        (entity_type, entity_id) in (prop::option::of(text()), prop::option::of(text())),
        (entity_refs, snapshot_data, request_data) in (json(), json(), json()),
        (response_data, metadata) in (json(), json()),
        (error_code, error_message) in (text(), text()),
        (user_id, runnable) in any::<(Option<i64>, bool)>(),
        created_at in time(),
        state in state(),
    ) -> Quiet<real::EntryBody> {
        Quiet(real::EntryBody {
            uuid, key, domain, original_domain, failure_type, entity_type, entity_id, entity_refs,
            user_id, snapshot_data, error_code, error_message, request_data, response_data,
            metadata, next_action_hint, created_at, runnable, state,
        })
    }
}

prop_compose! {
    fn loss()(
        (segment, offset, bytes) in any::<(u64, u64, u64)>(),
        (lsn_from, lsn_to, entries) in any::<(u64, u64, u64)>(),
    ) -> real::Loss {
        real::Loss { segment, offset, bytes, lsn_from, lsn_to, entries }
    }
}

prop_compose! {
    fn segment_item()(
        (segment, generation) in any::<(u64, u32)>(),
        (first_lsn, last_lsn, entries) in any::<(u64, u64, u64)>(),
    ) -> real::SegmentItem {
        real::SegmentItem { segment, generation, first_lsn, last_lsn, entries }
    }
}

prop_compose! {
    fn tally()(
        (domain, failure_type) in (text(), text()),
        counts in prop::collection::vec(any::<(u8, u64)>(), 0..3),
    ) -> real::Tally {
        real::Tally { domain, failure_type, counts }
    }
}

prop_compose! {
    fn segment_end()((end, footer_crc, folded_lsn) in any::<(u64, u32, u64)>())
        -> real::SegmentEnd
    {
        real::SegmentEnd { end, footer_crc, folded_lsn }
    }
}

prop_compose! {
    fn clock()(
        (wall, trusted) in (time(), time()),
        pending in prop::option::of((time(), any::<u64>())),
        jumps in any::<u64>(),
        last_jump in prop::option::of((time(), time())),
        shifts in prop::collection::vec((any::<u64>(), any::<i64>(), time()), 0..3),
    ) -> real::ClockBody {
        let pending = pending.map(|(wall, uptime_ms)| real::PendingJump { wall, uptime_ms });
        let last_jump = last_jump.map(|(from, to)| real::Jump { from, to });
        let shifts = shifts.into_iter().map(|(lsn, ms, at)| real::Shift { lsn, ms, at }).collect();
        real::ClockBody { wall, trusted, pending, jumps, last_jump, shifts }
    }
}

prop_compose! {
    fn summary()(
        (id, domain, failure_type, error_code) in (text(), text(), text(), text()),
        (count, status) in (any::<u64>(), 0..3_u8),
        (first_seen, last_seen, compressed_at) in (time(), time(), time()),
        (sample_error_message, sample_context) in (text(), json()),
        (stale_at, archived_at) in (prop::option::of(time()), prop::option::of(time())),
    ) -> real::SummaryBody {
        real::SummaryBody {
            id, domain, failure_type, error_code, count, first_seen, last_seen,
            sample_error_message, sample_context, status, compressed_at, stale_at, archived_at,
        }
    }
}

prop_compose! {
    fn replace()(
        old in prop::collection::vec(any::<(u64, u32)>(), 0..3),
        (new, end) in (segment_item(), segment_end()),
    ) -> real::ReplaceBody {
        let old = old.into_iter();
        let old = old.map(|(segment, generation)| real::DropBody { segment, generation });
        real::ReplaceBody { old: old.collect(), new, end }
    }
}

prop_compose! {
    fn segment_set()(
        segments in prop::collection::vec(segment_item(), 0..3),
        (captured, purged, evicted, lost) in any::<(u64, u64, u64, u64)>(),
        losses in prop::collection::vec(loss(), 0..3),
        drained in any::<Vec<[u8; 16]>>(),
        tallies in prop::collection::vec(tally(), 0..3),
        ends in prop::collection::vec(segment_end(), 0..3),
        clock in clock(),
        summaries in prop::collection::vec(summary(), 0..3),
    ) -> real::SegmentSet {
        let totals = real::Totals { captured, purged, evicted, lost };
        real::SegmentSet { segments, totals, losses, drained, tallies, ends, clock, summaries }
    }
}

/// What a structure says as JSON, which has the same form in both; `Debug` hides payloads.
fn said(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_second_reader_finds_the_same_entries(Quiet(body) in entry()) {
        let older = check!(EntryBody, &written(&body));
        let read = check_short!(EntryBody, &written_short(&body));
        prop_assert_eq!(said(&older.state), said(&read.state));
        prop_assert_eq!(said(&read.state), said(&body.state));
        prop_assert_eq!(
            said(&(read.uuid, read.key, read.domain, read.original_domain, read.failure_type)),
            said(&(body.uuid, body.key, body.domain, body.original_domain, body.failure_type)),
        );
        prop_assert_eq!(
            said(&(read.entity_type, read.entity_id, read.user_id, read.next_action_hint)),
            said(&(body.entity_type, body.entity_id, body.user_id, body.next_action_hint)),
        );
        prop_assert_eq!(
            said(&(read.error_code, read.error_message, read.created_at, read.runnable)),
            said(&(body.error_code, body.error_message, body.created_at, body.runnable)),
        );
        for (read, body) in [
            (read.entity_refs, body.entity_refs),
            (read.snapshot_data, body.snapshot_data),
            (read.request_data, body.request_data),
            (read.response_data, body.response_data),
            (read.metadata, body.metadata),
        ] {
            prop_assert_eq!(read.0.as_str(), body.as_str());
        }
    }

    #[test]
    fn a_second_reader_finds_the_same_facts(
        target in any::<u64>(),
        state in state(),
        cause in prop::sample::select(deadletter::Cause::ALL.to_vec()),
        (domain, failure_type) in (text(), text()),
        set in segment_set(),
        loss in loss(),
        (uuid, entries) in any::<([u8; 16], u64)>(),
        replace in replace(),
    ) {
        let change = real::ChangeBody { target, state, cause, domain, failure_type };
        let older = check!(ChangeBody, &written(&change));
        let read = check_short!(ChangeBody, &written_short(&change));
        prop_assert_eq!(said(&older.state), said(&read.state));
        prop_assert_eq!(read.target, target);
        prop_assert_eq!(said(&read.state), said(&change.state));
        prop_assert_eq!(
            said(&(read.cause, read.domain, read.failure_type)),
            said(&(change.cause, change.domain, change.failure_type)),
        );
        let read = check!(SegmentSet, &written(&set));
        prop_assert_eq!(
            said(&(read.segments, read.totals, read.losses, read.drained)),
            said(&(set.segments, set.totals, set.losses, set.drained)),
        );
        prop_assert_eq!(said(&(read.ends, read.clock)), said(&(set.ends, set.clock)));
        let texts = |body: &SummaryBody| {
            said(&(&body.id, &body.domain, &body.failure_type, &body.error_code, body.count))
        };
        for (read, body) in read.summaries.iter().zip(&set.summaries) {
            let wanted = (&body.id, &body.domain, &body.failure_type, &body.error_code, body.count);
            prop_assert_eq!(texts(read), said(&wanted));
            prop_assert_eq!(&read.sample_error_message, &body.sample_error_message);
            prop_assert_eq!(read.sample_context.0.as_str(), body.sample_context.as_str());
            prop_assert_eq!(
                said(&(read.first_seen.0, read.last_seen.0, read.compressed_at.0, read.status)),
                said(&(body.first_seen.0, body.last_seen.0, body.compressed_at.0, body.status)),
            );
            prop_assert_eq!(
                said(&(&read.stale_at, &read.archived_at)),
                said(&(body.stale_at, body.archived_at)),
            );
        }
        prop_assert_eq!(read.summaries.len(), set.summaries.len());
        let counts = |tally: &Tally| tally.counts.iter().map(|it| (it.cause, it.records)).collect();
        let read = read.tallies.iter().map(|tally| real::Tally {
            domain: tally.domain.clone(),
            failure_type: tally.failure_type.clone(),
            counts: counts(tally),
        });
        prop_assert!(read.eq(set.tallies));
        prop_assert_eq!(said(&check!(Loss, &written(&loss))), said(&loss));
        let drained = real::DrainedBody { uuid, entries };
        prop_assert_eq!(said(&check!(DrainedBody, &written(&drained))), said(&drained));
        prop_assert_eq!(said(&check!(ReplaceBody, &written(&replace))), said(&replace));
    }
}
