//! What only this room can reach: the footer's two directions, and bodies of hostile bytes.

use proptest::prelude::*;

use super::{
    ChangeBody, ChangeRow, DrainedBody, EntryBody, EntryRow, FOOTER_TRAILER_LEN, FooterTrailer,
    FormatError, Loss, RECORD_ALIGN, SegmentSet, Summary, decode_bytes, decode_footer,
    encode_footer, footer_len,
};
use crate::entry::Status;

const SALT: u32 = 0x5a17;

fn status() -> impl Strategy<Value = Status> {
    (0..10_usize).prop_map(|number| Status::ALL[number])
}

prop_compose! {
    fn entry_row()(
        (lsn, created_ms, expires_ms, key_hash) in any::<(u64, u64, u64, u64)>(),
        place in any::<u32>(),
        status in status(),
        (domain, failure_type) in any::<(u32, u32)>(),
    ) -> EntryRow {
        let offset = u64::from(place) * RECORD_ALIGN;
        EntryRow { lsn, offset, created_ms, expires_ms, key_hash, status, domain, failure_type }
    }
}

prop_compose! {
    fn change_row()(
        (lsn, target, updated_ms) in any::<(u64, u64, u64)>(),
        (not_before_ms, expires_ms) in any::<(u64, u64)>(),
        place in any::<u32>(),
        status in prop::option::of(status()),
    ) -> ChangeRow {
        let offset = u64::from(place) * RECORD_ALIGN;
        ChangeRow { lsn, target, offset, status, updated_ms, not_before_ms, expires_ms }
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
    decode_footer(rest, &trailer, SALT, 3, 0)
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
        drop(decode_bytes::<EntryBody>(2, &bytes));
        drop(decode_bytes::<ChangeBody>(2, &bytes));
        drop(decode_bytes::<SegmentSet>(2, &bytes));
        // The two with a fixed length have no other value that could be read.
        prop_assert_eq!(decode_bytes::<Loss>(1, &bytes).is_ok(), bytes.len() == 48);
        prop_assert_eq!(decode_bytes::<DrainedBody>(1, &bytes).is_ok(), bytes.len() == 24);
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
        let mut set = len.to_le_bytes().to_vec();
        set.extend_from_slice(&[0; 64]);
        assert!(decode_bytes::<SegmentSet>(2, &set).is_err(), "{len}");
    }
}
