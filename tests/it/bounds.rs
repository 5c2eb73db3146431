//! Limits of a store on disk: what survives a restart and a rotation, what costs no reading, and
//! what several threads may do to a limit. What every repository does alike is in `contract`.

use std::sync::Arc;

use deadletter::{
    Config, Durability, Engine, Env as _, Error, EvictRequest, FailedOperationRepository as _,
    Filter, IndexKind, Json, Memory, NewFailure, OpenMode, OverflowStrategy, SummaryStatus,
    write_all_at,
};

fn config(strategy: OverflowStrategy) -> Config {
    let mut config = crate::store::config();
    config.bounds.max_size_per_domain = Some(100);
    config.bounds.overflow_strategy = strategy;
    config
}

fn open(env: &Memory, config: &Config) -> Engine {
    Engine::open_with(config.clone(), Arc::new(env.clone())).unwrap()
}

fn failure(number: u64) -> NewFailure {
    NewFailure::new("payment", "PG_TIMEOUT").error(format!("E{}", number % 3), "no answer")
}

/// The ways to hand failures over.
#[derive(Debug, Clone, Copy)]
enum Way {
    Store,
    Batch,
    Submit,
    SubmitBatch,
    Queue,
    /// Another process leaves them in fallback files.
    Beside,
}

const WAYS: [Way; 6] =
    [Way::Store, Way::Batch, Way::Submit, Way::SubmitBatch, Way::Queue, Way::Beside];
const STRATEGIES: [OverflowStrategy; 3] =
    [OverflowStrategy::Reject, OverflowStrategy::DropOldest, OverflowStrategy::CompressOldest];

/// Hands two failures over and waits for them.
fn hand_over(way: Way, engine: &Engine, env: &Memory, config: &Config) -> Result<(), Error> {
    let large = Json::object(format!("{{\"x\":\"{}\"}}", "y".repeat(3000))).unwrap();
    let pair = vec![failure(0).request(large.clone()), failure(1).request(large)];
    let level = Durability::Written;
    match way {
        Way::Store => pair.into_iter().try_for_each(|one| {
            engine.store(one).map(drop).map_err(|refused| {
                assert_eq!(refused.failure.failure_type, "PG_TIMEOUT", "it is given back");
                refused.source
            })
        }),
        Way::Batch => engine.store_batch(pair, level).map(drop).map_err(|refused| {
            assert_eq!(refused.failures.len(), 2, "all are given back");
            refused.source
        }),
        Way::Submit => pair.into_iter().try_for_each(|one| {
            let receipt = engine.submit(one, level).map_err(|refused| refused.source)?;
            receipt.wait().map(drop)
        }),
        Way::SubmitBatch => {
            let receipt = engine.submit_batch(pair, level).map_err(|refused| refused.source)?;
            receipt.wait().map(drop)
        }
        Way::Queue => pair.into_iter().try_for_each(|one| {
            engine.store_with(one, Durability::Queued).map(drop).map_err(|refused| refused.source)
        }),
        Way::Beside => {
            let env: Arc<dyn deadletter::Env> = Arc::new(env.clone());
            for one in pair {
                deadletter::spill_with(config, &env, one).map_err(|refused| refused.source)?;
            }
            engine.step()
        }
    }
}

/// Everything offered is counted, and nothing is lost.
fn check_accounting(engine: &Engine, what: &str) {
    let it = engine.accounting().unwrap();
    let settled = it.captured + it.duplicates + it.refused + it.queued + it.spilled;
    assert_eq!(it.offered, settled, "{what}: {it:?}");
    assert_eq!(it.captured, it.live + it.evicted, "{what}: {it:?}");
}

#[test]
fn the_bound_of_the_directory_holds_and_makes_room_on_every_way_in() {
    for strategy in STRATEGIES {
        for way in WAYS {
            let env = Memory::new(1);
            let mut config = crate::store::config();
            config.limits.request_data_max_bytes = 16 * 1024;
            config.max_bytes = Some(1024 * 1024);
            config.bounds.overflow_strategy = strategy;
            config.bounds.overflow_evict_batch_size = 100;
            let engine = open(&env, &config);
            let what = format!("{strategy:?}, {way:?}");
            let refused = (0..300).find_map(|_| {
                let error = hand_over(way, &engine, &env, &config).err();
                assert!(engine.space().unwrap().used <= 1024 * 1024, "{what}");
                error
            });
            match (strategy, refused) {
                // Who has not got the store's lock cannot make room in it.
                (_, Some(Error::Full { what: "max_bytes", .. })) if matches!(way, Way::Beside) => {}
                (OverflowStrategy::Reject, Some(Error::Full { what: "max_bytes", .. })) => {
                    assert!(engine.space().unwrap().shortage.is_some(), "{what}");
                    let live = engine.accounting().unwrap().live;
                    assert!(live > 150, "{what}: {live} fit");
                }
                (OverflowStrategy::Reject, other) => panic!("{what}: {other:?}"),
                (_, refused) => assert!(refused.is_none(), "{what}: {refused:?}"),
            }
            engine.step().unwrap();
            assert_eq!(engine.failure().map(|error| error.to_string()), None, "{what}");
            check_accounting(&engine, &what);
        }
    }
}

#[test]
fn the_limits_of_entries_hold_and_make_room_on_every_way_in() {
    for strategy in STRATEGIES {
        for way in WAYS {
            let env = Memory::new(1);
            let config = config(strategy);
            let engine = open(&env, &config);
            let what = format!("{strategy:?}, {way:?}");
            let refused = (0..100).find_map(|_| hand_over(way, &engine, &env, &config).err());
            engine.step().unwrap();
            let active = engine.overflow().unwrap().active;
            match (strategy, way, refused) {
                // They are captured already, so they come home whatever the limit says.
                (_, Way::Beside, None) => assert_eq!(engine.accounting().unwrap().captured, 200),
                (
                    OverflowStrategy::Reject,
                    _,
                    Some(Error::TooMany { what: "max_size_per_domain", .. }),
                ) => assert_eq!(active, 100, "{what}"),
                (OverflowStrategy::Reject, _, other) => panic!("{what}: {other:?}"),
                (_, _, refused) => {
                    assert!(refused.is_none() && active <= 100, "{what}: {active}, {refused:?}");
                }
            }
            check_accounting(&engine, &what);
        }
    }
}

#[test]
fn summaries_survive_rotations_restarts_and_are_read_beside_a_writer() {
    let env = Memory::new(1);
    let config = config(OverflowStrategy::CompressOldest);
    let engine = open(&env, &config);
    let large = Json::object(format!("{{\"x\":\"{}\"}}", "y".repeat(4000))).unwrap();
    for number in 0..300 {
        engine.store(failure(number).request(large.clone())).unwrap();
    }
    let summaries = engine.summaries().unwrap();
    assert_eq!(summaries.len(), 3);
    let reader = Engine::open_read_only_with(config.clone(), Arc::new(env.clone())).unwrap();
    assert_eq!(reader.summaries().unwrap(), summaries);
    assert!(reader.change_summaries(&mut |_| Some(SummaryStatus::Stale)).is_err());
    let evicted = engine.accounting().unwrap().evicted;
    engine.close().unwrap();
    let engine = open(&env, &config);
    assert_eq!(engine.summaries().unwrap(), summaries);
    assert_eq!(engine.get_summary_totals().unwrap().total_compressed_items, evicted);
    assert_eq!(engine.evictions().evicted, 0, "counted since the store was opened");
}

/// Every segment begins with all summaries, so they may not grow with what is evicted.
#[test]
fn many_groups_take_little_space_and_lose_no_count() {
    let env = Memory::new(1);
    let config = config(OverflowStrategy::CompressOldest);
    let engine = open(&env, &config);
    for number in 0..1000 {
        let code = format!("{number}-{}", "c".repeat(100));
        engine.store(NewFailure::new("payment", "ODD").error(code, "m".repeat(300))).unwrap();
    }
    let accounting = engine.accounting().unwrap();
    assert!(accounting.evicted >= 900);
    let totals = engine.get_summary_totals().unwrap();
    assert_eq!(totals.total_compressed_items, accounting.evicted);
    assert!(totals.total_summaries < 8, "{totals:?}");
    let others = engine.find_summaries(Some("other_domain"), None, 10).unwrap();
    assert_eq!(others.len(), 1);
    engine.close().unwrap();
    assert_eq!(open(&env, &config).get_summary_totals().unwrap(), totals);
}

/// Domain and type of what is dropped are known without its record.
#[test]
fn dropping_reads_no_entry() {
    let env = Memory::new(1);
    let engine = open(&env, &crate::store::config());
    for number in 0..20 {
        engine.store(failure(number)).unwrap();
    }
    assert_eq!(engine.count(&Filter::default()).unwrap(), 20);
    let path = format!("/store/log/{}", deadletter::format::segment_name(1, 0));
    let file = env.open(path.as_ref(), OpenMode::Write).unwrap();
    write_all_at(&*file, &[0xaa; 2000], 4200).unwrap();
    let request = EvictRequest { count: 5, ..EvictRequest::default() };
    assert_eq!(engine.evict(&request).unwrap().evicted, 5);
    assert_eq!(engine.warnings(), []);
    let accounting = engine.accounting().unwrap();
    assert_eq!((accounting.evicted, accounting.lost, accounting.live), (5, 0, 15));
}

/// A process that stores one entry and ends need not load the index to know that there is room.
#[test]
fn a_store_far_from_its_limit_needs_no_index() {
    let root = tempfile::tempdir().unwrap();
    let mut config = config(OverflowStrategy::Reject);
    config.dir = root.path().join("store");
    config.index = IndexKind::Sled;
    let index = config.dir.join("index");
    for (number, loaded) in [(0..78, false), (78..100, true)] {
        for number in number {
            let engine = Engine::open(config.clone()).unwrap();
            engine.store(failure(number)).unwrap();
            engine.close().unwrap();
        }
        assert_eq!(index.exists(), loaded);
    }
    let engine = Engine::open(config).unwrap();
    assert!(matches!(engine.store(failure(100)).unwrap_err().source, Error::TooMany { .. }));
}

#[test]
fn threads_exceed_a_limit_by_no_more_than_what_is_in_flight() {
    let env = Memory::new(1);
    let engine = open(&env, &config(OverflowStrategy::DropOldest));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..200 {
                    engine.store_with(failure(number), Durability::Written).unwrap();
                    let active = engine.overflow().unwrap().active;
                    assert!(active <= 100 + 4, "{active} entries wait");
                }
            });
        }
    });
    let accounting = engine.accounting().unwrap();
    assert_eq!(accounting.captured, 800);
    assert_eq!(accounting.live, engine.count(&Filter::default()).unwrap());
    assert_eq!(accounting.live + accounting.evicted, 800);
    // Two callers at a limit do not make the same room twice.
    assert!(accounting.live >= 79 - 4, "{accounting:?}");
}

/// A callback that stores while it holds an entry does not wait for itself.
#[test]
fn a_store_within_a_decision_passes_over_what_is_being_decided() {
    let env = Memory::new(1);
    let engine = open(&env, &config(OverflowStrategy::DropOldest));
    for number in 0..100 {
        engine.store(failure(number)).unwrap();
    }
    let oldest = engine.select(&Filter::default(), crate::contract::everything());
    let oldest = oldest.unwrap()[0];
    engine
        .change_all(&[oldest], &mut |_| {
            engine.store(failure(100)).map_err(|error| error.source)?;
            Ok(deadletter::Decision::Keep)
        })
        .unwrap();
    assert!(engine.get(oldest).unwrap().is_some());
    assert_eq!(engine.overflow().unwrap().active, 80);
}
