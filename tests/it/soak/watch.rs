//! Measures while others work: the bytes that a directory takes, all the time, and what a process
//! used so far.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(5);

/// What a directory with all below it took at most.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// As the file system counts it, in blocks, with what is only reserved.
    pub blocks: u64,
    /// The lengths of the files.
    pub lengths: u64,
    /// How often it was measured.
    pub samples: u64,
    /// How often it was over its bound.
    pub over: u64,
}

impl Taken {
    /// What is wrong with that.
    pub fn wrong(&self, bytes_max: u64) -> Option<String> {
        (self.over > 0).then(|| {
            let Self { blocks, lengths, samples, over } = self;
            format!(
                "the directory took {blocks} bytes on the disk, its files had {lengths}; over \
                 {bytes_max} in {over} of {samples} samples"
            )
        })
    }
}

/// Adds up a directory. Files may come and go meanwhile.
pub fn measure(dir: &Path) -> Taken {
    let mut taken = Taken { samples: 1, ..Taken::default() };
    add(dir, &mut taken);
    taken
}

fn add(path: &Path, taken: &mut Taken) {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        other => other.unwrap(),
    };
    taken.blocks += metadata.blocks() * 512;
    if !metadata.is_dir() {
        taken.lengths += metadata.len();
        return;
    }
    match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        names => names.unwrap().filter_map(Result::ok).for_each(|name| add(&name.path(), taken)),
    }
}

/// Measures a directory until it is dropped.
pub struct Watched {
    most: Arc<Mutex<Taken>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    pub fn start(dir: &Path, bytes_max: u64) -> Self {
        let most = Arc::new(Mutex::new(Taken::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (dir, keep, stopped) = (dir.to_owned(), Arc::clone(&most), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let taken = measure(&dir);
                let mut most = keep.lock().unwrap();
                most.blocks = most.blocks.max(taken.blocks);
                most.lengths = most.lengths.max(taken.lengths);
                most.samples += 1;
                most.over += u64::from(taken.blocks.max(taken.lengths) > bytes_max);
                drop(most);
                std::thread::sleep(PAUSE);
            }
        });
        Self { most, stop, thread: Some(thread) }
    }

    /// What it took at most since this was asked last.
    pub fn take(&self) -> Taken {
        std::mem::take(&mut self.most.lock().unwrap())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()), "the watch ended early");
    }
}

/// What this process used so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub cpu_ms: u64,
    /// Bytes that it caused to be written to a device, as the system counts them: whole pages, when
    /// they become dirty.
    pub written: u64,
    /// The most memory that it had, in bytes.
    pub memory: u64,
}

impl Process {
    pub fn read() -> Self {
        let read =
            |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let number = |text: &str, label: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(label));
            let digits = line.and_then(|line| line.split_whitespace().next());
            digits.map_or(0, |digits| digits.parse().unwrap())
        };
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        // User and system time in hundredths of a second.
        let ticks = fields.iter().skip(11).take(2).map(|text| text.parse::<u64>().unwrap());
        Self {
            cpu_ms: ticks.sum::<u64>() * 10,
            written: number(&read("io"), "write_bytes:"),
            memory: number(&read("status"), "VmHWM:") * 1024,
        }
    }
}

/// The control: a directory over its bound is told.
#[test]
fn a_directory_over_its_bound_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("below")).unwrap();
    fs::write(dir.path().join("below/file"), [7; 10_000]).unwrap();
    let taken = measure(dir.path());
    assert_eq!(taken.lengths, 10_000);
    for (bytes_max, is_over) in [(1 << 20, false), (9_999, true)] {
        let watched = Watched::start(dir.path(), bytes_max);
        let mut seen = Taken::default();
        while seen.samples == 0 {
            seen = watched.take();
        }
        assert_eq!(seen.wrong(bytes_max).is_some(), is_over, "{seen:?}");
    }
}
