//! What a device does beside being full: a quota, a thin pool that is used up, a mount that turns
//! read-only, a write that fails.

use std::collections::BTreeSet;

use deadletter::{
    CrashMode, Engine, EntryId, Error, Fault, FaultKind, OperationKind, Simulated, StoreError,
};

use super::{config, failure, keys, open, store_until_refused};

/// The step at which the second segment gets its space.
fn step_of_next_segment() -> u64 {
    let twin = Simulated::new(1);
    assert!(store_until_refused(&open(&twin, config())).is_none());
    let trace = twin.trace();
    let mut created = trace
        .iter()
        .filter(|step| step.kind == OperationKind::Allocate && step.name.ends_with(".next"));
    created.nth(1).unwrap().step
}

/// A quota is as little a reason to latch the log as a full disk.
#[test]
fn a_quota_is_a_shortage_that_ends_by_itself() {
    for kind in [FaultKind::Edquot, FaultKind::Enospc] {
        let disk = Simulated::new(1);
        disk.inject(Fault { at: step_of_next_segment(), kind });
        let engine = open(&disk, config());
        let (stored, refused) = store_until_refused(&engine).unwrap();
        let what = if kind == FaultKind::Edquot { "quota" } else { "disk" };
        assert!(matches!(refused, Error::Full { what: found, .. } if found == what), "{refused:?}");
        assert!(refused.to_string().contains(what), "{refused}");
        assert!(engine.failure().is_none(), "nothing is latched");
        assert_eq!(engine.space().unwrap().shortage.is_some(), kind == FaultKind::Edquot);
        engine.change(EntryId(1), &[], |state| state.resolution_note = "n".to_owned()).unwrap();
        engine.store(failure(stored, 4000)).unwrap();
        assert!(engine.space().unwrap().shortage.is_none());
        assert_eq!(keys(&engine).len() as u64, stored + 1);
        let reopened = open(&disk.crash_image(CrashMode::Nothing, 1), config());
        assert_eq!(keys(&reopened).len() as u64, stored + 1);
    }
}

/// Stores a few entries, then one while this fails.
fn store_into(kind: FaultKind, engine: &Engine, disk: &Simulated) -> (u64, StoreError) {
    (0..5).for_each(|number| drop(engine.store(failure(number, 100)).unwrap()));
    for at in disk.operations()..disk.operations() + 3 {
        disk.inject(Fault { at, kind });
    }
    let refused = engine.store(failure(5, 100)).unwrap_err();
    assert!(disk.faults_fired() > 0);
    (5, refused)
}

/// A thin pool takes writes and says at the sync that it has no space for them; a disk fails; the
/// kernel lets nobody write any more. Whatever it is, the entry is given back, the log takes nothing
/// more until it is opened again, what is there can be read, and nothing acknowledged is lost.
#[test]
fn a_device_that_fails_latches_the_log_and_loses_nothing_acknowledged() {
    let kinds = [
        FaultKind::EnospcSync,
        FaultKind::FailedSync,
        FaultKind::Eio,
        FaultKind::EioSticky,
        FaultKind::Erofs,
    ];
    for kind in kinds {
        let disk = Simulated::new(1);
        let engine = open(&disk, config());
        let (stored, refused) = store_into(kind, &engine, &disk);
        assert_eq!(refused.failure.key.as_deref(), Some("key-5"), "{kind:?}");
        let unknown = matches!(refused.source, Error::Indeterminate { .. });
        assert!(unknown, "{kind:?}: {:?}", refused.source);
        assert!(engine.failure().is_some(), "{kind:?}");
        let second = engine.store(failure(6, 100)).unwrap_err();
        assert!(matches!(second.source, Error::Poisoned { .. }), "{kind:?}: {second:?}");
        assert_eq!(keys(&engine).len() as u64, stored, "{kind:?}: what is there can be read");
        drop(engine);
        for mode in CrashMode::ALL {
            check_opened(&disk.crash_image(mode, 3), stored, &format!("{kind:?}, {mode:?}"));
        }
        check_opened(&disk.restarted(), stored, &format!("{kind:?}, restart"));
    }
}

/// All that was acknowledged is there, and the entry that was given back can be stored once.
fn check_opened(disk: &Simulated, stored: u64, what: &str) {
    let engine = open(disk, config());
    engine.store(failure(5, 100)).unwrap();
    let wanted: BTreeSet<String> = (0..=stored).map(|number| format!("key-{number}")).collect();
    assert_eq!(keys(&engine), wanted, "{what}");
    assert_eq!(engine.report().lost, [], "{what}");
}

/// On a mount that lets nobody write a store still opens for reading, says why it does not open for
/// writing, and is whole when the mount is.
#[test]
fn a_read_only_mount_is_named_and_nothing_is_lost() {
    let disk = Simulated::new(1);
    let engine = open(&disk, config());
    (0..5).for_each(|number| drop(engine.store(failure(number, 100)).unwrap()));
    drop(engine);
    let mounted = disk.restarted();
    mounted.inject(Fault { at: 1, kind: FaultKind::Erofs });
    let env = std::sync::Arc::new(mounted.clone());
    let opened = Engine::open_with(config(), env.clone()).and_then(|engine| {
        engine.store(failure(5, 100)).map_err(|refused| refused.source)?;
        Ok(engine)
    });
    let error = opened.unwrap_err();
    let chain = [error.to_string(), format!("{error:?}")].concat();
    assert!(chain.contains("ReadOnlyFilesystem") || chain.contains("Read-only"), "{chain}");
    let reader = Engine::open_read_only_with(config(), env).unwrap();
    assert_eq!(keys(&reader).len(), 5);
    drop(reader);
    check_opened(&mounted.restarted(), 5, "mounted anew");
}
