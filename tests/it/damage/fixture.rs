//! The store that is damaged: its files as bytes, its entries, and where each record stands.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use deadletter::format::{self, Kind, RECORD_HEADER_LEN};
use deadletter::{
    Background, Config, Engine, Entry, Env as _, Filter, IndexKind, Json, NewFailure, Order, Page,
    Simulated, State, Status,
};
use tempfile::TempDir;

/// Small, so that a store of a few hundred kilobytes has several segments.
const SEGMENT_BYTES: u64 = 64 * 1024;
const ENTRIES: u64 = 70;

/// One record of the log.
#[derive(Debug, Clone)]
pub struct Record {
    pub segment: String,
    /// Header and body.
    pub used: Range<u64>,
    /// With the zeros up to the next multiple of eight.
    pub whole: Range<u64>,
    pub kind: &'static str,
    pub lsn: u64,
    /// The entry that a change is about.
    pub target: Option<u64>,
}

/// A store, closed in order.
#[derive(Debug)]
pub struct Fixture {
    /// All files by their path in the data directory.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    pub entries: Vec<Entry>,
    pub records: Vec<Record>,
    /// The state of each entry before its newest change.
    pub before: BTreeMap<u64, State>,
    /// Where the records end, by segment.
    pub ends: BTreeMap<String, u64>,
    /// The highest sequence number.
    pub last_lsn: u64,
}

/// A folder that lives in memory where the system has such a place: thousands of opens sync.
pub fn temporary() -> TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir()
        && let Ok(dir) = tempfile::tempdir_in(shared)
    {
        return dir;
    }
    tempfile::tempdir().unwrap()
}

/// The settings of all cases. Nothing runs in the background, so that each case is the same on
/// every run.
pub fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir);
    config.segment_bytes = SEGMENT_BYTES;
    config.limits.request_data_max_bytes = 16 * 1024;
    config.limits.field_max_bytes = 16 * 1024;
    config.index = IndexKind::Memory;
    config.background = Background::Manual;
    config
}

/// All entries, oldest first.
pub fn all(engine: &Engine) -> Vec<Entry> {
    let page = Page { order: Order::Oldest, limit: 10_000, ..Page::default() };
    engine.find(&Filter::default(), page).unwrap()
}

/// The files below a directory, by their path in it; the quarantine is not part of the store.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_path_buf();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Writes files below a directory.
pub fn put_files(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

pub fn log_path(segment: &str) -> PathBuf {
    Path::new(format::LOG_DIR).join(segment)
}

impl Fixture {
    /// The store of the byte sweeps.
    pub fn get() -> &'static Self {
        static FIXTURE: OnceLock<Fixture> = OnceLock::new();
        FIXTURE.get_or_init(|| Self::build(config))
    }

    /// The same with an index on disk.
    pub fn with_index() -> &'static Self {
        static FIXTURE: OnceLock<Fixture> = OnceLock::new();
        FIXTURE.get_or_init(|| {
            Self::build(|dir| {
                let mut config = config(dir);
                config.index = IndexKind::Sled;
                config
            })
        })
    }

    fn build(config: impl Fn(&Path) -> Config) -> Self {
        let dir = temporary();
        let config = config(dir.path());
        let mut engine = Engine::open(config.clone()).unwrap();
        let mut before = BTreeMap::new();
        for number in 0..ENTRIES {
            if number == ENTRIES / 2 {
                // Closed twice, the store has both checkpoint slots.
                engine.close().unwrap();
                engine = Engine::open(config.clone()).unwrap();
            }
            let stored = engine.store(failure(number)).unwrap();
            before.insert(stored.id.0, engine.get(stored.id).unwrap().unwrap().state());
            if number % 5 == 4 {
                let target = deadletter::EntryId(stored.id.0 - 2);
                engine.change(target, &[Status::Pending], resolve).unwrap();
            }
        }
        let entries = all(&engine);
        engine.close().unwrap();
        let mut files = files(dir.path());
        // Zeros behind the last record, as a segment has them that was prepared ahead.
        let active = files.iter_mut().rfind(|(path, _)| path.starts_with(format::LOG_DIR));
        active.unwrap().1.resize(usize::try_from(SEGMENT_BYTES).unwrap(), 0);
        let mut fixture = Self {
            files,
            entries,
            records: Vec::new(),
            before,
            ends: BTreeMap::new(),
            last_lsn: 0,
        };
        for segment in fixture.segments() {
            fixture.read_records(&dir.path().join(log_path(&segment)), &segment);
        }
        assert_eq!(fixture.segments().len(), 3, "two sealed segments and an active one");
        fixture
    }

    fn read_records(&mut self, path: &Path, segment: &str) {
        for frame in deadletter::dump(path, 0).unwrap() {
            let frame = frame.unwrap();
            let used = frame.offset..frame.offset + RECORD_HEADER_LEN as u64 + frame.len;
            let body_len = usize::try_from(frame.len).unwrap();
            let end = frame.offset + format::padded_len(body_len);
            let target = frame.body.split(' ').next().and_then(|word| word.parse().ok());
            self.ends.insert(segment.to_owned(), end);
            self.last_lsn = self.last_lsn.max(frame.lsn);
            self.records.push(Record {
                segment: segment.to_owned(),
                whole: frame.offset..end,
                used,
                kind: frame.kind,
                lsn: frame.lsn,
                target: target.filter(|_| frame.kind == Kind::Change.as_str()),
            });
        }
    }

    /// The same files on a simulated disk.
    pub fn on_disk(&self, dir: &Path) -> Simulated {
        let disk = Simulated::new(1);
        disk.create_dir(dir).unwrap();
        for (name, bytes) in &self.files {
            let path = dir.join(name);
            disk.create_dir(path.parent().unwrap()).unwrap();
            disk.write_raw(&path, bytes).unwrap();
        }
        disk
    }

    /// The names of the segments, rising.
    pub fn segments(&self) -> Vec<String> {
        let below = self.files.keys().filter_map(|path| path.strip_prefix(format::LOG_DIR).ok());
        below.map(|name| name.to_str().unwrap().to_owned()).collect()
    }

    pub fn segment(&self, index: usize) -> String {
        self.segments()[index].clone()
    }

    pub fn active(&self) -> String {
        self.segments().pop().unwrap()
    }

    pub fn bytes(&self, segment: &str) -> &[u8] {
        &self.files[&log_path(segment)]
    }

    /// The records of a segment, in order.
    pub fn records_of(&self, segment: &str) -> Vec<Record> {
        self.records.iter().filter(|record| record.segment == segment).cloned().collect()
    }
}

fn failure(number: u64) -> NewFailure {
    let domain = ["payment", "mail", "stock"][usize::try_from(number % 3).unwrap()];
    let text = format!("{number:04} ").repeat(180 + usize::try_from(number).unwrap() * 3);
    let request = Json::object(format!(r#"{{"number": {number}, "text": "{text}"}}"#)).unwrap();
    let failure = NewFailure::new(domain, format!("TYPE_{}", number % 2))
        .entity("order", number.to_string())
        .request(request);
    if number.is_multiple_of(4) { failure.key(format!("key-{number}")) } else { failure }
}

fn resolve(state: &mut State) {
    state.status = Status::Resolved;
    state.resolution_type = "manual".to_owned();
}
