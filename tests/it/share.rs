//! Many processes at one store: readers beside a writer, a second writer, and spillers.
//!
//! This test binary starts itself again through the hidden test `other_process`, which does what
//! its environment says.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use deadletter::format;
use deadletter::{
    Background, Config, Durability, Engine, Error, Filter, NewFailure, Page, spill, verify,
};
use tempfile::TempDir;

use crate::damage::fixture::files;
use crate::kill::{self, Chance};

const DIR: &str = "DEADLETTER_TEST_SHARE_DIR";
const ACTION: &str = "DEADLETTER_TEST_SHARE_ACTION";

fn named(name: &str) -> NewFailure {
    NewFailure::new("payment", "SHARED").entity("name", name).key(name)
}

/// The names of all entries; none may be there twice.
fn names(engine: &Engine) -> BTreeSet<String> {
    let page = Page { limit: usize::MAX, ..Page::default() };
    let entries = engine.find(&Filter::default(), page).unwrap();
    let count = entries.len();
    let names = entries.into_iter().map(|entry| entry.operation.entity_id.unwrap());
    let names: BTreeSet<String> = names.collect();
    assert_eq!(names.len(), count, "an entry came twice");
    names
}

fn expected(names: impl IntoIterator<Item = u64>) -> BTreeSet<String> {
    names.into_iter().map(|number| number.to_string()).collect()
}

fn fallback_files(config: &Config) -> usize {
    fs::read_dir(config.fallback_dir()).map_or(0, Iterator::count)
}

/// Waits for a condition; three seconds are the promise for fallback files.
fn within_3_s(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while !condition() {
        assert!(Instant::now() < deadline, "not within three seconds: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the other process does: `own` opens the store, stores what `ACTION` says and waits for
/// the end of its input; `spill NAME` spills one entry.
#[test]
#[ignore = "the other process of the tests here, not a test"]
fn other_process() {
    let (Ok(dir), Ok(action)) = (std::env::var(DIR), std::env::var(ACTION)) else { return };
    let config = Config::new(dir);
    if let Some(name) = action.strip_prefix("spill ") {
        spill(&config, named(name)).unwrap();
        return;
    }
    let engine = Engine::open(config).unwrap();
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    engine.close().unwrap();
}

/// Another process, killed when it is dropped.
struct Other {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Other {
    fn start(dir: &Path, action: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["share::other_process", "--exact", "--ignored", "--nocapture"]);
        command.env(DIR, dir).env(ACTION, action);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    /// An owner that has opened the store.
    fn owner(dir: &Path) -> Self {
        let mut owner = Self::start(dir, "own");
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert!(owner.stdout.read_line(&mut line).unwrap() > 0, "the owner did not open");
        }
        owner
    }

    /// Waits for an orderly end.
    fn finish(mut self) {
        drop(self.stdin.take());
        std::io::copy(&mut self.stdout, &mut std::io::sink()).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn store_dir() -> (TempDir, Config) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new(dir.path().join("store"));
    (dir, config)
}

#[test]
fn a_second_writer_is_told_who_owns_the_store() {
    let (_dir, config) = store_dir();
    let owner = Other::owner(&config.dir);
    let error = Engine::open(config.clone()).unwrap_err();
    let Error::Locked { owner: Some(pid), .. } = &error else { panic!("{error}") };
    assert_eq!(*pid, owner.child.id());
    owner.finish();
    Engine::open(config).unwrap().close().unwrap();
}

#[test]
fn a_second_writer_waits_for_the_lock_as_long_as_it_is_told() {
    let (_dir, mut config) = store_dir();
    let owner = Other::owner(&config.dir);
    config.lock_wait_ms = 20_000;
    let waiting = std::thread::spawn(move || Engine::open(config).unwrap().close().unwrap());
    owner.finish();
    waiting.join().unwrap();
}

#[test]
fn a_killed_owner_leaves_the_lock_free() {
    let (_dir, config) = store_dir();
    drop(Other::owner(&config.dir));
    let engine = Engine::open(config).unwrap();
    assert_eq!(engine.report().lost, []);
    engine.close().unwrap();
}

#[test]
fn a_reader_sees_what_was_durable_when_it_opened() {
    let (_dir, mut config) = store_dir();
    config.background = Background::Manual;
    config.max_lag_ms = 60_000;
    let engine = Engine::open(config.clone()).unwrap();
    engine.store(named("1")).unwrap();
    let early = Engine::open_read_only(config.clone()).unwrap();
    assert_eq!(names(&early), expected(1..=1));
    engine.store_with(named("2"), Durability::Written).unwrap();
    engine.store_with(named("3"), Durability::Queued).unwrap();
    let reader = Engine::open_read_only(config.clone()).unwrap();
    assert_eq!(names(&reader), expected(1..=1), "2 and 3 are not durable yet");
    assert_eq!(reader.accounting().unwrap().captured, 1);
    engine.checkpoint().unwrap();
    let reader = Engine::open_read_only(config).unwrap();
    assert_eq!(names(&reader), expected(1..=3));
    assert_eq!(names(&early), expected(1..=1), "a snapshot stays as it is");
    let refused = reader.store(named("4")).unwrap_err().source;
    assert!(matches!(refused, Error::ReadOnly), "{refused}");
    engine.close().unwrap();
}

#[test]
fn a_reader_writes_nothing() {
    let (_dir, mut config) = store_dir();
    config.background = Background::Manual;
    let engine = Engine::open(config.clone()).unwrap();
    for number in 0..50 {
        engine.store(named(&number.to_string())).unwrap();
    }
    for closed in [false, true] {
        if closed {
            engine.close().unwrap();
        }
        let before = files(&config.dir);
        let reader = Engine::open_read_only(config.clone()).unwrap();
        assert_eq!(names(&reader), expected(0..50));
        assert!(reader.get_by_key("7").unwrap().is_some());
        assert_eq!(reader.tail(0).unwrap().count(), 50);
        reader.close().unwrap();
        assert_eq!(verify(&config, &mut |_, _| {}).unwrap().damage, []);
        assert!(files(&config.dir) == before, "a reader wrote, closed: {closed}");
    }
}

/// Readers beside a busy writer that rotates: each sees all that was acknowledged before it
/// opened, and the writer never notices.
#[test]
fn readers_beside_a_busy_writer() {
    let (_dir, config) = store_dir();
    let config = kill::config(&config.dir);
    let engine = Engine::open(config.clone()).unwrap();
    let acknowledged = std::sync::Mutex::new(BTreeSet::new());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + Duration::from_secs(3);
            for number in 0_u64.. {
                if Instant::now() > deadline {
                    break;
                }
                engine.store(named(&number.to_string())).unwrap();
                acknowledged.lock().unwrap().insert(number.to_string());
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut opens = 0;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let before = acknowledged.lock().unwrap().clone();
            let reader = Engine::open_read_only(config.clone()).unwrap();
            let seen = names(&reader);
            assert_eq!(reader.accounting().unwrap().live, seen.len() as u64);
            assert_eq!(reader.warnings(), []);
            let missing: Vec<_> = before.difference(&seen).collect();
            assert!(missing.is_empty(), "{missing:?} of {}", before.len());
            assert_eq!(verify(&config, &mut |_, _| {}).unwrap().damage, []);
            opens += 1;
        }
        assert!(opens > 3);
    });
    assert_eq!(names(&engine), acknowledged.into_inner().unwrap());
    engine.close().unwrap();
}

#[test]
fn a_spilled_entry_comes_home_to_a_running_owner() {
    let (_dir, config) = store_dir();
    let engine = Engine::open(config.clone()).unwrap();
    for number in 0..3_u64 {
        Other::start(&config.dir, &format!("spill {number}")).finish();
        within_3_s("the entry is home", || names(&engine).len() as u64 == number + 1);
    }
    within_3_s("the files are removed", || fallback_files(&config) == 0);
    assert_eq!(names(&engine), expected(0..3));
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.captured, accounting.live), (3, 3));
    engine.close().unwrap();
}

#[test]
fn spilled_entries_come_home_at_the_next_open() {
    let (_dir, config) = store_dir();
    for number in 0..3_u64 {
        let spilled = spill(&config, named(&number.to_string())).unwrap();
        assert_eq!(spilled.key, number.to_string());
        assert!(spilled.path.is_file());
    }
    for _ in 0..2 {
        let engine = Engine::open(config.clone()).unwrap();
        within_3_s("the entries are home", || names(&engine).len() == 3);
        within_3_s("the files are removed", || fallback_files(&config) == 0);
        engine.close().unwrap();
    }
}

/// The owner is killed while it brings files home: every entry comes once all the same.
#[test]
fn spilled_entries_come_home_once_although_the_owner_dies() {
    let (_dir, config) = store_dir();
    Engine::open(config.clone()).unwrap().close().unwrap();
    let mut chance = Chance::new();
    let mut spilled = 0;
    for _ in 0..15 {
        for _ in 0..8 {
            // Without a key of its own only the file's name tells a repetition.
            let failure = NewFailure::new("payment", "SHARED");
            spill(&config, failure.entity("name", spilled.to_string())).unwrap();
            spilled += 1;
        }
        let owner = Other::start(&config.dir, "own");
        std::thread::sleep(Duration::from_millis(5 + chance.below(60)));
        drop(owner);
    }
    let engine = Engine::open(config.clone()).unwrap();
    within_3_s("the files are removed", || fallback_files(&config) == 0);
    assert_eq!(names(&engine), expected(0..spilled));
    assert_eq!(engine.accounting().unwrap().captured, spilled);
    engine.close().unwrap();
}

#[test]
fn twenty_processes_spill_where_no_store_is_yet() {
    let (_dir, config) = store_dir();
    let others: Vec<Other> =
        (0..20).map(|number| Other::start(&config.dir, &format!("spill {number}"))).collect();
    others.into_iter().for_each(Other::finish);
    let engine = Engine::open(config.clone()).unwrap();
    within_3_s("the entries are home", || names(&engine) == expected(0..20));
    within_3_s("the files are removed", || fallback_files(&config) == 0);
    engine.close().unwrap();
}

/// Spills two entries, changes the file of the first, opens: the second comes home.
fn check_fallback(what: &str, change: impl FnOnce(&Path)) {
    let (_dir, mut config) = store_dir();
    config.background = Background::Manual;
    Engine::open(config.clone()).unwrap().close().unwrap();
    let first = spill(&config, named("1")).unwrap();
    spill(&config, named("2")).unwrap();
    change(&first.path);
    for _ in 0..2 {
        let engine = Engine::open(config.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(names(&engine).contains("2"), "{what}: the sound file did not come home");
        let accounting = engine.accounting().unwrap();
        assert_eq!(accounting.captured, accounting.live, "{what}");
        engine.close().unwrap();
    }
}

#[test]
fn a_damaged_fallback_file_blocks_nothing() {
    check_fallback("empty", |path| fs::write(path, b"").unwrap());
    check_fallback("foreign", |path| fs::write(path, b"not ours at all").unwrap());
    check_fallback("zeros", |path| fs::write(path, vec![0; 9000]).unwrap());
    check_fallback("a link", |path| {
        fs::remove_file(path).unwrap();
        symlink("/etc/passwd", path).unwrap();
    });
    check_fallback("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    });
    check_fallback("unreadable", |path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    });
    for offset in (0..5000).step_by(61) {
        check_fallback(&format!("flipped at {offset}"), |path| {
            let mut bytes = fs::read(path).unwrap();
            let at = offset.min(bytes.len() - 1);
            bytes[at] ^= 4;
            fs::write(path, bytes).unwrap();
        });
    }
    for len in (0..4600).step_by(97) {
        check_fallback(&format!("cut to {len}"), |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..len.min(bytes.len())]).unwrap();
        });
    }
}

#[test]
fn the_bytes_of_a_damaged_fallback_file_are_kept() {
    let (_dir, mut config) = store_dir();
    config.background = Background::Manual;
    Engine::open(config.clone()).unwrap().close().unwrap();
    let path = spill(&config, named("1")).unwrap().path;
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let engine = Engine::open(config.clone()).unwrap();
    engine.close().unwrap();
    let kept = files(&config.dir).into_values().any(|kept| kept == bytes);
    assert!(kept, "the damaged bytes are gone");
}

#[test]
fn a_fallback_file_of_another_store_is_left_alone() {
    let (_dir, mut config) = store_dir();
    config.background = Background::Manual;
    let (_other_dir, other) = store_dir();
    for config in [&config, &other] {
        Engine::open(config.clone()).unwrap().close().unwrap();
    }
    let foreign = spill(&other, named("1")).unwrap().path;
    fs::create_dir_all(config.fallback_dir()).unwrap();
    let moved = config.fallback_dir().join(foreign.file_name().unwrap());
    fs::rename(foreign, &moved).unwrap();
    let engine = Engine::open(config).unwrap();
    assert_eq!(names(&engine), expected([]));
    assert!(moved.is_file());
    engine.close().unwrap();
}

/// Payloads are for their owner alone, whatever the umask of the host.
#[test]
fn nobody_else_may_read_the_files() {
    let (dir, config) = store_dir();
    let engine = Engine::open(kill::config(&config.dir)).unwrap();
    for number in 0..300_u64 {
        engine.store(named(&number.to_string())).unwrap();
    }
    engine.checkpoint().unwrap();
    spill(&config, named("spilled")).unwrap();
    let mut folders = vec![config.dir.clone()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // The index makes its files itself; its folder keeps others out.
                if !path.parent().is_some_and(|up| up.ends_with(format::INDEX_DIR)) {
                    folders.push(path);
                }
            } else if path.is_file() {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 4);
    engine.close().unwrap();
    drop(dir);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
