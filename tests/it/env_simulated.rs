//! The simulated disk loses, keeps and spoils what it should; the harness stands on this.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deadletter::{
    CrashMode, Env, Fault, FaultKind, File, Lie, OpenMode, OperationKind, Simulated, write_all_at,
};

const DIR: &str = "/data";
const A: &str = "/data/a";
const B: &str = "/data/b";

/// A disk with a durable directory.
fn disk() -> Simulated {
    let disk = Simulated::new(7);
    disk.create_dir(Path::new(DIR)).unwrap();
    disk
}

/// A disk with a durable file `a` of these bytes, and the file.
fn disk_with(bytes: &[u8]) -> (Simulated, Arc<dyn File>) {
    let disk = disk();
    let file = disk.open(Path::new(A), OpenMode::CreateNew).unwrap();
    write_all_at(&*file, bytes, 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    (disk, file)
}

/// The bytes of `a` after a power cut; `None` when the file is gone.
fn cut(disk: &Simulated, mode: CrashMode, seed: u64) -> Option<Vec<u8>> {
    disk.crash_image(mode, seed).read_raw(A).ok()
}

/// All that a mode leaves of `a`, over many seeds.
fn cuts(disk: &Simulated, mode: CrashMode) -> BTreeSet<Option<Vec<u8>>> {
    (0..300).map(|seed| cut(disk, mode, seed)).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "reads well beside `None`")]
fn some(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(bytes.to_vec())
}

fn fault_next(disk: &Simulated, kind: FaultKind) {
    disk.inject(Fault { at: disk.operations(), kind });
}

#[test]
fn unsynced_data_is_lost_or_kept() {
    let (disk, file) = disk_with(b"old");
    write_all_at(&*file, b"newer", 0).unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), some(b"old"));
    assert_eq!(cut(&disk, CrashMode::All, 1), some(b"newer"));
    file.sync().unwrap();
    for mode in CrashMode::ALL {
        assert_eq!(cuts(&disk, mode), [some(b"newer")].into(), "{mode:?}");
    }
}

#[test]
fn length_is_pending_state() {
    let (disk, file) = disk_with(b"letter");
    file.set_len(2).unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), some(b"letter"));
    assert_eq!(cut(&disk, CrashMode::LengthWithoutData, 1), some(b"le"));
}

#[test]
fn a_name_needs_a_directory_sync() {
    let disk = disk();
    let file = disk.open(Path::new(A), OpenMode::CreateNew).unwrap();
    write_all_at(&*file, b"x", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), None);
    assert_eq!(cut(&disk, CrashMode::All, 1), some(b"x"));
    assert_eq!(cuts(&disk, CrashMode::Subset), [None, some(b"x")].into());
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), some(b"x"));
}

#[test]
fn an_unsynced_unlink_may_come_back() {
    let (disk, _file) = disk_with(b"x");
    disk.unlink(Path::new(A)).unwrap();
    assert!(disk.read_raw(A).is_err());
    assert_eq!(cuts(&disk, CrashMode::Subset), [None, some(b"x")].into());
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), None);
}

#[test]
fn a_rename_is_atomic() {
    let (disk, _file) = disk_with(b"old");
    disk.write_raw(B, b"new").unwrap();
    disk.rename(Path::new(B), Path::new(A)).unwrap();
    // The freed name is used again, which must not tear the rename apart.
    disk.open(Path::new(B), OpenMode::CreateNew).unwrap();
    for mode in CrashMode::ALL {
        for seed in 0..100 {
            let image = disk.crash_image(mode, seed);
            let found = (image.read_raw(A).unwrap(), image.read_raw(B).ok());
            let before = (b"old".to_vec(), some(b"new"));
            let after = (b"new".to_vec(), None);
            let reused = (b"new".to_vec(), some(b""));
            assert!([before, after, reused].contains(&found), "{mode:?} {seed} {found:?}");
        }
    }
}

#[test]
fn a_rename_between_directories_is_atomic() {
    let (disk, _file) = disk_with(b"x");
    disk.create_dir(Path::new("/other")).unwrap();
    let to = Path::new("/other/a");
    disk.rename(Path::new(A), to).unwrap();
    for seed in 0..50 {
        let image = disk.crash_image(CrashMode::Subset, seed);
        assert_ne!(image.read_raw(A).is_ok(), image.read_raw(to).is_ok());
    }
    disk.sync_dir(Path::new("/other")).unwrap();
    let image = disk.crash_image(CrashMode::Nothing, 1);
    assert!(image.read_raw(A).is_err());
    assert_eq!(image.read_raw(to).unwrap(), b"x");
}

#[test]
fn a_failed_sync_reads_well_and_is_lost() {
    let (disk, file) = disk_with(b"old");
    write_all_at(&*file, b"new", 0).unwrap();
    fault_next(&disk, FaultKind::FailedSync);
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    assert_eq!(disk.faults_fired(), 1);
    assert_eq!(disk.read_raw(A).unwrap(), b"new");
    assert_eq!(disk.restarted().read_raw(A).unwrap(), b"new");
    file.sync().unwrap();
    assert_eq!(cut(&disk, CrashMode::All, 1), some(b"old"));
    write_all_at(&*file, b"!", 3).unwrap();
    file.sync().unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), some(b"old!"));
}

#[test]
fn a_failed_directory_sync_leaves_the_name_pending() {
    let disk = disk();
    disk.open(Path::new(A), OpenMode::CreateNew).unwrap();
    fault_next(&disk, FaultKind::FailedSync);
    disk.sync_dir(Path::new(DIR)).unwrap_err();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), None);
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), some(b""));
}

#[test]
fn eio_has_no_effect_and_passes() {
    let (disk, file) = disk_with(b"old");
    fault_next(&disk, FaultKind::Eio);
    assert_eq!(file.write_at(b"new", 0).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(disk.read_raw(A).unwrap(), b"old");
    assert_eq!(file.write_at(b"new", 0).unwrap(), 3);
}

#[test]
fn sticky_eio_stays_until_it_is_cleared() {
    let (disk, file) = disk_with(b"old");
    fault_next(&disk, FaultKind::EioSticky);
    for _ in 0..3 {
        assert!(file.write_at(b"new", 0).is_err());
        assert!(file.sync().is_err());
        assert!(disk.sync_dir(Path::new(DIR)).is_err());
    }
    assert!(disk.restarted().sync_dir(Path::new(DIR)).is_ok());
    disk.clear_faults();
    file.sync().unwrap();
}

#[test]
fn a_short_write_applies_a_prefix() {
    let (disk, file) = disk_with(b"");
    fault_next(&disk, FaultKind::ShortWrite);
    let written = file.write_at(b"letter", 0).unwrap();
    assert!((1..6).contains(&written));
    assert_eq!(disk.read_raw(A).unwrap(), b"letter"[..written]);
    fault_next(&disk, FaultKind::ShortWrite);
    write_all_at(&*file, b"letter", 0).unwrap();
    assert_eq!(disk.read_raw(A).unwrap(), b"letter");
    assert_eq!(disk.faults_fired(), 2);
}

#[test]
fn a_fault_that_does_not_suit_its_step_never_fires() {
    let (disk, file) = disk_with(b"");
    fault_next(&disk, FaultKind::ShortWrite);
    file.sync().unwrap();
    write_all_at(&*file, b"letter", 0).unwrap();
    assert_eq!(disk.faults_fired(), 0);
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let (disk, file) = disk_with(b"12345678");
    disk.set_capacity(Some(10));
    assert_eq!(disk.free_bytes(Path::new(DIR)).unwrap(), 2);
    assert_eq!(file.write_at(b"abcd", 8).unwrap(), 2);
    assert_eq!(file.write_at(b"cd", 10).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.allocate(11).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.write_at(b"xxxx", 4).unwrap(), 4);
    file.set_len(0).unwrap();
    file.allocate(7).unwrap();
    assert_eq!(disk.free_bytes(Path::new(DIR)).unwrap(), 3);
    file.set_len(0).unwrap();
    assert_eq!(disk.free_bytes(Path::new(DIR)).unwrap(), 10);
    fault_next(&disk, FaultKind::Enospc);
    assert_eq!(file.write_at(b"a", 0).unwrap_err().kind(), ErrorKind::StorageFull);
}

#[test]
fn an_unlinked_file_takes_space_until_it_is_closed() {
    let (disk, file) = disk_with(b"12345678");
    disk.set_capacity(Some(10));
    disk.unlink(Path::new(A)).unwrap();
    assert_eq!(disk.free_bytes(Path::new(DIR)).unwrap(), 2);
    drop(file);
    assert_eq!(disk.free_bytes(Path::new(DIR)).unwrap(), 10);
}

#[test]
fn a_stall_moves_the_clock() {
    let (disk, file) = disk_with(b"");
    let before = disk.monotonic_ms();
    fault_next(&disk, FaultKind::Stall(Duration::from_secs(9)));
    file.sync().unwrap();
    assert_eq!(disk.monotonic_ms(), before + 9_000);
}

#[test]
fn a_restart_keeps_what_was_read_and_what_is_pending() {
    let (disk, file) = disk_with(b"old");
    let lock = disk.try_lock(Path::new(B)).unwrap().unwrap();
    write_all_at(&*file, b"new", 0).unwrap();
    let after = disk.restarted();
    assert_eq!(after.read_raw(A).unwrap(), b"new");
    assert_eq!(cut(&after, CrashMode::Nothing, 1), some(b"old"));
    assert!(disk.is_locked(Path::new(B)).unwrap());
    assert!(!after.is_locked(Path::new(B)).unwrap());
    assert_ne!(disk.process_id(), after.process_id());
    drop(lock);
    write_all_at(&*file, b"dead", 0).unwrap();
    assert_eq!(after.read_raw(A).unwrap(), b"new");
}

#[test]
fn power_off_stops_everything_from_that_step() {
    let (disk, file) = disk_with(b"old");
    let step = disk.operations() + 1;
    disk.power_off_at(Some(step));
    write_all_at(&*file, b"new", 0).unwrap();
    let error = file.sync().unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Other, "power is off"));
    assert_eq!(disk.operations(), step);
    assert!(file.len().is_err());
    assert!(disk.list(Path::new(DIR)).is_err());
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), some(b"old"));
    assert_eq!(disk.restarted().list(Path::new(DIR)).unwrap().len(), 1);
    disk.power_off_at(None);
    file.sync().unwrap();
}

#[test]
fn each_mode_leaves_what_it_says() {
    let (disk, file) = disk_with(b"");
    let page = |byte: u8| vec![byte; 1024];
    for (index, byte) in [b'a', b'b'].into_iter().enumerate() {
        write_all_at(&*file, &page(byte), index as u64 * 1024).unwrap();
    }
    let both = [page(b'a'), page(b'b')].concat();
    let first = page(b'a');
    let second = [page(0), page(b'b')].concat();
    assert_eq!(
        cuts(&disk, CrashMode::Prefix),
        [some(b""), Some(first.clone()), Some(both.clone())].into()
    );
    assert_eq!(
        cuts(&disk, CrashMode::Subset),
        [some(b""), Some(first), Some(second), Some(both.clone())].into()
    );
    assert_eq!(cuts(&disk, CrashMode::LengthWithoutData), [Some(vec![0; 2048])].into());
    let torn = cuts(&disk, CrashMode::Torn);
    assert!(torn.iter().flatten().any(|bytes| bytes.len() % 512 != 0));
    assert!(torn.iter().flatten().any(|bytes| bytes.len() == 512));
    let junk = |bytes: &Vec<u8>| bytes.iter().any(|byte| !b"ab\0".contains(byte));
    assert!(torn.iter().flatten().any(junk));
    let sectors = cuts(&disk, CrashMode::JunkSectors);
    assert!(sectors.iter().flatten().any(junk));
    assert!(sectors.iter().flatten().any(|bytes| !junk(bytes)));
}

#[test]
fn bytes_synced_before_stay_whole_in_every_mode() {
    let (disk, file) = disk_with(b"durable");
    write_all_at(&*file, &[b'x'; 1500], 7).unwrap();
    for mode in CrashMode::ALL {
        for bytes in cuts(&disk, mode) {
            assert_eq!(&bytes.unwrap()[..7], b"durable", "{mode:?}");
        }
    }
}

#[test]
fn lie_no_file_sync_loses_data() {
    let (disk, file) = disk_with(b"old");
    disk.lie(Lie::NoFileSync);
    write_all_at(&*file, b"new", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), some(b"old"));
}

#[test]
fn lie_no_directory_sync_loses_names() {
    let disk = disk();
    disk.lie(Lie::NoDirectorySync);
    disk.open(Path::new(A), OpenMode::CreateNew).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), None);
}

#[test]
fn lie_retry_sync_hides_the_loss() {
    let (disk, file) = disk_with(b"old");
    disk.lie(Lie::RetrySync);
    write_all_at(&*file, b"new", 0).unwrap();
    fault_next(&disk, FaultKind::FailedSync);
    file.sync().unwrap();
    assert_eq!(cut(&disk, CrashMode::All, 1), some(b"old"));
}

#[test]
fn lie_late_sync_takes_effect_at_the_next_step() {
    let (disk, file) = disk_with(b"old");
    disk.lie(Lie::LateSync);
    write_all_at(&*file, b"new", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), some(b"old"));
    write_all_at(&*file, b"!", 3).unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), some(b"new"));
}

#[test]
fn damage_is_durable_at_once() {
    let (disk, file) = disk_with(b"letter");
    write_all_at(&*file, b"!", 6).unwrap();
    disk.flip(A, 0, 0x20).unwrap();
    assert_eq!(disk.read_raw(A).unwrap(), b"Letter!");
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), some(b"Letter"));
    disk.truncate_raw(A, 3).unwrap();
    assert_eq!(cut(&disk, CrashMode::Nothing, 1), some(b"Let"));
    disk.write_raw(A, b"else").unwrap();
    disk.write_raw(B, b"planted").unwrap();
    let image = disk.crash_image(CrashMode::Nothing, 1);
    assert_eq!(image.read_raw(A).unwrap(), b"else");
    assert_eq!(image.read_raw(B).unwrap(), b"planted");
    assert!(disk.flip(A, 4, 1).is_err());
}

#[test]
fn the_same_calls_leave_the_same_trace() {
    let run = |bytes: &[u8]| {
        let (disk, _file) = disk_with(bytes);
        (disk.trace_hash(), disk.trace())
    };
    assert_eq!(run(b"x"), run(b"x"));
    assert_ne!(run(b"x").0, run(b"y").0);
    let (disk, _file) = disk_with(b"x");
    let write = disk.operation(3).unwrap();
    assert_eq!(write.kind, OperationKind::Write);
    assert_eq!(write.to_string(), "step 3: write a, 1 bytes at 0");
    assert_eq!(disk.operation(disk.operations()), None);
}

#[test]
fn the_same_seed_leaves_the_same_image() {
    let (disk, file) = disk_with(b"");
    write_all_at(&*file, &[b'x'; 3000], 0).unwrap();
    for mode in CrashMode::ALL {
        assert_eq!(cut(&disk, mode, 5), cut(&disk, mode, 5), "{mode:?}");
    }
}

/// A directory may be created by a process that dies before it is durable; asking for it again
/// must make it so.
#[test]
fn creating_an_existing_directory_makes_it_durable() {
    let disk = Simulated::new(1);
    disk.power_off_at(Some(1));
    disk.create_dir(Path::new(DIR)).unwrap_err();
    let after = disk.restarted();
    assert!(after.crash_image(CrashMode::Nothing, 1).list(Path::new(DIR)).is_err());
    after.create_dir(Path::new(DIR)).unwrap();
    assert!(after.crash_image(CrashMode::Nothing, 1).list(Path::new(DIR)).is_ok());
}

/// Not a bound, a figure: run with `--ignored --nocapture`.
#[test]
#[ignore = "prints the cost of a crash image"]
fn cost_of_a_crash_image() {
    let disk = disk();
    let files: Vec<_> = (0..5)
        .map(|index| {
            let path = format!("{DIR}/{index}");
            let file = disk.open(Path::new(&path), OpenMode::CreateNew).unwrap();
            file.allocate(65_536).unwrap();
            write_all_at(&*file, &[1; 600], 0).unwrap();
            file.sync().unwrap();
            file
        })
        .collect();
    disk.sync_dir(Path::new(DIR)).unwrap();
    for index in 0..4 {
        write_all_at(&*files[4], &[2; 300], 600 + index * 300).unwrap();
        write_all_at(&*files[3], &[2; 300], 600 + index * 300).unwrap();
    }
    for mode in CrashMode::ALL {
        let start = std::time::Instant::now();
        let bytes: usize = (0..20_000)
            .map(|seed| disk.crash_image(mode, seed).list(Path::new(DIR)).unwrap().len())
            .sum();
        println!("{mode:?}: {:?} ({bytes})", start.elapsed() / 20_000);
    }
}
