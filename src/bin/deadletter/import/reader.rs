//! Reads lines in a thread of its own, so that a pause of the input can be noticed.

use std::io::{self, BufRead, BufReader, Read};

use anyhow::{Context as _, Result};
use crossbeam_channel::{Receiver, Sender, bounded};

/// The most bytes of one line: the bound of a record.
const LINE_BYTES_MAX: usize = 16 << 20;
/// How much is read at a time, and about how much a chunk of lines has.
const BUFFER_BYTES: usize = 256 << 10;
/// What some editors put at the beginning of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// How many chunks may wait.
const CHUNKS_MAX: usize = 4;

/// One line that is not blank.
pub struct Line {
    /// Counts from 1, blank lines included.
    pub number: u64,
    /// Its bytes without the line end, or why it cannot be taken.
    pub content: Result<Vec<u8>, String>,
}

/// Lines as they come, in chunks; an error of the input is the last one.
pub type Lines = Receiver<io::Result<Vec<Line>>>;

/// Starts to read. The thread ends with the input or when nobody takes lines any more; blocked on
/// a silent input it cannot be joined, and ends with the process.
pub fn start(input: impl Read + Send + 'static) -> Result<Lines> {
    let (sender, receiver) = bounded(CHUNKS_MAX);
    std::thread::Builder::new()
        .name("lines".into())
        .spawn(move || {
            if let Err(error) = read(BufReader::with_capacity(BUFFER_BYTES, input), &sender) {
                let _ = sender.send(Err(error));
            }
        })
        .context("cannot start a thread")?;
    Ok(receiver)
}

fn read<R: Read>(
    mut input: BufReader<R>,
    sender: &Sender<io::Result<Vec<Line>>>,
) -> io::Result<()> {
    let mut chunk = Vec::new();
    let mut number = 0;
    loop {
        let mut content = next_line(&mut input)?;
        if number == 0
            && let Some(Ok(line)) = &mut content
            && line.starts_with(BYTE_ORDER_MARK)
        {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        let at_end = content.is_none();
        if let Some(content) = content {
            number += 1;
            let blank = content.as_ref().is_ok_and(|line| line.trim_ascii().is_empty());
            if !blank {
                chunk.push(Line { number, content });
            }
        }
        // Without a whole line in the buffer the next read may block: what is there goes out.
        let may_block = !input.buffer().contains(&b'\n');
        let gone = (at_end || may_block)
            && !chunk.is_empty()
            && sender.send(Ok(std::mem::take(&mut chunk))).is_err();
        if at_end || gone {
            return Ok(());
        }
    }
}

/// The next line; a line that is too long is passed over and not kept. `None` at the end.
fn next_line(input: &mut impl BufRead) -> io::Result<Option<Result<Vec<u8>, String>>> {
    let mut line = Vec::new();
    let mut bytes = 0_usize;
    loop {
        let buffer = match input.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
        let at_end = buffer.is_empty();
        bytes += part.len();
        if bytes <= LINE_BYTES_MAX {
            line.extend_from_slice(part);
        } else {
            line = Vec::new();
        }
        let consumed = part.len() + usize::from(end.is_some());
        input.consume(consumed);
        if end.is_none() && !at_end {
            continue;
        }
        if at_end && bytes == 0 {
            return Ok(None);
        }
        if bytes > LINE_BYTES_MAX {
            let reason = format!("the line has {bytes} bytes, at most {LINE_BYTES_MAX} may be");
            return Ok(Some(Err(reason)));
        }
        return Ok(Some(Ok(line)));
    }
}
