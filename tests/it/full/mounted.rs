//! The same on real file systems that are really full, where this test may mount them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use deadletter::{
    Background, Cause, Config, Decision, DlqConfig, DlqService, Engine, Filter, IndexKind, Limits,
    Page, Status, verify,
};

use super::{failure, is_no_space};

/// A mounted file system, which ends with the test.
struct Mount {
    /// Goes last, when nothing is mounted below it any more.
    root: tempfile::TempDir,
}

impl Mount {
    /// Runs the commands that mount; `None` where they may not.
    fn new(commands: impl FnOnce(&Path, &Path) -> Vec<Vec<String>>) -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        let mount = Self { root };
        fs::create_dir(mount.path()).unwrap();
        for command in commands(mount.root.path(), &mount.path()) {
            let run = Command::new(&command[0]).args(&command[1..]).output();
            if !run.is_ok_and(|output| output.status.success()) {
                return None;
            }
        }
        Some(mount)
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("mount")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir.join("store"));
    config.segment_bytes = 512 * 1024;
    config.limits = Limits { request_data_max_bytes: 64 * 1024, field_max_bytes: 64 * 1024 };
    config.background = Background::Manual;
    config.index = IndexKind::Sled;
    config.bounds.overflow_strategy = deadletter::OverflowStrategy::Reject;
    config
}

/// Takes what is left, down to the last byte.
fn fill_as_neighbor(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    let _ = file.sync_all();
}

fn check_sound(config: &Config) {
    assert_eq!(verify(config, &mut |_, _| {}).unwrap().damage, []);
}

fn check_full(mount: &Mount, entry_bytes: usize) {
    let config = config(&mount.path());
    let engine = Engine::open(config.clone()).unwrap();
    engine.store(failure(0, 10)).unwrap();
    engine.step().unwrap();
    assert!(config.dir.join("BALLAST").exists());
    // A neighbor that will give its space back.
    let early = mount.path().join("early");
    fs::write(&early, vec![7; 2 << 20]).unwrap();
    let mut number = 1;
    let refused = loop {
        match engine.store(failure(number, entry_bytes)) {
            Ok(_) => number += 1,
            Err(refused) => break refused.source,
        }
    };
    assert!(is_no_space(&refused), "{refused:?}");
    let neighbor = mount.path().join("neighbor");
    fill_as_neighbor(&neighbor);

    let page = Page { limit: usize::MAX, ..Page::default() };
    let ids = engine.select(&Filter::default(), page).unwrap();
    assert_eq!(ids.len() as u64, number);
    for id in ids.iter().take(200) {
        engine.change(*id, &[], |state| state.status = Status::Resolved).unwrap();
        engine.change(*id, &[], |state| state.status = Status::Archived).unwrap();
        engine.change_all(&[*id], &mut |_| Ok(Decision::Remove(Cause::Purged))).unwrap();
    }
    let refused = engine.store(failure(number, entry_bytes)).unwrap_err().source;
    assert!(is_no_space(&refused), "{refused:?}");
    assert!(engine.failure().is_none());
    check_sound(&config);
    let number = spill_elsewhere(&engine, &config, number);

    fs::remove_file(&neighbor).unwrap();
    fs::remove_file(&early).unwrap();
    let engine = Engine::open(config.clone()).unwrap();
    assert!(engine.report().lost.is_empty());
    let left = engine.count(&Filter::default()).unwrap();
    assert_eq!(left, number - ids.len().min(200) as u64);
    engine.store(failure(5000, entry_bytes)).unwrap();
    engine.step().unwrap();
    engine.close().unwrap();
    check_sound(&config);
}

/// With its fallback folder on another disk the service captures all the same. Answers how many
/// entries were stored, those before included.
fn spill_elsewhere(engine: &Engine, config: &Config, number: u64) -> u64 {
    engine.close().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut config = config.clone();
    config.fallback_dir = Some(elsewhere.path().join("fallback"));
    let builder = DlqService::builder().config(DlqConfig::default()).engine(config);
    let service = builder.background(Background::Manual).build();
    let mut number = number;
    let result = loop {
        let result = service.store_failure(failure(number, 30_000));
        if !result.success {
            break result;
        }
        number += 1;
    };
    assert!(result.fallback_path.unwrap().starts_with(elsewhere.path()));
    assert!(result.error.unwrap().contains("the disk is full"));
    service.close().unwrap();
    number
}

#[test]
fn a_full_tmpfs() {
    let mount = Mount::new(|_, path| {
        vec![words(&format!("mount -t tmpfs -o size=8m none {}", path.display()))]
    });
    match mount {
        Some(mount) => check_full(&mount, 8000),
        None => eprintln!("skipped: a small tmpfs cannot be mounted here (it takes root)"),
    }
}

#[test]
fn a_full_ext4() {
    let mount = Mount::new(|root, path| {
        let image = root.join("image").display().to_string();
        vec![
            words(&format!("truncate -s 64M {image}")),
            words(&format!("mkfs.ext4 -q {image}")),
            words(&format!("mount -o loop {image} {}", path.display())),
        ]
    });
    match mount {
        Some(mount) => check_full(&mount, 60_000),
        None => eprintln!("skipped: an ext4 cannot be loop-mounted here (it takes root)"),
    }
}
