//! What is compressed takes less, and is the same to everybody who looks; what lies about itself is
//! damage and nothing worse.

#[cfg(feature = "zstd")]
pub mod with;
#[cfg(not(feature = "zstd"))]
mod without;

use std::collections::BTreeMap;
use std::path::Path;

use deadletter::format::{
    Frame, Kind, RECORD_HEADER_LEN, RecordHeader, SEGMENT_HEADER_LEN, SegmentHeader,
};

/// The records of a segment, read with nothing but the public format.
struct Segment {
    /// The file that it was read from.
    #[cfg(feature = "zstd")]
    name: String,
    header: SegmentHeader,
    frames: Vec<Frame>,
}

impl Segment {
    #[cfg_attr(not(feature = "zstd"), expect(unused_variables, reason = "only forgers go back"))]
    fn read(name: &str, bytes: &[u8]) -> Self {
        let page = usize::try_from(SEGMENT_HEADER_LEN).unwrap();
        let (header, _) = SegmentHeader::decode(&bytes[..page]).unwrap();
        let (mut frames, mut at) = (Vec::new(), page);
        while let Some(head) = bytes.get(at..at + RECORD_HEADER_LEN)
            && let Ok(record) = RecordHeader::decode(head, header.salt, at as u64)
        {
            let start = at + RECORD_HEADER_LEN;
            let body = bytes[start..start + record.body_len as usize].to_vec();
            assert!(record.fits(&body));
            frames.push(Frame::new(at as u64, record, body));
            at += usize::try_from(record.record_len()).unwrap();
        }
        Self {
            #[cfg(feature = "zstd")]
            name: name.to_owned(),
            header,
            frames,
        }
    }

    /// All segments among these files.
    fn all(files: &BTreeMap<String, Vec<u8>>) -> Vec<Self> {
        let segments = files.iter().filter(|(name, _)| {
            let folder = Path::new(name).parent().unwrap();
            folder.ends_with("log") && Path::new(name).extension().is_some_and(|it| it == "seg")
        });
        segments.map(|(name, bytes)| Self::read(name, bytes)).collect()
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(move |frame| frame.header.kind == kind)
    }

    fn compressed(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(|frame| frame.header.flags.compressed)
    }
}
