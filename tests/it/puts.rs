//! One hundred commands that each store one entry: what they leave on the disk, and what they
//! cost beside a process that only writes.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use deadletter::{Config, Engine, Filter, format, verify};

const PUTS: u64 = 100;
/// What all of them together may write, without the space reserved for the first segment.
const WRITTEN_MAX: u64 = 1 << 20;
/// The raw process of the measurement is told its file by this.
const RAW: &str = "DEADLETTER_TEST_PUTS_RAW";

fn put(store: &Path, number: u64) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deadletter"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DEADLETTER_") {
            command.env_remove(name);
        }
    }
    let request = format!(r#"{{"number": {number}, "text": "{}"}}"#, "x".repeat(900));
    command.arg("--dir").arg(store).args(["put", "--domain", "backup", "--type", "EXIT_1"]);
    command.args(["--request", &request]).args(["--entity-type", "number"]);
    command.args(["--entity-id", &number.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn segments(store: &Path) -> Vec<String> {
    let names = fs::read_dir(store.join(format::LOG_DIR)).unwrap();
    let mut names: Vec<String> =
        names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The bytes that a command's writes cost on the disk, if a `time` program is there to count
/// them: it gives blocks of 512 bytes.
fn blocks_written(command: &Command) -> Option<u64> {
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["-q", "-f", "%O"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => timed.env(name, value),
            None => timed.env_remove(name),
        };
    }
    let output = timed.stdin(Stdio::null()).stdout(Stdio::null()).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stderr).unwrap();
    Some(text.trim().lines().last()?.trim().parse::<u64>().ok()? * 512)
}

#[test]
fn one_hundred_puts_share_one_segment() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    assert!(put(&store, 0).status().unwrap().success());
    let first = segments(&store);
    assert_eq!(first.len(), 1);
    let mut written = 0;
    let mut counted = true;
    for number in 1..PUTS {
        match blocks_written(&put(&store, number)) {
            Some(bytes) => written += bytes,
            None => {
                counted = false;
                assert!(put(&store, number).status().unwrap().success());
            }
        }
    }
    assert_eq!(segments(&store), first, "a put began another segment");
    check_store(&store);
    if counted && written > 0 {
        println!("{written} bytes written by {} puts", PUTS - 1);
        assert!(written < WRITTEN_MAX, "{written} bytes written by {} puts", PUTS - 1);
    } else {
        // In memory nothing is ever written; without the program nobody counts.
        eprintln!("skipped: the bytes written cannot be counted here (/usr/bin/time, a disk)");
    }
}

/// All entries are there, after clean closes only.
fn check_store(store: &Path) {
    let report = verify(&Config::new(store), &mut |_, _| {}).unwrap();
    assert_eq!((report.damage, report.torn_tail_bytes), (Vec::new(), 0));
    assert_eq!(report.entries, PUTS);
    let engine = Engine::open(Config::new(store)).unwrap();
    assert!(engine.report().clean);
    assert_eq!(engine.count(&Filter::default()).unwrap(), PUTS);
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.offered, accounting.captured, accounting.live), (PUTS, PUTS, PUTS));
    assert!(accounting.complete);
    engine.close().unwrap();
}

/// Opens a file, writes a kilobyte, syncs it.
#[test]
#[ignore = "the raw process of the measurement, not a test"]
fn raw_process() {
    let Ok(path) = std::env::var(RAW) else { return };
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(&[7; 1024]).unwrap();
    file.sync_data().unwrap();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn time(command: &mut Command) -> Duration {
    let begin = Instant::now();
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    begin.elapsed()
}

/// A figure, not a test: the two take turns, so that both meet the same disk.
#[test]
#[ignore = "a measurement"]
fn the_time_of_a_put_beside_a_raw_process() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    assert!(put(&store, 0).status().unwrap().success());
    let (mut puts, mut raws) = (Vec::new(), Vec::new());
    for number in 1..=PUTS {
        let mut raw = Command::new(std::env::current_exe().unwrap());
        raw.args(["puts::raw_process", "--exact", "--ignored", "--nocapture"]);
        raw.env(RAW, dir.path().join("raw")).stdin(Stdio::null());
        raws.push(time(&mut raw));
        puts.push(time(&mut put(&store, number)));
    }
    let (put, raw) = (median(puts), median(raws));
    let ratio = put.as_secs_f64() / raw.as_secs_f64();
    println!("put {put:?}, raw process {raw:?}, ratio {ratio:.2}");
}
