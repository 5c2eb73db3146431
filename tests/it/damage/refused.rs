//! Directories that are not opened, and in which nothing is changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use deadletter::format::{
    self, Flags, Kind, RECORD_HEADER_LEN, RecordHeader, SegmentHeader, VERSION_MAJOR,
};
use deadletter::{Config, Engine, Error, NewFailure, dump, spill, verify};

use super::check::{Case, check};
use super::fixture::{self, Fixture, log_path};

/// Every way to open is refused alike, and leaves every byte as it was.
fn check_refused(dir: &Path, expected: fn(&Error) -> bool) {
    let before = fixture::files(dir);
    refuse_all(dir, expected);
    assert!(fixture::files(dir) == before, "something was changed");
}

/// Every way to open is refused alike.
fn refuse_all(dir: &Path, expected: fn(&Error) -> bool) {
    let config = fixture::config(dir);
    let errors = [
        Engine::open(config.clone()).err(),
        Engine::open_read_only(config.clone()).err(),
        verify(&config, &mut |_, _| {}).err(),
    ];
    for (way, error) in ["open", "open_read_only", "verify"].iter().zip(errors) {
        let error = error.unwrap_or_else(|| panic!("{way} was not refused"));
        assert!(expected(&error), "{way}: {error}");
    }
}

fn is_version(error: &Error) -> bool {
    matches!(error, Error::Version { .. })
}

fn is_foreign(error: &Error) -> bool {
    matches!(error, Error::NotAStore { .. })
}

#[test]
fn a_store_file_of_a_newer_version() {
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &Fixture::get().files);
    let path = dir.path().join(format::STORE_NAME);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8..10].copy_from_slice(&(VERSION_MAJOR + 1).to_le_bytes());
    fs::write(&path, bytes).unwrap();
    check_refused(dir.path(), is_version);
}

/// Both header copies with another major version and a sound checksum.
fn newer(page: &mut [u8]) {
    let header = SegmentHeader::decode(page).unwrap().0.encode();
    page.copy_from_slice(&header);
    for copy in [0, 2048] {
        let header = &mut page[copy..copy + 128];
        header[8..10].copy_from_slice(&(VERSION_MAJOR + 1).to_le_bytes());
        let crc = crc32fast::hash(&header[..124]);
        header[124..].copy_from_slice(&crc.to_le_bytes());
    }
}

#[test]
fn a_segment_of_a_newer_version() {
    let fixture = Fixture::get();
    let dir = fixture::temporary();
    let mut files = fixture.files.clone();
    newer(&mut files.get_mut(&log_path(&fixture.active())).unwrap()[..4096]);
    fixture::put_files(dir.path(), &files);
    check_refused(dir.path(), is_version);
}

/// Rewrites the header of the last change of the active segment; its place and its checksum stay
/// right.
fn altered(alter: impl Fn(&mut [u8])) -> BTreeMap<PathBuf, Vec<u8>> {
    let fixture = Fixture::get();
    let active = fixture.active();
    let mut files = fixture.files.clone();
    let bytes = files.get_mut(&log_path(&active)).unwrap();
    let salt = SegmentHeader::decode(&bytes[..4096]).unwrap().0.salt;
    let records = fixture.records_of(&active);
    let record = records.iter().rfind(|record| record.kind == "change").unwrap();
    let at = usize::try_from(record.whole.start).unwrap();
    let header = &mut bytes[at..at + RECORD_HEADER_LEN];
    alter(header);
    let place = u32::try_from(record.whole.start / 8).unwrap();
    let mut crc = crc32fast::Hasher::new_with_initial(salt ^ place);
    crc.update(&header[4..]);
    header[..4].copy_from_slice(&crc.finalize().to_le_bytes());
    files
}

fn check_record_refused(alter: impl Fn(&mut [u8])) {
    let mut files = altered(alter);
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &files);
    refuse_all(dir.path(), is_version);
    let mut after = fixture::files(dir.path());
    // Only the owner may read so far, so the note in the lock file was written.
    after.remove(Path::new(format::LOCK_NAME));
    files.remove(Path::new(format::LOCK_NAME));
    assert!(after == files, "something was changed");
}

#[test]
fn a_body_of_a_newer_version() {
    let newest = u8::try_from(format::Kind::Change.body_version()).unwrap();
    check_record_refused(|header| header[22] = newest + 1);
}

#[test]
fn a_record_of_a_kind_that_must_be_known() {
    check_record_refused(|header| header[20] = 3);
}

/// Found by the fuzz target `segment_decode`: the error came first, and again and again.
#[test]
fn a_dump_ends_at_a_record_of_a_newer_version_and_shows_what_stands_before() {
    let fixture = Fixture::get();
    let active = fixture.active();
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &altered(|header| header[20] = 3));
    let frames = dump(&dir.path().join(log_path(&active)), 0).unwrap();
    let frames: Vec<_> = frames.take(1_000).collect();
    let records = fixture.records_of(&active);
    let before = records.iter().rposition(|record| record.kind == "change").unwrap();
    assert!(before > 0);
    assert_eq!(frames.len(), before + 1);
    for (frame, record) in frames.iter().zip(&records[..before]) {
        assert_eq!(frame.as_ref().unwrap().lsn, record.lsn);
    }
    assert!(is_version(frames.last().unwrap().as_ref().unwrap_err()));
}

/// Found by the fuzz target `segment_decode`: among damaged bytes something has the checksum of a
/// header, of a kind that nobody knows. The store opens, and only what is damaged is lost.
#[test]
fn damaged_bytes_that_look_like_the_header_of_a_newer_record() {
    let fixture = Fixture::get();
    for index in 0..3 {
        let segment = fixture.segment(index);
        let salt = SegmentHeader::decode(&fixture.bytes(&segment)[..4096]).unwrap().0.salt;
        let records = fixture.records_of(&segment);
        let record = records.iter().filter(|record| record.kind == "entry").nth(1).unwrap();
        let offset = record.whole.start + 80;
        let header = RecordHeader {
            body_len: 100,
            lsn: record.lsn,
            body_crc: 7,
            kind: Kind::Other(110),
            flags: Flags::default(),
            body_version: 1,
            time_ms: 0,
            group: 1,
            ordinal: 0,
        };
        let range = offset..offset + RECORD_HEADER_LEN as u64;
        let mut case = Case::new(fixture, format!("a header in {segment}"));
        case.change(&segment, range, |bytes| bytes.copy_from_slice(&header.encode(salt, offset)));
        check(fixture, &case);
    }
}

#[test]
fn the_directory_of_another_program() {
    let dir = fixture::temporary();
    fs::write(dir.path().join("main.c"), b"int main() {}").unwrap();
    check_refused(dir.path(), is_foreign);
    let error = spill(&Config::new(dir.path()), NewFailure::new("a", "B")).unwrap_err();
    assert!(is_foreign(&error.source), "{}", error.source);
    assert_eq!(fixture::files(dir.path()).len(), 1);
}

#[test]
fn a_store_file_of_another_program() {
    let dir = fixture::temporary();
    fs::write(dir.path().join(format::STORE_NAME), b"a store of something else").unwrap();
    check_refused(dir.path(), is_foreign);
}

#[test]
fn a_symbolic_link_instead_of_the_store_file() {
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &Fixture::get().files);
    let path = dir.path().join(format::STORE_NAME);
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    check_refused(dir.path(), is_foreign);
}

#[test]
fn a_file_instead_of_the_directory() {
    let dir = fixture::temporary();
    let path = dir.path().join("file");
    fs::write(&path, b"hello").unwrap();
    assert!(Engine::open(Config::new(&path)).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"hello");
}

#[test]
fn a_directory_that_may_not_be_written() {
    let dir = fixture::temporary();
    fixture::put_files(dir.path(), &Fixture::get().files);
    for path in [dir.path().to_path_buf(), dir.path().join(format::LOG_DIR)] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o500)).unwrap();
    }
    let probe = fs::write(dir.path().join("probe"), b"");
    if probe.is_ok() {
        eprintln!("skipped: this user may write everywhere");
        return;
    }
    let before = fixture::files(dir.path());
    let error = Engine::open(fixture::config(dir.path())).err();
    assert!(matches!(error, None | Some(Error::Io { .. })), "{error:?}");
    assert!(error.is_none() || fixture::files(dir.path()) == before);
    let engine = Engine::open_read_only(fixture::config(dir.path())).unwrap();
    assert!(fixture::all(&engine) == Fixture::get().entries);
}
