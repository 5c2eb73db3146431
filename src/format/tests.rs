//! What only this room can reach: the footer's two directions, and bodies of hostile bytes.

use proptest::prelude::*;

use super::{
    ChangeBody, ChangeRow, ClockBody, DrainedBody, DropBody, EntryBody, EntryRow,
    FOOTER_TRAILER_LEN, FooterTrailer, FormatError, Loss, NUMBER_END, RECORD_ALIGN, ReplaceBody,
    SegmentHeader, SegmentSet, Summary, SummaryBody, TIME_NONE, When, body::Body, decode_bytes,
    decode_footer, encode_body, encode_footer, footer_len,
};
use crate::entry::Status;

const SALT: u32 = 0x5a17;

fn status() -> impl Strategy<Value = Status> {
    (0..10_usize).prop_map(|number| Status::ALL[number])
}

prop_compose! {
    fn entry_row()(
        lsn in 0..NUMBER_END,
        (created_ms, expires_ms, key_hash) in any::<(u64, u64, u64)>(),
        place in any::<u32>(),
        (status, when) in (status(), any::<[u8; 3]>().prop_map(When::from_bytes)),
        (domain, failure_type) in any::<(u32, u32)>(),
    ) -> EntryRow {
        let offset = u64::from(place) * RECORD_ALIGN;
        EntryRow {
            lsn,
            offset,
            created_ms,
            expires_ms,
            key_hash,
            status,
            when,
            domain,
            failure_type,
        }
    }
}

prop_compose! {
    fn change_row()(
        (lsn, target, updated_ms) in (0..NUMBER_END, 0..NUMBER_END, any::<u64>()),
        (when_ms, expires_ms) in any::<(u64, u64)>(),
        place in any::<u32>(),
        status in prop::option::of(status()),
    ) -> ChangeRow {
        let offset = u64::from(place) * RECORD_ALIGN;
        ChangeRow { lsn, target, offset, status, updated_ms, when_ms, expires_ms }
    }
}

prop_compose! {
    fn summary()(
        terms in prop::collection::vec("[a-z\u{e9}]{1,9}", 0..5),
        entries in prop::collection::vec(entry_row(), 0..5),
        changes in prop::collection::vec(change_row(), 0..5),
    ) -> Summary {
        let mut summary = Summary::new(3);
        for term in terms {
            summary.term(&term);
        }
        summary.entries = entries;
        summary.changes = changes;
        summary
    }
}

/// Reads a footer from the end of a file, as opening a segment does.
fn read(bytes: &[u8], start: u64) -> Result<Summary, FormatError> {
    let (rest, trailer) =
        bytes.split_last_chunk::<FOOTER_TRAILER_LEN>().ok_or(FormatError::Short)?;
    let trailer = FooterTrailer::decode(trailer, SALT, start + bytes.len() as u64)?;
    let header = SegmentHeader {
        store_uuid: [0; 16],
        segment: 3,
        base_lsn: 1,
        salt: SALT,
        fallback: false,
        created_ms: 0,
        predecessor: None,
        generation: 0,
        folded_lsn: 0,
        capacity: 0,
    };
    decode_footer(rest, &trailer, &header)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_footer_comes_back_or_is_refused(summary in summary(), start in 4096..1_u64 << 30) {
        let (bytes, _) = encode_footer(&summary, SALT, start, 7, (1, 9));
        prop_assert_eq!(bytes.len() as u64, footer_len(&summary));
        prop_assert_eq!(read(&bytes, start), Ok(summary));
        let mut flipped = bytes.clone();
        for bit in 0..bytes.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&flipped, start).is_err(), "bit {}", bit);
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
        prop_assert!(read(&bytes[..bytes.len() - 1], start).is_err());
        prop_assert!(read(&bytes, start + 1).is_err());
    }

    #[test]
    fn hostile_bodies_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for version in 1..=3 {
            drop(decode_bytes::<EntryBody>(version, &bytes));
            drop(decode_bytes::<ChangeBody>(version, &bytes));
        }
        drop(decode_bytes::<SegmentSet>(3, &bytes));
        drop(decode_bytes::<ReplaceBody>(1, &bytes));
        drop(decode_bytes::<ClockBody>(1, &bytes));
        drop(decode_bytes::<SummaryBody>(1, &bytes));
        // Those with a fixed length have no other value that could be read.
        prop_assert_eq!(decode_bytes::<Loss>(1, &bytes).is_ok(), bytes.len() == 48);
        prop_assert_eq!(decode_bytes::<DrainedBody>(1, &bytes).is_ok(), bytes.len() == 24);
        prop_assert_eq!(decode_bytes::<DropBody>(1, &bytes).is_ok(), bytes.len() == 12);
    }
}

#[test]
fn a_length_beyond_the_body_is_refused_before_it_is_believed() {
    for len in [1 << 20, 1 << 40, u64::MAX] {
        let mut entry = vec![7; 16];
        entry.push(1);
        entry.extend_from_slice(&len.to_le_bytes());
        entry.extend_from_slice(&[0; 64]);
        assert!(decode_bytes::<EntryBody>(2, &entry).is_err(), "{len}");
        // In the short form this announces eight bytes.
        entry.insert(17, 253);
        assert!(decode_bytes::<EntryBody>(3, &entry).is_err(), "{len}");
        let mut set = len.to_le_bytes().to_vec();
        set.extend_from_slice(&[0; 64]);
        assert!(decode_bytes::<SegmentSet>(3, &set).is_err(), "{len}");
    }
}

proptest! {
    #[test]
    fn a_time_lies_within_its_bounds(
        created in prop_oneof![0..1_u64 << 43, any::<u64>()],
        (length, shift) in (any::<u64>(), 0..64_u32),
    ) {
        let length = length >> shift;
        let time = created.saturating_add(length).min(TIME_NONE - 1);
        let when = When::of(created, time);
        prop_assert_eq!(When::from_bytes(when.to_bytes()), when);
        let (from, to) = when.bounds(created);
        prop_assert!(from <= time && time <= to, "{} {} {}", from, time, to);
        prop_assert!(created > time || to - from <= length >> 18);
    }
}

#[test]
fn a_time_may_be_missing_or_not_told() {
    assert_eq!(When::of(5, TIME_NONE), When::NONE);
    assert_eq!(When::NONE.bounds(5), (TIME_NONE, TIME_NONE));
    assert_eq!(When::of(5, 4), When::UNKNOWN, "a time before the creation");
    assert_eq!(When::from_bytes([0; 3]), When::UNKNOWN, "what version 1.0 wrote");
    assert_eq!(When::UNKNOWN.bounds(5), (0, TIME_NONE));
    let exact = When::of(5, 5 + (1 << 19) - 1);
    assert_eq!(exact.bounds(5), (5 + (1 << 19) - 1, 5 + (1 << 19) - 1));
}

proptest! {
    #[test]
    fn a_footer_may_leave_out_what_version_1_0_did(records in summary(), other in any::<u64>()) {
        let mut footer = records.clone();
        footer.entries.iter_mut().for_each(|row| row.when = When::UNKNOWN);
        for row in footer.changes.iter_mut().filter(|row| row.status.is_some_and(Status::has_age)) {
            row.when_ms = TIME_NONE;
        }
        prop_assert!(footer.agrees_with(&records));
        prop_assert!(records.agrees_with(&records));
        if let Some(row) = footer.changes.first_mut() {
            row.updated_ms ^= other | 1;
            prop_assert!(!footer.agrees_with(&records));
        }
        footer.changes.pop();
        prop_assert_eq!(footer.agrees_with(&records), records.changes.is_empty());
    }
}

#[test]
fn an_older_body_reads_as_if_it_said_nothing_of_what_came_later() {
    let bytes = encode_body(&SegmentSet::default()).unwrap();
    let added = SegmentSet::ADDED;
    assert_eq!(added.len(), 2, "versions 1 and 2");
    for (version, added) in (1..).zip(added) {
        let older = &bytes[..bytes.len() - added];
        assert_eq!(decode_bytes::<SegmentSet>(version, older), Ok(SegmentSet::default()));
    }
}
