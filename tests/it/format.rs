//! The bytes on disk: the tables of `docs/format.md` against real encodings, damage to every
//! structure, and a second reader for the bodies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

use deadletter::format::{
    CHECKPOINT_LEN, Checkpoint, FOOTER_TRAILER_LEN, FileName, Flags, FooterTrailer, FormatError,
    Kind, LOCK_NOTE_LEN, LockNote, Predecessor, RECORD_BODY_MAX, RECORD_HEADER_LEN, RecordHeader,
    SEGMENT_HEADER_COPY, SEGMENT_HEADER_LEN, STORE_LEN, SegmentHeader, StoreHeader,
    decode_entry_row,
};
use proptest::prelude::*;

/// All eight bytes differ from zero.
const ONES: u64 = u64::MAX;

/// A field: its name in the document, its width, and how it is set to all ones.
type Field<T> = (&'static str, usize, fn(&mut T));

/// Finds each field in real encodings: sets one at a time and looks which bytes move.
struct Layout {
    title: &'static str,
    /// Where the checksum stands; it moves with everything.
    crc: Range<usize>,
    /// Bytes that every encoding has: the offset, the bytes, what they say.
    constants: Vec<(usize, Vec<u8>, &'static str)>,
    crc_text: &'static str,
}

impl Layout {
    fn render<T: Clone>(
        &self,
        base: &T,
        encode: impl Fn(&T) -> Vec<u8>,
        fields: &[Field<T>],
    ) -> String {
        let plain = encode(base);
        let mut rows = BTreeMap::new();
        for (name, width, set) in fields {
            let mut changed = base.clone();
            set(&mut changed);
            let bytes = encode(&changed);
            assert_eq!(bytes.len(), plain.len());
            let moved: Vec<usize> = (0..plain.len())
                .filter(|at| !self.crc.contains(at) && bytes[*at] != plain[*at])
                .collect();
            let first = *moved.first().expect(name);
            assert!(moved.iter().all(|at| (first..first + width).contains(at)), "{name}");
            assert!(rows.insert(first, (*width, *name)).is_none(), "{name}");
        }
        for (offset, bytes, text) in &self.constants {
            assert_eq!(&plain[*offset..*offset + bytes.len()], bytes, "{text}");
            assert!(rows.insert(*offset, (bytes.len(), *text)).is_none(), "{text}");
        }
        rows.insert(self.crc.start, (self.crc.len(), self.crc_text));
        self.table(&rows, &plain)
    }

    fn table(&self, rows: &BTreeMap<usize, (usize, &str)>, plain: &[u8]) -> String {
        let mut table = format!("{}\noffset  size  field\n", self.title);
        let mut end = 0;
        let mut line = |offset: usize, size: usize, text: &str| {
            writeln!(table, "{offset:6}  {size:4}  {text}").unwrap();
        };
        for (offset, (size, text)) in rows {
            assert!(*offset >= end, "{text} overlaps the field before it");
            if *offset > end {
                assert!(plain[end..*offset].iter().all(|byte| *byte == 0));
                line(end, offset - end, "zero");
            }
            line(*offset, *size, text);
            end = offset + size;
        }
        assert_eq!(end, plain.len());
        table
    }
}

/// Compares a fenced block of a document, found by its first line, with what it must be.
pub(crate) fn expect_block(name: &str, rendered: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let title = rendered.lines().next().unwrap();
    let document = fs::read_to_string(&path).unwrap();
    let opening = format!("```text\n{title}\n");
    let start = document.find(&opening).unwrap_or_else(|| panic!("no block {title}")) + 8;
    let end = start + document[start..].find("```").unwrap();
    if document[start..end] == *rendered {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_EXPECT").is_some(),
        "{name}, {title}; UPDATE_EXPECT=1 writes this:\n{rendered}\ninstead of:\n{}",
        &document[start..end]
    );
    fs::write(&path, format!("{}{rendered}{}", &document[..start], &document[end..])).unwrap();
}

fn store_header() -> StoreHeader {
    StoreHeader { uuid: [0; 16], created_ms: 0 }
}

fn store_layout() -> String {
    let layout = Layout {
        title: "store file",
        crc: STORE_LEN - 4..STORE_LEN,
        constants: vec![
            (0, b"DLQSTOR\n".to_vec(), "magic, \"DLQSTOR\" 0a"),
            (8, vec![1, 0], "major version, 1"),
            (10, vec![2, 0], "minor version, 2"),
            (12, vec![0; 4], "flags, none yet"),
        ],
        crc_text: "CRC of all bytes before",
    };
    let fields: [Field<StoreHeader>; 2] = [
        ("uuid of the store", 16, |header| header.uuid = [0xff; 16]),
        ("created, a time", 8, |header| header.created_ms = ONES),
    ];
    layout.render(&store_header(), StoreHeader::encode, &fields)
}

fn segment_header() -> SegmentHeader {
    let predecessor = Predecessor { segment: 0, last_lsn: 0, end: 0, footer_crc: 0 };
    SegmentHeader {
        store_uuid: [0; 16],
        segment: 0,
        base_lsn: 0,
        salt: 0,
        fallback: false,
        created_ms: 0,
        predecessor: Some(predecessor),
        generation: 0,
        folded_lsn: 0,
        capacity: 0,
    }
}

fn before(header: &mut SegmentHeader) -> &mut Predecessor {
    header.predecessor.as_mut().unwrap()
}

fn segment_layout() -> String {
    let layout = Layout {
        title: "segment header",
        crc: 124..128,
        constants: vec![
            (0, b"DLQSEG\x1a\n".to_vec(), "magic, \"DLQSEG\" 1a 0a"),
            (8, vec![1, 0], "major version, 1"),
            (10, vec![2, 0], "minor version, 2"),
            (12, vec![128, 0, 0, 0], "length of this structure, 128"),
        ],
        crc_text: "CRC of all bytes before",
    };
    let fields: [Field<SegmentHeader>; 13] = [
        ("uuid of the store", 16, |header| header.store_uuid = [0xff; 16]),
        ("segment number", 8, |header| header.segment = ONES),
        ("base: the lowest sequence number", 8, |header| header.base_lsn = ONES),
        ("salt", 4, |header| header.salt = u32::MAX),
        ("flags", 4, |header| header.fallback = true),
        ("created, a time", 8, |header| header.created_ms = ONES),
        ("predecessor: segment number", 8, |header| before(header).segment = ONES - 1),
        ("predecessor: last sequence number", 8, |header| before(header).last_lsn = ONES),
        ("predecessor: end of its records", 8, |header| before(header).end = ONES),
        ("predecessor: CRC of its trailer", 4, |header| before(header).footer_crc = u32::MAX),
        ("generation, rises with each rewrite", 4, |header| header.generation = u32::MAX),
        ("folded sequence number", 8, |header| header.folded_lsn = ONES),
        ("capacity: the length prepared", 8, |header| header.capacity = ONES),
    ];
    let encode = |header: &SegmentHeader| {
        let page = header.encode();
        let copy = usize::try_from(SEGMENT_HEADER_COPY).unwrap();
        assert_eq!(page[..128], page[copy..copy + 128]);
        assert!(page[128..copy].iter().chain(&page[copy + 128..]).all(|byte| *byte == 0));
        page[..128].to_vec()
    };
    layout.render(&segment_header(), encode, &fields)
}

fn record_header() -> RecordHeader {
    RecordHeader {
        body_len: 0,
        lsn: 0,
        body_crc: 0,
        kind: Kind::Other(128),
        flags: Flags::default(),
        body_version: 0,
        time_ms: 0,
        group: 0,
        ordinal: 0,
    }
}

fn record_layout() -> String {
    let layout = Layout {
        title: "record header",
        crc: 0..4,
        constants: vec![],
        crc_text: "CRC of the 36 bytes behind it, from the salt and the offset",
    };
    let fields: [Field<RecordHeader>; 9] = [
        ("length of the body", 4, |header| header.body_len = u32::MAX),
        ("sequence number", 8, |header| header.lsn = ONES),
        ("CRC of the body", 4, |header| header.body_crc = u32::MAX),
        ("kind", 1, |header| header.kind = Kind::Entry),
        ("flags", 1, |header| header.flags.last_of_group = true),
        ("version of the body", 2, |header| header.body_version = u16::MAX),
        ("made, a time", 8, |header| header.time_ms = ONES),
        ("group", 4, |header| header.group = u32::MAX),
        ("ordinal", 4, |header| header.ordinal = u32::MAX),
    ];
    layout.render(&record_header(), |header| header.encode(0x5a17, 4096).to_vec(), &fields)
}

fn checkpoint_layout() -> String {
    let layout = Layout {
        title: "checkpoint slot",
        crc: CHECKPOINT_LEN - 4..CHECKPOINT_LEN,
        constants: vec![(0, b"DLQCKPT\n".to_vec(), "magic, \"DLQCKPT\" 0a")],
        crc_text: "CRC of all bytes before",
    };
    let fields: [Field<Checkpoint>; 13] = [
        ("sequence of this slot", 8, |slot| slot.sequence = ONES),
        ("active segment", 8, |slot| slot.segment = ONES),
        ("end of its durable records", 8, |slot| slot.end = ONES),
        ("last durable sequence number", 8, |slot| slot.last_lsn = ONES),
        ("entries in those records", 8, |slot| slot.entries = ONES),
        ("clean: closed in order, a bool", 1, |slot| slot.clean = true),
        ("the four counts may lack calls, a bool", 1, |slot| slot.counts_incomplete = true),
        ("offered: store calls", 8, |slot| slot.offered = ONES),
        ("duplicates", 8, |slot| slot.duplicates = ONES),
        ("refused", 8, |slot| slot.refused = ONES),
        ("spilled", 8, |slot| slot.spilled = ONES),
        ("uuid of the index folder, zero for none", 16, |slot| slot.index_uuid = [0xff; 16]),
        ("the index is complete up to this number", 8, |slot| slot.index_lsn = ONES),
    ];
    layout.render(&Checkpoint::default(), Checkpoint::encode, &fields)
}

fn lock_layout() -> String {
    let layout = Layout {
        title: "lock note",
        crc: LOCK_NOTE_LEN - 4..LOCK_NOTE_LEN,
        constants: vec![(0, b"DLQLOCK\n".to_vec(), "magic, \"DLQLOCK\" 0a")],
        crc_text: "CRC of all bytes before",
    };
    let fields: [Field<LockNote>; 3] = [
        ("process id of the owner", 4, |note| note.process_id = u32::MAX),
        ("active segment", 8, |note| note.segment = ONES),
        ("end of its durable records", 8, |note| note.end = ONES),
    ];
    layout.render(&LockNote { process_id: 0, segment: 0, end: 0 }, LockNote::encode, &fields)
}

fn trailer() -> FooterTrailer {
    FooterTrailer {
        start: 0,
        terms_len: 0,
        entries: 0,
        changes: 0,
        records: 0,
        first_lsn: 0,
        last_lsn: 0,
        crcs: [0; 3],
    }
}

/// The trailer as the document says; the library shows no encoder.
fn trailer_bytes(trailer: &FooterTrailer, salt: u32) -> Vec<u8> {
    let mut bytes = b"DLQFOOT\n".to_vec();
    bytes.extend(trailer.start.to_le_bytes());
    for number in [trailer.terms_len, trailer.entries, trailer.changes, trailer.records] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(trailer.first_lsn.to_le_bytes());
    bytes.extend(trailer.last_lsn.to_le_bytes());
    bytes.extend(trailer.crcs.iter().flat_map(|crc| crc.to_le_bytes()));
    sealed(bytes, salt)
}

/// Appends the CRC of the bytes, from an initial value.
fn sealed(mut bytes: Vec<u8>, initial: u32) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new_with_initial(initial);
    hasher.update(&bytes);
    bytes.extend(hasher.finalize().to_le_bytes());
    bytes
}

fn trailer_layout() -> String {
    let layout = Layout {
        title: "footer trailer",
        crc: FOOTER_TRAILER_LEN - 4..FOOTER_TRAILER_LEN,
        constants: vec![(0, b"DLQFOOT\n".to_vec(), "magic, \"DLQFOOT\" 0a")],
        crc_text: "CRC of all bytes before, from the salt",
    };
    let fields: [Field<FooterTrailer>; 10] = [
        ("start: the end of the records", 8, |trailer| trailer.start = ONES),
        ("length of the terms in bytes", 4, |trailer| trailer.terms_len = u32::MAX),
        ("number of entry rows", 4, |trailer| trailer.entries = u32::MAX),
        ("number of change rows", 4, |trailer| trailer.changes = u32::MAX),
        ("number of records", 4, |trailer| trailer.records = u32::MAX),
        ("lowest sequence number", 8, |trailer| trailer.first_lsn = ONES),
        ("highest sequence number", 8, |trailer| trailer.last_lsn = ONES),
        ("CRC of the terms", 4, |trailer| trailer.crcs[0] = u32::MAX),
        ("CRC of the entry rows", 4, |trailer| trailer.crcs[1] = u32::MAX),
        ("CRC of the change rows", 4, |trailer| trailer.crcs[2] = u32::MAX),
    ];
    layout.render(&trailer(), |trailer| trailer_bytes(trailer, 0x5a17), &fields)
}

/// The entry row by its decoder: which field answers to which byte.
fn entry_row_layout() -> String {
    let plain = [0; 48];
    let base = decode_entry_row(&plain).unwrap();
    let mut rows: BTreeMap<usize, (usize, &str)> = BTreeMap::new();
    let mut last = "";
    for at in 0..plain.len() {
        let mut bytes = plain;
        bytes[at] = 1;
        let row = decode_entry_row(&bytes).unwrap();
        let name = match () {
            () if row.lsn != base.lsn => "sequence number",
            () if row.created_ms != base.created_ms => "created, a time",
            () if row.expires_ms != base.expires_ms => "expires, a time",
            () if row.key_hash != base.key_hash => "hash of the key",
            () if row.offset != base.offset => "offset of the record, divided by 8",
            () if row.domain != base.domain => "domain, a term",
            () if row.failure_type != base.failure_type => "failure type, a term",
            () if row.status != base.status => "status that the record carries",
            () if row.when != base.when => "when, in three bytes, see below",
            () => continue,
        };
        let start = if name == last { *rows.last_key_value().unwrap().0 } else { at };
        rows.entry(start).or_insert((0, name)).0 += 1;
        last = name;
    }
    let layout = Layout { title: "entry row", crc: 0..0, constants: vec![], crc_text: "" };
    layout.table(&rows, &plain)
}

/// The change row: the library shows neither direction, the golden files check it.
const CHANGE_ROW: [(usize, &str); 9] = [
    (8, "sequence number of the change"),
    (8, "id of the entry"),
    (8, "changed, a time"),
    (8, "when, a time, see below"),
    (8, "expires, a time"),
    (4, "offset of the record, divided by 8"),
    (1, "status after the change"),
    (1, "1: when goes by the status"),
    (2, "zero"),
];

fn change_row_layout() -> String {
    let mut rows = BTreeMap::new();
    let mut offset = 0;
    for (size, text) in CHANGE_ROW {
        rows.insert(offset, (size, text));
        offset += size;
    }
    let layout = Layout { title: "change row", crc: 0..0, constants: vec![], crc_text: "" };
    layout.table(&rows, &[0; 48])
}

fn kind_table() -> String {
    let meaning = |kind: Kind| match kind {
        Kind::Entry => "an entry was stored",
        Kind::Change => "the state of an entry changed",
        Kind::Drop => "a segment that holds nothing alive is gone",
        Kind::Replace => "a rewritten segment stands in for others",
        Kind::SegmentSet => "the older segments and the totals",
        Kind::Lost => "records were lost to damage",
        Kind::Drained => "a fallback file was brought home",
        Kind::Mark => "nothing: ends a group",
        Kind::Clock => "what is known of the time",
        Kind::Summary => "what is left of evicted entries",
        Kind::Dictionary => "what compressed bodies of this segment need",
        Kind::Other(_) => "may be skipped",
    };
    let mut table = String::from("record kinds\nnumber  name\n");
    for number in 0..128_u8 {
        if let Some(kind) = Kind::from_number(number) {
            assert_eq!(kind.number(), number);
            writeln!(table, "{number:6}  {:11}  {}", kind.as_str(), meaning(kind)).unwrap();
        }
    }
    for number in 128..=u8::MAX {
        assert_eq!(Kind::from_number(number), Some(Kind::Other(number)));
    }
    writeln!(table, "{:>6}  {:11}  {}", "128-", "other", meaning(Kind::Other(128))).unwrap();
    table
}

fn flag_table() -> String {
    let flags: [Field<Flags>; 5] = [
        ("more of batch: the next record belongs to the same batch", 1, |flags| {
            flags.more_of_batch = true;
        }),
        ("continues batch: the record before belongs to the same batch", 1, |flags| {
            flags.continues_batch = true;
        }),
        ("compressed: the body is compressed", 1, |flags| flags.compressed = true),
        ("drained: brought home from a fallback file", 1, |flags| flags.drained = true),
        ("last of group: a sync follows this record", 1, |flags| flags.last_of_group = true),
    ];
    let mut table = String::from("record flags\n   bit  name\n");
    for (text, _, set) in flags {
        let mut header = record_header();
        set(&mut header.flags);
        let bytes = header.encode(1, 4096);
        writeln!(table, "{:6}  {text}", bytes[21]).unwrap();
    }
    table
}

#[test]
fn the_document_states_the_real_layouts() {
    for table in [
        store_layout(),
        segment_layout(),
        record_layout(),
        kind_table(),
        flag_table(),
        trailer_layout(),
        entry_row_layout(),
        change_row_layout(),
        checkpoint_layout(),
        lock_layout(),
    ] {
        expect_block("docs/format.md", &table);
    }
}

/// Flips each bit once; what is decoded then must be an error, or the value itself.
fn check_flips<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    value: &T,
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
) {
    assert_eq!(decode(bytes).as_ref(), Ok(value));
    let mut flipped = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&flipped).is_err(), "bit {bit}");
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
    for len in 0..bytes.len() {
        let (kept, cut) = bytes.split_at(len);
        // A caller that fills up with zeros loses nothing when only zeros were cut.
        let is_whole = cut.iter().all(|byte| *byte == 0);
        match decode(kept) {
            Err(_) => {}
            Ok(found) => assert!(is_whole && found == *value, "cut to {len}"),
        }
    }
    assert!(decode(&vec![0; bytes.len()]).is_err());
}

/// Higher numbers were never written, but where they mean something.
fn number() -> impl Strategy<Value = u64> {
    0..1_u64 << 60
}

prop_compose! {
    fn any_segment_header()(
        (store_uuid, segment, base_lsn) in (any::<[u8; 16]>(), number(), number()),
        (salt, fallback, created_ms) in (1..=u32::MAX, any::<bool>(), any::<u64>()),
        before in prop::option::of((number(), number(), number(), any::<u32>())),
        (generation, folded_lsn, capacity) in (any::<u32>(), number(), number()),
    ) -> SegmentHeader {
        let predecessor = before.map(|(segment, last_lsn, end, footer_crc)| {
            Predecessor { segment, last_lsn, end, footer_crc }
        });
        SegmentHeader {
            store_uuid, segment, base_lsn, salt, fallback, created_ms, predecessor, generation,
            folded_lsn, capacity,
        }
    }
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 128, 200, 255])
        .prop_map(|number| Kind::from_number(number).unwrap())
}

prop_compose! {
    fn any_record_header()(
        (lsn, body_crc, time_ms, group) in (number(), any::<u32>(), any::<u64>(), any::<u32>()),
        (ordinal, body_version) in any::<(u32, u16)>(),
        body_len in 0..=RECORD_BODY_MAX,
        kind in any_kind(),
        (more_of_batch, continues_batch, compressed, drained, last_of_group) in
            any::<(bool, bool, bool, bool, bool)>(),
    ) -> RecordHeader {
        let flags = Flags { more_of_batch, continues_batch, compressed, drained, last_of_group };
        RecordHeader {
            body_len, lsn, body_crc, kind, flags, body_version, time_ms, group, ordinal,
        }
    }
}

prop_compose! {
    fn any_checkpoint()(
        (sequence, segment, end, last_lsn, entries) in
            (number(), number(), number(), number(), number()),
        (clean, counts_incomplete) in any::<(bool, bool)>(),
        (offered, duplicates, refused, spilled) in (number(), number(), number(), number()),
        (index_uuid, index_lsn) in (any::<[u8; 16]>(), number()),
    ) -> Checkpoint {
        Checkpoint {
            sequence, segment, end, last_lsn, entries, clean, offered, duplicates, refused,
            spilled, counts_incomplete, index_uuid, index_lsn,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn fixed_structures_come_back_or_are_refused(
        (uuid, created_ms) in any::<([u8; 16], u64)>(),
        (process_id, segment, end) in any::<(u32, u64, u64)>(),
        record in any_record_header(),
        (salt, place) in (1..=u32::MAX, 512..1_u64 << 27),
    ) {
        let store = StoreHeader { uuid, created_ms };
        check_flips(&store.encode(), &store, StoreHeader::decode);
        let note = LockNote { process_id, segment, end };
        check_flips(&note.encode(), &note, LockNote::decode);
        let offset = place * 8;
        let bytes = record.encode(salt, offset);
        check_flips(&bytes, &record, |bytes| RecordHeader::decode(bytes, salt, offset));
        prop_assert!(RecordHeader::decode(&bytes, salt, offset + 8).is_err());
        prop_assert!(RecordHeader::decode(&bytes, salt ^ 1, offset).is_err());
    }

    #[test]
    fn a_checkpoint_comes_back_or_is_refused(checkpoint in any_checkpoint()) {
        check_flips(&checkpoint.encode(), &checkpoint, Checkpoint::decode);
    }

    #[test]
    fn a_trailer_comes_back_or_is_refused(
        start in 4096..1_u64 << 30,
        (terms_len, entries, changes, records) in any::<(u32, u32, u32, u32)>(),
        (first_lsn, last_lsn, crcs) in (number(), number(), any::<[u32; 3]>()),
        salt in 1..=u32::MAX,
    ) {
        let trailer = FooterTrailer {
            start, terms_len, entries, changes, records, first_lsn, last_lsn, crcs,
        };
        let bytes = trailer_bytes(&trailer, salt);
        let len = start + trailer.footer_len();
        check_flips(&bytes, &trailer, |bytes| FooterTrailer::decode(bytes, salt, len));
        prop_assert!(FooterTrailer::decode(&bytes, salt, len + 1).is_err());
        prop_assert!(FooterTrailer::decode(&bytes, salt ^ 1, len).is_err());
        let crc = trailer.crc(salt).to_le_bytes();
        prop_assert_eq!(&crc, &bytes[FOOTER_TRAILER_LEN - 4..]);
    }

    /// One bad copy is no harm, but it is noticed.
    #[test]
    fn a_segment_header_survives_in_its_other_copy(header in any_segment_header()) {
        let page = header.encode();
        prop_assert_eq!(SegmentHeader::decode(&page), Ok((header, true)));
        let mut flipped = page.clone();
        for bit in 0..page.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(SegmentHeader::decode(&flipped), Ok((header, false)), "bit {}", bit);
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
        let copy = usize::try_from(SEGMENT_HEADER_COPY).unwrap();
        check_flips(&page[..128], &header, |bytes| {
            let mut page = bytes.to_vec();
            page.resize(copy * 2, 0);
            SegmentHeader::decode(&page).map(|(header, _)| header)
        });
    }
}

/// Gives arbitrary bytes to every decoder, also behind a right magic and before a right CRC.
fn decode_all(bytes: &[u8], salt: u32) {
    let _ = StoreHeader::decode(bytes);
    let _ = SegmentHeader::decode(bytes);
    let _ = RecordHeader::decode(bytes, salt, 4096);
    let _ = Checkpoint::decode(bytes);
    let _ = LockNote::decode(bytes);
    let _ = FooterTrailer::decode(bytes, salt, bytes.len() as u64);
    let _ = decode_entry_row(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        salt in any::<u32>(),
    ) {
        decode_all(&bytes, salt);
        let magics: [&[u8; 8]; 5] =
            [b"DLQSTOR\n", b"DLQSEG\x1a\n", b"DLQCKPT\n", b"DLQLOCK\n", b"DLQFOOT\n"];
        for magic in magics {
            for len in [STORE_LEN, 128, CHECKPOINT_LEN] {
                let mut content = [magic.as_slice(), &bytes].concat();
                content.resize(len - 4, 0);
                decode_all(&sealed(content.clone(), 0), salt);
                decode_all(&sealed(content, salt), salt);
            }
        }
        if let Some(content) = bytes.first_chunk::<36>() {
            let crc = sealed(content.to_vec(), salt ^ 512).split_off(36);
            let header = [crc.as_slice(), content].concat();
            match RecordHeader::decode(&header, salt, 4096) {
                Ok(header) => prop_assert!(header.body_len <= RECORD_BODY_MAX),
                Err(FormatError::Field(_) | FormatError::Kind(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn a_name_is_ours_or_foreign(name in "[0-9a-fA-F+.-]{0,24}(seg|next|tmp)?") {
        let name_again = match FileName::parse(&name) {
            FileName::Segment(number, generation) => {
                deadletter::format::segment_name(number, generation)
            }
            FileName::Next(number) => deadletter::format::next_name(number),
            FileName::Rewriting(number, generation) => {
                deadletter::format::rewriting_name(number, generation)
            }
            FileName::Fallback(uuid) => deadletter::format::fallback_name(&uuid),
            FileName::Foreign => name.clone(),
        };
        prop_assert_eq!(name_again, name);
    }
}

/// Found by the fuzz target `index_checkpoint`: the next number was one too high for a u64.
#[test]
fn a_number_that_nobody_wrote_is_refused_behind_a_right_checksum() {
    let high = 1 << 60;
    let slot = Checkpoint { last_lsn: high - 1, ..Checkpoint::default() };
    assert_eq!(Checkpoint::decode(&slot.encode()), Ok(slot));
    for number in [high, ONES] {
        let wrong: [fn(&mut Checkpoint, u64); 10] = [
            |slot, number| slot.sequence = number,
            |slot, number| slot.segment = number,
            |slot, number| slot.end = number,
            |slot, number| slot.last_lsn = number,
            |slot, number| slot.entries = number,
            |slot, number| slot.offered = number,
            |slot, number| slot.duplicates = number,
            |slot, number| slot.refused = number,
            |slot, number| slot.spilled = number,
            |slot, number| slot.index_lsn = number,
        ];
        for set in wrong {
            let mut slot = Checkpoint::default();
            set(&mut slot, number);
            let refused = Err(FormatError::Field("checkpoint"));
            assert_eq!(Checkpoint::decode(&slot.encode()), refused);
        }
        let record = RecordHeader { lsn: number, ..record_header() };
        let refused = Err(FormatError::Field("sequence number"));
        assert_eq!(RecordHeader::decode(&record.encode(7, 4096), 7, 4096), refused);
        let segment = SegmentHeader { segment: number, ..segment_header() };
        let refused = Err(FormatError::Field("segment header"));
        assert_eq!(SegmentHeader::decode(&segment.encode()), refused);
        let name = deadletter::format::segment_name(number, 0);
        assert_eq!(FileName::parse(&name), FileName::Foreign);
    }
}

#[test]
fn a_newer_major_version_is_refused_as_such() {
    let mut store = store_header().encode();
    store[8] = 2;
    assert_eq!(StoreHeader::decode(&store), Err(FormatError::Version(2, 2)));
    let mut copy = SegmentHeader { salt: 1, ..segment_header() }.encode();
    copy.truncate(124);
    copy[8] = 2;
    let mut page = sealed(copy, 0);
    page.resize(usize::try_from(SEGMENT_HEADER_LEN).unwrap(), 0);
    assert_eq!(SegmentHeader::decode(&page), Err(FormatError::Version(2, 2)));
    let mut minor = store_header().encode();
    minor.truncate(STORE_LEN - 4);
    minor[10] = 9;
    assert_eq!(StoreHeader::decode(&sealed(minor, 0)), Ok(store_header()));
}

#[test]
fn an_unknown_kind_below_128_is_refused() {
    for number in (0..128).filter(|number| Kind::from_number(*number).is_none()) {
        let mut bytes = record_header().encode(1, 4096).to_vec().split_off(4);
        bytes[16] = number;
        let crc = sealed(bytes.clone(), 1 ^ 512).split_off(RECORD_HEADER_LEN - 4);
        let result = RecordHeader::decode(&[crc, bytes].concat(), 1, 4096);
        assert_eq!(result, Err(FormatError::Kind(number)), "{number}");
    }
}
