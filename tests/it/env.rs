//! The real disk and the one in memory: what both promise, and what only the real one can refuse.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use deadletter::{Disk, Env, Memory, NameKind, OpenMode, read_exact_at, write_all_at};
use rustix::fs::Mode;

/// Runs a check on the real disk and in memory.
fn check(check: impl Fn(&dyn Env, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    check(&Disk::new(), dir.path());
    let memory = Memory::new(1);
    memory.create_dir(Path::new("/data")).unwrap();
    check(&memory, Path::new("/data"));
}

#[test]
fn reads_back_what_was_written() {
    check(|env, dir| {
        let file = env.open(&dir.join("a"), OpenMode::CreateNew).unwrap();
        write_all_at(&*file, b"letter", 10).unwrap();
        file.sync().unwrap();
        env.sync_dir(dir).unwrap();
        let mut bytes = [1; 16];
        let again = env.open(&dir.join("a"), OpenMode::Read).unwrap();
        read_exact_at(&*again, &mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"\0\0\0\0\0\0\0\0\0\0letter");
        assert_eq!(again.read_at(&mut bytes, 16).unwrap(), 0);
        assert!(again.write_at(b"x", 0).is_err());
        assert!(!again.is_empty().unwrap());
    });
}

#[test]
fn create_new_refuses_a_name_that_exists() {
    check(|env, dir| {
        env.open(&dir.join("a"), OpenMode::CreateNew).unwrap();
        let error = env.open(&dir.join("a"), OpenMode::CreateNew).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
        let error = env.open(&dir.join("b"), OpenMode::Write).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    });
}

#[test]
fn directories_are_made_listed_and_removed() {
    check(|env, dir| {
        let deep = dir.join("store/segments");
        env.create_dir(&deep).unwrap();
        env.create_dir(&deep).unwrap();
        let file = env.open(&deep.join("b"), OpenMode::CreateNew).unwrap();
        file.set_len(5).unwrap();
        env.create_dir(&deep.join("a")).unwrap();
        let names = env.list(&deep).unwrap();
        assert_eq!(names, [("a".into(), NameKind::Directory), ("b".into(), NameKind::File(5))]);
        env.remove_dir_all(&dir.join("store")).unwrap();
        env.remove_dir_all(&dir.join("store")).unwrap();
        assert_eq!(env.list(dir).unwrap(), []);
        assert_eq!(env.list(&deep).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    });
}

#[test]
fn rename_replaces_and_an_open_file_survives_its_name() {
    check(|env, dir| {
        let old = env.open(&dir.join("old"), OpenMode::CreateNew).unwrap();
        write_all_at(&*old, b"old", 0).unwrap();
        let new = env.open(&dir.join("new"), OpenMode::CreateNew).unwrap();
        write_all_at(&*new, b"new", 0).unwrap();
        env.rename(&dir.join("new"), &dir.join("old")).unwrap();
        assert_eq!(env.list(dir).unwrap(), [("old".into(), NameKind::File(3))]);
        env.unlink(&dir.join("old")).unwrap();
        let mut bytes = [0; 3];
        read_exact_at(&*old, &mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"old");
        read_exact_at(&*new, &mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"new");
    });
}

#[test]
fn lock_excludes_a_second_handle_until_it_is_dropped() {
    check(|env, dir| {
        let path = dir.join("lock");
        assert!(!env.is_locked(&path).unwrap());
        let lock = env.try_lock(&path).unwrap().unwrap();
        lock.publish(b"pid 7").unwrap();
        assert!(lock.publish(&[0; 513]).is_err());
        assert!(env.is_locked(&path).unwrap());
        assert!(env.try_lock(&path).unwrap().is_none());
        let mut note = [0; 5];
        read_exact_at(&*env.open(&path, OpenMode::Read).unwrap(), &mut note, 0).unwrap();
        assert_eq!(&note, b"pid 7");
        drop(lock);
        assert!(!env.is_locked(&path).unwrap());
        assert!(env.try_lock(&path).unwrap().is_some());
    });
}

#[test]
fn a_reservation_leaves_the_length_alone() {
    check(|env, dir| {
        let file = env.open(&dir.join("a"), OpenMode::CreateNew).unwrap();
        match file.allocate(65_536) {
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => return,
            answer => answer.unwrap(),
        }
        file.allocate(10).unwrap();
        assert_eq!(file.len().unwrap(), 0);
    });
}

#[test]
fn next_data_finds_data_and_the_end() {
    check(|env, dir| {
        let file = env.open(&dir.join("a"), OpenMode::CreateNew).unwrap();
        file.set_len(1 << 20).unwrap();
        write_all_at(&*file, b"x", 500_000).unwrap();
        assert!(file.next_data(0).unwrap().is_some_and(|at| at <= 500_000));
        assert_eq!(file.next_data(500_000).unwrap(), Some(500_000));
    });
}

#[test]
fn clocks_randomness_and_space_answer() {
    check(|env, dir| {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        env.fill_random(&mut a).unwrap();
        env.fill_random(&mut b).unwrap();
        assert_ne!(a, b);
        assert!(env.wall_ms() > 1_600_000_000_000);
        assert!(env.free_bytes(dir).unwrap() > 0);
        let before = env.monotonic_ms();
        env.sleep(Duration::from_millis(2));
        assert!(env.monotonic_ms() > before);
        assert!(env.process_id() > 0);
    });
}

#[test]
fn memory_clock_moves_only_when_told() {
    let memory = Memory::new(1);
    let (wall, monotonic) = (memory.wall_ms(), memory.monotonic_ms());
    memory.clone().advance(Duration::from_secs(3));
    assert_eq!((memory.wall_ms(), memory.monotonic_ms()), (wall + 3_000, monotonic + 3_000));
    memory.set_wall_ms(5);
    assert_eq!((memory.wall_ms(), memory.monotonic_ms()), (5, monotonic + 3_000));
}

#[test]
fn memory_randomness_follows_the_seed() {
    let bytes = |seed| {
        let mut bytes = [0; 13];
        Memory::new(seed).fill_random(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

#[test]
fn memory_needs_the_directory() {
    let memory = Memory::default();
    let error = memory.open(Path::new("/data/a"), OpenMode::CreateNew).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn disk_refuses_links_and_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("target"), b"precious").unwrap();
    symlink(path("target"), path("link")).unwrap();
    symlink(path("nowhere"), path("dangling")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("pipe"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for name in ["link", "dangling", "pipe", "."] {
        for mode in [OpenMode::Read, OpenMode::Write, OpenMode::CreateNew] {
            assert!(Disk.open(&path(name), mode).is_err(), "{name} as {mode:?}");
        }
        assert!(Disk.try_lock(&path(name)).is_err(), "{name} as a lock");
    }
    assert!(!path("nowhere").exists());
    let kinds: Vec<_> = Disk.list(dir.path()).unwrap();
    let kind = |name: &str| kinds.iter().find(|entry| entry.0 == name).unwrap().1;
    assert_eq!(kind("link"), NameKind::Other);
    assert_eq!(kind("pipe"), NameKind::Other);
    assert_eq!(kind("target"), NameKind::File(8));
}

/// The umask belongs to the whole process, so only one that takes nothing from other tests is set.
#[test]
fn disk_modes_are_narrow_under_a_wide_umask() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let old = rustix::process::umask(Mode::empty());
    let file = Disk.open(&path("file"), OpenMode::CreateNew);
    let lock = Disk.try_lock(&path("lock"));
    let created = Disk.create_dir(&path("above/below"));
    rustix::process::umask(old);
    file.unwrap();
    lock.unwrap().unwrap();
    created.unwrap();
    let mode = |name| fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("file"), mode("lock")), (0o600, 0o600));
    assert_eq!((mode("above"), mode("above/below")), (0o700, 0o700));
}

/// A file left with another mode, such as by a narrow umask or a careless copy, is set right.
#[test]
fn disk_lock_sets_the_mode_of_an_existing_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    fs::write(&path, b"").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    Disk.try_lock(&path).unwrap().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn disk_maps_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for bytes in [&b"sealed"[..], b""] {
        let path = dir.path().join(format!("{}", bytes.len()));
        let file = Disk.open(&path, OpenMode::CreateNew).unwrap();
        write_all_at(&*file, bytes, 0).unwrap();
        let map = Disk.open(&path, OpenMode::Read).unwrap().map().unwrap().unwrap();
        assert_eq!(&*map, bytes);
    }
}
