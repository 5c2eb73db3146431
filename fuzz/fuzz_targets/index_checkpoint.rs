//! Any bytes in the checkpoint slots, the lock note and the files of the index: all answers are
//! those of the log.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use deadletter::format::{
    CHECKPOINT_LEN, CHECKPOINT_NAMES, Checkpoint, INDEX_DIR, LOCK_NAME, LockNote,
};
use deadletter::{IndexKind, Simulated};
use deadletter_fuzz::choice::Choice;
use deadletter_fuzz::store::{Small, agree, all, balance, open, put};
use deadletter_fuzz::{crash, forge, place};
use libfuzzer_sys::fuzz_target;

/// A store whose index is on a real disk, and the files of it.
struct OnDisk {
    small: Small,
    files: Vec<(PathBuf, Vec<u8>)>,
}

fuzz_target!(init: place::contain_sled(), |data: &[u8]| {
    let [mode, rest @ ..] = data else { return };
    match mode % 8 {
        0..=2 => raw_slots(*mode, rest),
        3..=6 => written_slots(&mut Choice::new(rest)),
        _ => index_files(&mut Choice::new(rest)),
    }
});

fn in_memory() -> &'static Small {
    static SMALL: OnceLock<Small> = OnceLock::new();
    SMALL.get_or_init(Small::new)
}

fn on_disk() -> &'static OnDisk {
    static ON_DISK: OnceLock<OnDisk> = OnceLock::new();
    ON_DISK.get_or_init(|| {
        let mut config = crash::config();
        config.dir = place::folder().keep().join("store");
        config.index = IndexKind::Sled;
        let small = Small::with(config);
        let files = place::files(&small.config.dir.join(INDEX_DIR));
        assert!(!files.is_empty(), "the index was saved");
        OnDisk { small, files }
    })
}

/// The input stands in the slots as it is, over what the writer left.
fn raw_slots(mode: u8, bytes: &[u8]) {
    let small = in_memory();
    let disk = small.copy();
    let (one, other) = bytes.split_at(bytes.len() / 2);
    for (name, bytes) in CHECKPOINT_NAMES.iter().zip([one, other]) {
        let path = small.config.dir.join(name);
        let mut slot = disk.read_raw(&path).unwrap_or_default();
        slot.resize(CHECKPOINT_LEN, 0);
        slot.iter_mut().zip(bytes).for_each(|(byte, new)| *byte = *new);
        if mode % 8 != 0 {
            forge::repair_checkpoint(&mut slot);
        }
        put(&disk, &path, &slot);
    }
    check(small, &disk);
}

/// Sound slots that say anything.
fn written_slots(choice: &mut Choice<'_>) {
    let small = in_memory();
    let disk = small.copy();
    let path = |name: &str| small.config.dir.join(name);
    for name in CHECKPOINT_NAMES {
        let written = disk.read_raw(path(name)).ok();
        let written = written.and_then(|bytes| Checkpoint::decode(&bytes).ok());
        let mut slot = written.unwrap_or_default();
        let number = |choice: &mut Choice<'_>, old: u64| match choice.below(6) {
            0 => old,
            1 => old.wrapping_add(1 + choice.u64() % 8),
            2 => old.wrapping_sub(1 + choice.u64() % 8),
            3 => choice.pick(&[0, 1, u64::MAX, 4096, 1 << 40]),
            _ => choice.u64(),
        };
        slot.sequence = number(choice, slot.sequence);
        slot.segment = number(choice, slot.segment);
        slot.end = number(choice, slot.end);
        slot.last_lsn = number(choice, slot.last_lsn);
        slot.entries = number(choice, slot.entries);
        slot.clean = choice.one_in(2);
        slot.counts_incomplete = choice.one_in(2);
        slot.offered = number(choice, slot.offered);
        slot.duplicates = number(choice, slot.duplicates);
        slot.refused = number(choice, slot.refused);
        slot.spilled = number(choice, slot.spilled);
        slot.index_uuid = [choice.u8() % 2; 16];
        slot.index_lsn = number(choice, slot.index_lsn);
        put(&disk, &path(name), &slot.encode());
    }
    if choice.one_in(2) {
        let note = LockNote { process_id: 7, segment: choice.u64(), end: choice.u64() };
        put(&disk, &path(LOCK_NAME), &note.encode());
    }
    check(small, &disk);
}

/// The files of the index have other bytes than it wrote.
fn index_files(choice: &mut Choice<'_>) {
    let OnDisk { small, files } = on_disk();
    let folder = small.config.dir.join(INDEX_DIR);
    let _ = fs::remove_dir_all(&folder);
    let mut files = files.clone();
    for _ in 0..1 + choice.below(4) {
        let index = choice.below(files.len());
        let bytes = &mut files[index].1;
        let at = choice.below(bytes.len().max(1));
        match choice.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.iter_mut().skip(at).take(512).for_each(|byte| *byte = 0),
            _ => {
                let new = choice.bytes(16);
                bytes.iter_mut().skip(at).zip(new).for_each(|(byte, new)| *byte ^= new);
            }
        }
    }
    for (name, bytes) in &files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    check(small, &small.copy());
}

fn check(small: &Small, disk: &Simulated) {
    let engine = open(&small.config, disk);
    let entries = all(&engine);
    assert!(entries == small.entries, "{} entries, not those of the log", entries.len());
    agree(&engine, &entries);
    balance(&engine, &entries);
    engine.close().unwrap();
    drop(engine);
    let again = open(&small.config, &disk.restarted());
    assert!(all(&again) == small.entries, "other entries after a clean close");
    again.close().unwrap();
}
