//! The library's settings from environment variables, without an environment.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use deadletter::{Config, DlqConfig, Priority};

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

#[test]
fn both_tables_are_read() {
    let variables = variables(&[
        ("DEADLETTER_DIR", "/var/lib/orders"),
        ("DEADLETTER_SEGMENT_BYTES", "4 MiB"),
        ("DEADLETTER_MAX_REPLAY_ATTEMPTS", "5"),
        ("DEADLETTER_OUTBOX_FLUSH_INTERVAL_SECONDS", "0.25"),
        ("DEADLETTER_REPLAY_DOMAIN_PRIORITIES", "payment=critical,mail=low"),
        ("DEADLETTER_ENABLED", ""),
        ("DEADLETTER_NO_SUCH", "only a warning"),
        ("HOME", "/home/a"),
    ]);
    let engine = Config::from_variables(variables.clone()).unwrap();
    assert_eq!(engine.dir, Path::new("/var/lib/orders"));
    assert_eq!((engine.segment_bytes, engine.max_retries), (4 << 20, 5));
    let service = DlqConfig::from_variables(variables).unwrap();
    assert_eq!((service.max_replay_attempts, service.outbox_flush_interval_ms), (5, 250));
    assert_eq!(service.replay_domain_priorities["payment"], Priority::Critical);
    assert!(service.enabled, "an empty variable is none");
}

#[test]
fn a_bad_value_names_its_variable_and_its_bounds() {
    for (name, value, bound) in [
        ("DEADLETTER_EXPIRY_HOURS", "721", "1 to 720"),
        ("DEADLETTER_REPLAY_ADAPTIVE_MIN_ITEMS", "101", "1 to 100"),
        ("DEADLETTER_SLA_THRESHOLDS_BY_DOMAIN", "payment=x", "1 to 720"),
    ] {
        let error = DlqConfig::from_variables(variables(&[(name, value)])).unwrap_err().to_string();
        for part in [name, value, bound] {
            assert!(error.contains(part), "{error}");
        }
    }
    let fitting = [("DEADLETTER_REPLAY_ADAPTIVE_MIN_ITEMS", "50")];
    let both = [fitting[0], ("DEADLETTER_REPLAY_ADAPTIVE_MAX_ITEMS", "20")];
    DlqConfig::from_variables(variables(&fitting)).unwrap();
    DlqConfig::from_variables(variables(&both)).unwrap_err();
    let odd = (OsString::from("DEADLETTER_BATCH_SIZE"), OsString::from_vec(vec![0xff]));
    let error = DlqConfig::from_variables([odd]).unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");
}

#[test]
fn the_directory_is_named_or_the_users() {
    for (pairs, wanted) in [
        (&[("DEADLETTER_DIR", "/a"), ("HOME", "/h")][..], Some("/a")),
        (&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")], Some("/s/deadletter")),
        (&[("XDG_STATE_HOME", "s"), ("HOME", "/h")], Some("/h/.local/state/deadletter")),
        (&[("DEADLETTER_DIR", ""), ("HOME", "/h")], Some("/h/.local/state/deadletter")),
        (&[("HOME", "")], None),
        (&[], None),
    ] {
        let config = Config::from_variables(variables(pairs));
        match wanted {
            Some(dir) => assert_eq!(config.unwrap().dir, Path::new(dir)),
            None => {
                let error = config.unwrap_err().to_string();
                assert!(error.contains("DEADLETTER_DIR"), "{error}");
            }
        }
    }
}
