//! The house rules that no compiler knows: who may use whom, what has one door, what the
//! documents must say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use deadletter::{Config, DlqConfig, Setting};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
/// Files that are longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];
/// Functions that are longer, each with its reason.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

/// Words that one door holds: what, and where it may stand, as a prefix of the path.
const DOORS: &[(&str, &[&str])] = &[
    ("bincode::", &["src/format/body.rs"]),
    ("zstd::", &["src/format/compress.rs"]),
    ("sled::", &["src/index/sled.rs", "src/index/mod.rs"]),
    ("std::fs", &["src/env/", "src/index/sled.rs", "src/bin/"]),
    ("SystemTime", &["src/env/", "src/bin/"]),
    ("Instant::now", &["src/env/", "src/bin/"]),
    ("thread::sleep", &["src/env/", "src/bin/"]),
    ("unsafe {", &["src/env/map.rs"]),
    ("unsafe impl", &["src/env/map.rs"]),
    ("unsafe fn", &["src/env/map.rs"]),
    ("println!", &["src/bin/deadletter/output.rs"]),
    ("print!(", &["src/bin/deadletter/output.rs"]),
    ("eprint!(", &["src/bin/deadletter/output.rs"]),
    ("env::var", &["src/settings.rs", "src/bin/"]),
];

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The lines of code with their numbers; comments and documentation are left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = (1..).zip(self.text.lines());
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The same without the tests of the file itself, which may look behind any door.
    fn code_without_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_tests = self.path.ends_with("/tests.rs");
        let tests = (1..).zip(self.text.lines()).find(|(_, line)| *line == "mod tests {");
        let end = tests.map_or(usize::MAX, |(number, _)| number);
        self.code().filter(move |(number, _)| !is_tests && *number < end)
    }
}

/// All Rust files below some folders, by path.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut waiting: Vec<_> = folders.iter().map(|folder| Path::new(ROOT).join(folder)).collect();
    while let Some(folder) = waiting.pop() {
        for name in fs::read_dir(folder).unwrap() {
            let path = name.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty());
    found
}

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(name)).unwrap()
}

/// Fails with all offenses at once, so that one run shows the whole work.
fn check(offenses: &[String]) {
    assert!(offenses.is_empty(), "\n{}\n", offenses.join("\n"));
}

struct Room {
    line: u32,
    may_use: BTreeSet<String>,
}

/// The names between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

fn rooms() -> BTreeMap<String, Room> {
    let text = document("docs/ARCHITECTURE.md");
    let rows = text.lines().filter_map(|row| {
        let cells: Vec<&str> = row.strip_prefix('|')?.split('|').map(str::trim).collect();
        let [line, room, may_use, ..] = cells.as_slice() else { return None };
        let room = quoted(room).next()?;
        Some((room, Room { line: line.parse().ok()?, may_use: quoted(may_use).collect() }))
    });
    rows.collect()
}

/// The room of a file of the library; none for `lib.rs` and the binary.
fn room_of(path: &str) -> Option<&str> {
    let path = path.strip_prefix("src/")?;
    let room = path.split(['/', '.']).next()?;
    (room != "lib" && room != "bin").then_some(room)
}

#[test]
fn rooms_look_down_only() {
    let rooms = rooms();
    let mut offenses = Vec::new();
    for (name, room) in &rooms {
        for used in &room.may_use {
            match rooms.get(used) {
                Some(below) if below.line < room.line => {}
                _ => offenses.push(format!("docs/ARCHITECTURE.md: {name} above {used}?")),
            }
        }
    }
    for source in sources(&["src"]) {
        let Some(name) = room_of(&source.path) else { continue };
        let Some(room) = rooms.get(name) else {
            offenses.push(format!("{}: {name} is not in the table of rooms", source.path));
            continue;
        };
        for (number, line) in source.code() {
            for used in line.split("crate::").skip(1) {
                let used: String =
                    used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if used != name && !room.may_use.contains(&used) {
                    let place = format!("{}:{number}", source.path);
                    offenses.push(format!("{place}: {name} must not use crate::{used}"));
                }
            }
        }
    }
    check(&offenses);
}

#[test]
fn doors_are_kept() {
    let mut offenses = Vec::new();
    for source in sources(&["src"]) {
        for (number, line) in source.code_without_tests() {
            for (word, places) in DOORS {
                let inside = places.iter().any(|place| source.path.starts_with(place));
                if line.contains(word) && !inside {
                    offenses.push(format!("{}:{number}: {word}", source.path));
                }
            }
        }
    }
    check(&offenses);
}

#[test]
fn files_keep_their_shape() {
    let mut offenses = Vec::new();
    let fixme = ["FIX", "ME"].concat();
    for source in sources(&["src", "tests"]) {
        let Source { path, text } = &source;
        let lines = text.lines().count();
        if lines > LINES_MAX && !LONG_FILES.iter().any(|(long, _)| long == path) {
            offenses.push(format!("{path}: {lines} lines"));
        }
        if !text.starts_with("//!") && !text.starts_with("#![doc") {
            offenses.push(format!("{path}: does not begin with what it is for"));
        }
        for (number, line) in (1..).zip(text.lines()) {
            if !line.is_ascii() {
                offenses.push(format!("{path}:{number}: not ASCII"));
            }
            if line.contains(&fixme) {
                offenses.push(format!("{path}:{number}: {fixme}"));
            }
            let statement = line.trim();
            if statement.starts_with("matches!(") && statement.ends_with(");") {
                offenses.push(format!("{path}:{number}: checks nothing"));
            }
        }
    }
    check(&offenses);
}

/// The functions of a file with their lengths in lines, by the layout that rustfmt gives: a
/// function ends at the first closing brace of its own indentation.
fn functions(source: &Source) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let words: Vec<&str> = code.split([' ', '(', '<']).take(6).collect();
        let Some(at) = words.iter().position(|word| *word == "fn") else { continue };
        let modifiers = ["pub", "crate)", "super)", "const", "async", "unsafe", "extern", ""];
        if !words[..at].iter().all(|word| modifiers.contains(word)) {
            continue;
        }
        let indentation = &line[..line.len() - code.len()];
        let close = format!("{indentation}}}");
        let rest = &lines[start..];
        // A declaration, or a function on one line, ends where it begins.
        let first = rest.iter().position(|line| line.ends_with(['{', ';', '}'])).unwrap_or(0);
        let len = if rest[first].ends_with('{') {
            rest.iter().position(|line| **line == *close).map_or(1, |end| end + 1)
        } else {
            first + 1
        };
        found.push((format!("{}:{} {}", source.path, start + 1, words[at + 1]), len));
    }
    found
}

#[test]
fn functions_fit_on_a_page() {
    let mut offenses = Vec::new();
    let mut count = 0;
    for source in sources(&["src", "tests"]) {
        for (name, len) in functions(&source) {
            count += 1;
            let known = LONG_FUNCTIONS.iter().any(|(long, _)| name.ends_with(long));
            if len > FUNCTION_LINES_MAX && !known {
                offenses.push(format!("{name}: {len} lines"));
            }
        }
    }
    assert!(count > 500, "the counter lost its functions: {count}");
    check(&offenses);
}

/// The verbs of the command line, as `Command` names them.
fn verbs() -> Vec<String> {
    let path = Path::new(ROOT).join("src/bin/deadletter/args.rs");
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let variants = text.split("pub enum Command {").nth(1).unwrap_or_default();
    let variants = variants.split("\n}").next().unwrap_or_default();
    let names = variants.lines().map(str::trim).filter(|line| line.starts_with(char::is_uppercase));
    let kebab = |line: &str| {
        let name = line.split(['(', ',', ' ']).next().unwrap_or_default();
        let mut verb = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !verb.is_empty() {
                verb.push('-');
            }
            verb.extend(letter.to_lowercase());
        }
        verb
    };
    names.map(kebab).collect()
}

#[test]
fn every_verb_is_documented() {
    let pages = document("README.md") + &document("docs/operating.md");
    let verbs = verbs();
    let missing = verbs.iter().filter(|verb| {
        let line = format!("deadletter {verb}");
        !pages.contains(&format!("{line}`")) && !pages.contains(&format!("{line} "))
    });
    check(&missing.map(|verb| format!("{verb} is not in docs/operating.md")).collect::<Vec<_>>());
}

fn table<C>(title: &str, settings: &[Setting<C>]) -> String {
    let mut table = format!("{title}\n");
    for setting in settings {
        let default = if setting.default.is_empty() { "empty" } else { setting.default };
        writeln!(table, "\n{}\n    {}", setting.name, setting.help).unwrap();
        writeln!(table, "    default: {default}; takes {}", setting.bounds).unwrap();
    }
    table
}

#[test]
fn the_settings_are_those_of_the_table() {
    crate::format::expect_block("docs/operating.md", &table("settings", Config::SETTINGS));
    let table = table("settings of the service", DlqConfig::SETTINGS);
    crate::format::expect_block("docs/operating.md", &table);
}

/// The command that the readme gives for all tests.
#[test]
fn the_readme_and_the_script_run_the_same_tests() {
    let readme = document("README.md");
    let block = readme.split("Run all tests with:").nth(1).unwrap();
    let command = block.lines().find_map(|line| line.strip_prefix("$ ")).unwrap();
    assert!(command.starts_with("cargo test"));
    let script = document(".ci/run");
    let steps: Vec<&str> = script.lines().filter_map(|line| line.strip_prefix("step ")).collect();
    assert!(steps.contains(&command), "{command} is not one of {steps:?}");
}

#[test]
fn the_architecture_is_short_and_links_nothing() {
    let text = document("docs/ARCHITECTURE.md");
    assert!(text.lines().count() < 200);
    assert!(!text.contains("](") && !text.contains("://"));
}

/// Whether a citation means a test or a file: `it::` stands for `tests/it`, `unit::` for `src`.
/// None when the text is no citation.
fn test_exists(cited: &str) -> Option<bool> {
    let (folder, path) = match cited.split_once("::")? {
        ("it", path) => ("tests/it", path),
        ("unit", path) => ("src", path),
        _ => return None,
    };
    let text = |path: &str| {
        let file = format!("{folder}/{}.rs", path.replace("::", "/"));
        fs::read_to_string(Path::new(ROOT).join(file))
    };
    if text(path).is_ok() {
        return Some(true);
    }
    let Some((file, name)) = path.rsplit_once("::") else { return Some(false) };
    let head = format!("fn {name}(");
    let text = text(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    // Other attributes may stand between.
    Some(lines.iter().enumerate().any(|(at, line)| {
        let mut above = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        line.starts_with(&head) && above.any(|line| *line == "#[test]")
    }))
}

/// Whether the source has both words of a `Type::name`. None when the text is nothing like it.
fn name_exists(cited: &str, words: &BTreeSet<String>) -> Option<bool> {
    let (owner, name) = cited.split_once("::")?;
    let is_type = owner.starts_with(char::is_uppercase);
    is_type.then(|| words.contains(owner) && words.contains(name))
}

#[test]
fn the_promise_names_its_tests() {
    let text = document("docs/PROMISE.md");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id"));
    let (mut promises, mut offenses) = (0, Vec::new());
    for row in rows {
        let id = row.trim_start_matches("| ").split(' ').next().unwrap();
        let cited: Vec<String> = quoted(row).filter(|cited| test_exists(cited).is_some()).collect();
        if cited.is_empty() && !id.starts_with('A') {
            offenses.push(format!("docs/PROMISE.md: {id} names no test"));
        }
        let missing = cited.iter().filter(|cited| test_exists(cited) == Some(false));
        offenses.extend(missing.map(|cited| format!("docs/PROMISE.md: {id} names {cited}")));
        promises += 1;
    }
    assert!(promises > 40, "the rows are not found any more: {promises}");
    check(&offenses);
}

#[test]
fn the_reference_table_cites_what_exists() {
    let text = document("docs/reference-parity.md");
    let mut words = BTreeSet::new();
    for source in sources(&["src"]) {
        for (_, line) in source.code() {
            let split = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            words.extend(split.map(str::to_owned));
        }
    }
    // The words in which the page says how it cites.
    let explained = ["it::", "unit::", "Type::name"];
    let mut offenses = Vec::new();
    let mut count = 0;
    for (number, line) in (1..).zip(text.lines()) {
        for cited in quoted(line).filter(|cited| !explained.contains(&cited.as_str())) {
            let exists = if cited.starts_with("src/") {
                Some(Path::new(ROOT).join(&cited).exists())
            } else {
                test_exists(&cited).or_else(|| name_exists(&cited, &words))
            };
            count += usize::from(exists.is_some());
            if exists == Some(false) {
                offenses.push(format!("docs/reference-parity.md:{number}: {cited}"));
            }
        }
    }
    assert!(count > 300, "the citations are not found any more: {count}");
    let rows = (1..=147).map(|row| format!("\n| {row} | "));
    let missing = rows.chain((1..=40).map(|row| format!("\n| W{row} ")));
    let missing = missing.filter(|row| text.matches(row.as_str()).count() != 1);
    offenses.extend(missing.map(|row| format!("docs/reference-parity.md: not one row {row:?}")));
    check(&offenses);
}

#[test]
fn documents_are_ascii() {
    let mut names = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    for name in fs::read_dir(Path::new(ROOT).join("docs")).unwrap() {
        names.push(format!("docs/{}", name.unwrap().file_name().to_str().unwrap()));
    }
    let lines = names.iter().flat_map(|name| {
        let text = document(name);
        let bad = (1..).zip(text.lines()).filter(|(_, line)| !line.is_ascii());
        bad.map(|(number, _)| format!("{name}:{number}: not ASCII")).collect::<Vec<_>>()
    });
    check(&lines.collect::<Vec<_>>());
}
