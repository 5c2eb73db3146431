//! Any bytes as a segment: what is decoded lies in the input, encodes to the same bytes, and every
//! intact record is found whatever stands around it.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use deadletter::format::{
    ENTRY_ROW_LEN, FOOTER_TRAILER_LEN, FooterTrailer, Kind, RECORD_HEADER_LEN, RecordHeader,
    SEGMENT_HEADER_LEN, SegmentHeader, decode_entry_row, padded_len,
};
use deadletter::{Error, FrameInfo};
use deadletter_fuzz::choice::Choice;
use deadletter_fuzz::{forge, place};
use libfuzzer_sys::fuzz_target;

const HEADER_LEN: usize = SEGMENT_HEADER_LEN as usize;

fuzz_target!(|data: &[u8]| {
    let [mode, rest @ ..] = data else { return };
    match mode % 4 {
        0 => raw(rest.to_vec()),
        1 => {
            let mut bytes = rest.to_vec();
            forge::repair_segment(&mut bytes);
            raw(bytes);
        }
        // A sound header costs the input no bytes.
        2 => {
            let mut bytes = forge::header([7; 16], false).encode();
            bytes.extend_from_slice(rest);
            forge::repair_segment(&mut bytes);
            raw(bytes);
        }
        _ => placed(&mut Choice::new(rest)),
    }
});

/// What is found in any bytes is what stands there.
fn raw(bytes: Vec<u8>) {
    // A file that ends in its header reads as if zeros followed.
    let mut page = bytes.clone();
    page.resize(HEADER_LEN, 0);
    let frames = dump(&bytes);
    let Ok((header, _)) = SegmentHeader::decode(&page) else {
        assert!(frames.is_none(), "frames of a segment without a header");
        return;
    };
    assert_eq!(SegmentHeader::decode(&header.encode()), Ok((header, true)));
    check_footer(&bytes, header.salt);
    let Some(frames) = frames else { return };
    let mut end = SEGMENT_HEADER_LEN;
    for frame in &frames {
        assert_eq!(frame.offset, end, "frames and holes follow each other");
        end = if frame.kind == "hole" {
            frame.offset + frame.len
        } else {
            check_frame(&bytes, header.salt, frame)
        };
        assert!(end <= bytes.len() as u64, "more was decoded than is there");
    }
}

/// Answers where the frame ends.
fn check_frame(bytes: &[u8], salt: u32, frame: &FrameInfo) -> u64 {
    let offset = usize::try_from(frame.offset).unwrap();
    let written = &bytes[offset..offset + RECORD_HEADER_LEN];
    let header = RecordHeader::decode(written, salt, frame.offset).expect("a frame was shown");
    assert_eq!(header.encode(salt, frame.offset), written);
    assert_eq!((header.lsn, header.group), (frame.lsn, frame.group));
    let from = offset + RECORD_HEADER_LEN;
    assert!(header.fits(&bytes[from..from + header.body_len as usize]));
    frame.offset + header.record_len()
}

fn check_footer(bytes: &[u8], salt: u32) {
    let Some((_, trailer)) = bytes.split_last_chunk::<FOOTER_TRAILER_LEN>() else { return };
    let Ok(trailer) = FooterTrailer::decode(trailer, salt, bytes.len() as u64) else { return };
    assert_eq!(trailer.start + trailer.footer_len(), bytes.len() as u64);
    let last = trailer.entries.checked_sub(1);
    if let Some(offset) = last.and_then(|last| trailer.entry_row_offset(last)) {
        let offset = usize::try_from(offset).unwrap();
        // Any 48 bytes are a row or are refused.
        let _ = decode_entry_row(&bytes[offset..offset + ENTRY_ROW_LEN]);
    }
}

/// Sound records between junk, zeros and broken records: all of them are found, in their order.
fn placed(choice: &mut Choice<'_>) {
    let mut segment = forge::header([7; 16], false).encode();
    let mut wanted = Vec::new();
    let mut lsn = 0;
    while !choice.is_empty() && segment.len() < 60 * 1024 {
        match choice.below(4) {
            0 => {
                let len = choice.below(64) * 8;
                let mut junk = choice.bytes(len).to_vec();
                junk.resize(junk.len().next_multiple_of(8), 0xee);
                // The length that a header would have there is too high: the fuzzer does find
                // right checksums.
                junk.iter_mut().skip(7).step_by(8).for_each(|byte| *byte = 0xff);
                segment.extend_from_slice(&junk);
            }
            1 => {
                let len = choice.below(2048) * 8;
                segment.resize(segment.len() + len, 0);
            }
            sort => {
                let len = choice.below(600);
                let body = choice.bytes(len).to_vec();
                lsn += 1 + choice.u64() % 3;
                let offset = segment.len();
                let kind = Kind::from_number(128 + choice.u8() % 128).unwrap();
                let header = forge::record_header(kind, 1, &body, lsn);
                forge::push_record(&mut segment, &header, &body);
                // A broken one: a bit of its header or body is another one.
                if sort == 3 {
                    let at = offset + choice.below(RECORD_HEADER_LEN + body.len());
                    segment[at] ^= 1 << choice.below(8);
                } else {
                    wanted.push((offset as u64, lsn, body.len() as u64));
                }
            }
        }
    }
    let frames = dump(&segment).expect("the header is sound");
    let found: Vec<_> = frames
        .iter()
        .filter(|frame| frame.kind != "hole")
        .map(|frame| (frame.offset, frame.lsn, frame.len))
        .collect();
    assert_eq!(found, wanted);
    let bytes: u64 = found.iter().map(|(_, _, len)| padded_len(*len as usize)).sum();
    assert!(bytes + SEGMENT_HEADER_LEN <= segment.len() as u64);
}

/// The frames and holes of a file up to one of a newer version; none when it is no segment.
fn dump(bytes: &[u8]) -> Option<Vec<FrameInfo>> {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| place::folder().keep().join("0000000000000001-0000.seg"));
    fs::write(path, bytes).unwrap();
    let mut found = Vec::new();
    for frame in deadletter::dump(path, 0).ok()? {
        match frame {
            Ok(frame) => found.push(frame),
            Err(Error::Version { .. }) => break,
            Err(error) => panic!("a readable file: {error}"),
        }
    }
    Some(found)
}
