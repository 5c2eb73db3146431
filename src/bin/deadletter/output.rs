//! The only door out: data to stdout, words to stderr.
//!
//! Captured text is hostile, so everything printed for a person goes through [`escape`]. JSON
//! is left alone: it is for programs, and escapes control characters itself.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use crate::failure::{self, Exit, StdoutClosed};

/// Work shorter than this shows no progress bar.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// How much of a dotted name a row shows: parts of it were captured and may be long.
const NAME_CHARS_MAX: usize = 100;

/// How this run speaks.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// One JSON document instead of text for a person.
    pub json: bool,
    /// No notes and warnings on stderr.
    pub quiet: bool,
    /// More notes on stderr.
    pub verbose: bool,
}

/// A bar on stderr that appears once the work has taken a while.
pub struct Progress {
    started: Instant,
    allowed: bool,
    bar: Option<ProgressBar>,
    what: &'static str,
}

impl Output {
    /// Writes one line of data.
    pub fn line(&self, line: &str) -> Result<()> {
        write_stdout(&[line.as_bytes(), b"\n"])
    }

    /// Writes one JSON document on a line of its own.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<()> {
        self.line(&serde_json::to_string(value).context("cannot write JSON")?)
    }

    /// Writes a table; cells are escaped here.
    pub fn table(
        &self,
        header: &[&str],
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        if !header.is_empty() {
            table.set_header(header);
        }
        for row in rows {
            table.add_row(row.iter().map(|cell| escape(cell)));
        }
        for line in table.to_string().lines() {
            // The style pads every cell on both sides.
            self.line(line.strip_prefix(' ').unwrap_or(line).trim_end())?;
        }
        Ok(())
    }

    /// Writes what a verb did: its report as JSON, or as one name and value a line.
    pub fn done<T: Serialize>(&self, what: &str, report: &T) -> Result<()> {
        if self.json {
            return self.json(report);
        }
        self.line(what)?;
        let value = serde_json::to_value(report).context("cannot write the report")?;
        let mut rows = Vec::new();
        flatten("", &value, &mut rows);
        self.table(&[], rows)
    }

    /// Writes how many entries a verb concerned.
    pub fn count(&self, what: &str, count: u64, dry_run: bool) -> Result<()> {
        if self.json {
            return self.json(&serde_json::json!({ "count": count, "dry_run": dry_run }));
        }
        self.line(&format!("{count} {what}"))
    }

    /// A note on stderr that `--quiet` silences.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// A note on stderr that only `-v` shows.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            say(text);
        }
    }

    /// A warning on stderr that `--quiet` silences.
    pub fn warning(&self, text: &str) {
        if !self.quiet {
            say(&format!("{} {}", paint("warning:", "\u{1b}[33m"), escape(text)));
        }
    }

    /// An error that does not end the work; always printed.
    pub fn error(&self, text: &str) {
        say(&format!("{} {}", paint("error:", "\u{1b}[31m"), escape(text)));
    }

    /// A bar for work that may take long.
    pub fn progress(&self, what: &'static str) -> Progress {
        let allowed = !self.quiet && io::stderr().is_terminal();
        Progress { started: Instant::now(), allowed, bar: None, what }
    }
}

impl Progress {
    /// Says how far the work is.
    pub fn set(&mut self, done: u64, total: u64) {
        if !self.allowed || self.started.elapsed() < PROGRESS_AFTER {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            bar.set_message(self.what);
            if let Ok(style) =
                ProgressStyle::with_template("{msg} {wide_bar} {percent}% {eta} to go")
            {
                bar.set_style(style);
            }
            bar
        });
        bar.set_length(total);
        bar.set_position(done);
    }

    /// Says that the work goes on, when its end is not known.
    pub fn beat(&mut self) {
        if !self.allowed || self.started.elapsed() < PROGRESS_AFTER {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_message(self.what);
            bar
        });
        bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Writes text that brings its own line ends to stdout.
pub fn raw(bytes: &[u8]) -> Result<()> {
    write_stdout(&[bytes])
}

/// Prints an error, its causes and its hint; returns the exit code that it stands for. `command`
/// is how a command on the same store begins.
pub fn report(error: &anyhow::Error, command: &str) -> Exit {
    let exit = failure::exit_of(error);
    if exit == Exit::Done {
        return exit;
    }
    for (depth, cause) in error.chain().enumerate() {
        let label = if depth == 0 { "error:" } else { "  caused by:" };
        say(&format!("{} {}", paint(label, "\u{1b}[31m"), escape(&cause.to_string())));
    }
    if let Some(hint) = failure::hint_of(error, command) {
        say(&format!("hint: {}", escape(&hint)));
    }
    exit
}

/// The short message of a panic.
pub fn report_bug(place: &str) {
    say(&format!("error: this is a bug in deadletter ({}); please report it", escape(place)));
}

/// Prints what is wrong with the command line, which may repeat what somebody else wrote.
pub fn report_usage(text: &str) {
    for line in text.trim_end().lines() {
        say(&escape(line));
    }
}

/// Writes what a wrapped command said through to our stderr, as it is.
pub fn pass_stderr(bytes: &[u8]) {
    // Nobody may be reading; the capture goes on all the same.
    let _ = io::stderr().write_all(bytes);
}

/// Makes text harmless on a terminal: control characters and those that change the direction of
/// writing become visible escapes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(character));
            }
            other if other.is_control() => {
                let _ = write!(escaped, "\\x{:02x}", u32::from(other));
            }
            other => escaped.push(other),
        }
    }
    escaped
}

/// The beginning of a text, escaped, at most `chars_max` characters of it.
pub fn shorten(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Turns nested values into rows of a dotted name and a plain value.
pub fn flatten(name: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let text = match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let dotted = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&dotted, value, rows);
            }
            return;
        }
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    rows.push(vec![shorten(name, NAME_CHARS_MAX), text]);
}

/// Quotes a word for a POSIX shell when it needs it.
pub fn shell_quoted(word: &str) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "._-/=:,+@%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn paint(label: &str, color: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !io::stderr().is_terminal() {
        return label.to_owned();
    }
    format!("{color}{label}\u{1b}[0m")
}

fn say(line: &str) {
    // With stderr gone there is nobody left to tell.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn write_stdout(parts: &[&[u8]]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = parts.iter().try_for_each(|part| stdout.write_all(part));
    of_stdout(written.and_then(|()| stdout.flush()))
}

/// What a write to stdout means: a reader that went away is no error.
pub fn of_stdout(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        other => other.context("cannot write to stdout"),
    }
}
