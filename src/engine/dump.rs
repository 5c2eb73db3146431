//! The frames of one file, for the curious and for repair by hand.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::entry::Timestamp;
use crate::env::{Disk, Env, OpenMode};
use crate::error::{Error, Result};
use crate::format::{
    self, ChangeBody, ClockBody, DrainedBody, DropBody, EntryBody, FormatError, Frame, Kind, Loss,
    ReplaceBody, SEGMENT_HEADER_LEN, SegmentSet, SummaryBody,
};
use crate::log::{Item, SegmentFile};

/// How many frames are read at a time.
const READ_AHEAD: usize = 256;

/// One frame of a file. It never shows a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FrameInfo {
    /// Where it begins.
    pub offset: u64,
    /// Its sequence number.
    pub lsn: u64,
    /// `entry`, `change`, `drop`, `replace`, `segment_set`, `lost`, `drained`, `mark`, `clock`,
    /// `summary`, `dictionary`, or `hole` for bytes that are no frame.
    pub kind: &'static str,
    /// The length of its body, or of the hole.
    pub len: u64,
    /// Its commit group.
    pub group: u32,
    /// Whether a sync followed it.
    pub last_of_group: bool,
    /// The entry's index in the segment, else the index of the next entry.
    pub ordinal: u32,
    /// When it was made.
    pub time: Timestamp,
    /// What it says, in a few words.
    pub body: String,
}

/// The frames of one file, in order.
#[derive(Debug)]
pub struct Dump {
    segment: SegmentFile,
    offset: u64,
    ahead: std::collections::VecDeque<FrameInfo>,
    /// Why there is nothing behind what was read ahead; given once.
    failed: Option<Error>,
    ended: bool,
}

/// Reads the frames of a segment or a fallback file, from an offset on where a frame begins
/// (0: from the first).
///
/// # Errors
///
/// [`Error::Damaged`] for a file whose header cannot be read, [`Error::Invalid`] for an offset
/// outside the file, [`Error::Io`].
pub fn dump(path: &Path, offset: u64) -> Result<Dump> {
    let env: Arc<dyn Env> = Arc::new(Disk::new());
    let segment = SegmentFile::open(&*env, path, OpenMode::Read, false)?;
    let bound = format!("0, or from {SEGMENT_HEADER_LEN} to the file's length {}", segment.len);
    let first = offset.max(SEGMENT_HEADER_LEN);
    if (offset != 0 && offset < SEGMENT_HEADER_LEN) || offset > segment.len {
        return Err(Error::invalid("offset", offset, bound));
    }
    let ahead = std::collections::VecDeque::new();
    Ok(Dump { segment, offset: first, ahead, failed: None, ended: false })
}

impl Iterator for Dump {
    type Item = Result<FrameInfo>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ahead.is_empty() && !self.ended {
            self.failed = self.read_ahead().err();
            self.ended = self.failed.is_some();
        }
        self.ahead.pop_front().map(Ok).or_else(|| self.failed.take().map(Err))
    }
}

impl Dump {
    fn read_ahead(&mut self) -> Result<()> {
        let end = self.segment.trailer.map_or(self.segment.len, |trailer| trailer.start);
        let ahead = &mut self.ahead;
        let mut offset = self.offset;
        self.segment.scan_while(self.offset, end, &mut |item| {
            match item {
                Item::Frame(frame) => {
                    offset = frame.end();
                    ahead.push_back(info(&frame));
                }
                Item::Hole { from, to } => {
                    offset = to;
                    ahead.push_back(hole(from, to));
                }
                Item::Tail { from, data_end } => {
                    offset = end;
                    if data_end > from {
                        ahead.push_back(hole(from, data_end));
                    }
                }
            }
            Ok(ahead.len() < READ_AHEAD)
        })?;
        self.offset = offset;
        Ok(())
    }
}

fn hole(from: u64, to: u64) -> FrameInfo {
    FrameInfo {
        offset: from,
        lsn: 0,
        kind: "hole",
        len: to - from,
        group: 0,
        last_of_group: false,
        ordinal: 0,
        time: Timestamp(0),
        body: "bytes that are no frame".to_owned(),
    }
}

fn info(frame: &Frame) -> FrameInfo {
    let header = &frame.header;
    FrameInfo {
        offset: frame.offset,
        lsn: header.lsn,
        kind: header.kind.as_str(),
        len: u64::from(header.body_len),
        group: header.group,
        last_of_group: header.flags.last_of_group,
        ordinal: header.ordinal,
        time: Timestamp(header.time_ms),
        body: match describe(frame) {
            Ok(body) if header.flags.compressed => body + ", compressed",
            Ok(body) => body,
            Err(FormatError::Compressed) => "compressed; needs the feature zstd".to_owned(),
            Err(FormatError::Field("body version")) => "a body of another version".to_owned(),
            Err(_) => "a body that says nothing".to_owned(),
        },
    }
}

fn describe(frame: &Frame) -> Result<String, FormatError> {
    Ok(match frame.header.kind {
        Kind::Entry => {
            let body: EntryBody = format::decode_body(frame)?;
            format!("{} {} {}", body.domain, body.failure_type, body.state.status)
        }
        Kind::Change => {
            let body: ChangeBody = format::decode_body(frame)?;
            let gone = body.cause.removes();
            let status = if gone { "gone" } else { body.state.status.as_str() };
            format!("{} is {status}: {}", body.target, body.cause)
        }
        Kind::SegmentSet => {
            let set: SegmentSet = format::decode_body(frame)?;
            let totals = set.totals;
            let segments = set.segments.len();
            format!(
                "{segments} older segments, captured {}, purged {}, evicted {}, lost {}",
                totals.captured, totals.purged, totals.evicted, totals.lost
            )
        }
        Kind::Lost => {
            let loss: Loss = format::decode_body(frame)?;
            format!("{} to {} in segment {}", loss.lsn_from, loss.lsn_to, loss.segment)
        }
        Kind::Drained => {
            let body: DrainedBody = format::decode_body(frame)?;
            format!("{} with {} entries", format::fallback_name(&body.uuid), body.entries)
        }
        Kind::Drop => {
            let DropBody { segment, generation } = format::decode_body(frame)?;
            format::segment_name(segment, generation)
        }
        Kind::Replace => {
            let body: ReplaceBody = format::decode_body(frame)?;
            let old = body.old.iter().map(|old| format::segment_name(old.segment, old.generation));
            let new = format::segment_name(body.new.segment, body.new.generation);
            format!("{} by {new}", old.collect::<Vec<_>>().join(", "))
        }
        Kind::Clock => {
            let body: ClockBody = format::decode_body(frame)?;
            format!("wall {}, trusted {}, {} jumps", body.wall, body.trusted, body.jumps)
        }
        Kind::Summary => {
            let body: SummaryBody = format::decode_body(frame)?;
            format!("{} stands for {} entries", body.id, body.count)
        }
        Kind::Dictionary if frame.body.is_empty() => "none".to_owned(),
        Kind::Dictionary => "for compressed bodies".to_owned(),
        Kind::Mark | Kind::Other(_) => String::new(),
    })
}
