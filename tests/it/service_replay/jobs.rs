//! Several jobs at once, and entries that must run alone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use deadletter::{EarlyStop, EntryId, Outcome, ReplayAttempt, Skip, Status};

use super::{Ran, World, each, each_with, options};

/// Counts who runs at the same time.
#[derive(Clone, Default)]
struct Crowd {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Crowd {
    /// Runs something among the others; it is told how many there are, itself included.
    fn among<T>(&self, work: impl FnOnce(usize) -> T) -> T {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        let answer = work(running);
        self.running.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

#[test]
fn jobs_run_side_by_side_and_each_entry_once() {
    each(|world| {
        let ids = world.entries("mail", 8 * 25);
        let crowd = Crowd::default();
        let (seen, barrier) = (crowd.clone(), Barrier::new(8));
        // Nobody passes before all eight jobs are there, so fewer would hang and more would show.
        let ran = world.handle(move |_| {
            seen.among(|_| barrier.wait());
            Outcome::success()
        });
        let eight = options(|options| {
            options.jobs = Some(8);
            options.batch_size = Some(200);
        });
        let stats = world.service.replay_with(&eight).unwrap();
        assert_eq!((stats.success, stats.errors.len()), (200, 0));
        assert_eq!(crowd.most.load(Ordering::SeqCst), 8);
        let mut ran = ran.ids();
        ran.sort_unstable();
        assert_eq!(ran, ids);
        world.check_settled();
    });
}

/// Those who wait for a handler that takes longer than a lease, and says that it is alive, wait
/// with theirs.
#[test]
fn a_heartbeat_keeps_the_leases_of_those_who_wait() {
    each(|world| {
        let ids = world.entries("mail", 3);
        let clock = world.clock.clone();
        let ran = world.handle(move |attempt| {
            for _ in 0..7 {
                clock.advance(Duration::from_mins(10));
                assert!(attempt.heartbeat());
            }
            Outcome::success()
        });
        let one = options(|options| options.jobs = Some(1));
        let stats = world.service.replay_with(&one).unwrap();
        assert_eq!((stats.success, stats.skipped), (3, 0), "{stats:?}");
        assert_eq!(ran.ids(), ids);
        world.check_settled();
    });
}

#[test]
fn two_replays_at_once_share_the_entries() {
    each_with(
        |config| config.replay_jobs = 4,
        |world| {
            let ids = world.entries("mail", 300);
            let ran = world.handle(|attempt| {
                let fails = attempt.entry().operation.id.0.is_multiple_of(7);
                if fails { Outcome::failure("seven") } else { Outcome::success() }
            });
            let processed = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        let stats = world.service.replay(None, Some(300)).unwrap();
                        let attempts = usize::try_from(stats.success + stats.failed).unwrap();
                        processed.fetch_add(attempts, Ordering::SeqCst);
                    });
                }
            });
            assert_eq!(processed.load(Ordering::SeqCst), ids.len());
            assert_eq!(ran.ids().into_iter().collect::<BTreeSet<_>>().len(), ids.len());
            assert_eq!(ran.count(), ids.len(), "nobody ran twice");
            world.check_settled();
        },
    );
}

#[test]
fn panics_among_many_jobs_are_contained() {
    each_with(
        |config| config.replay_jobs = 8,
        |world| {
            world.entries("mail", 100);
            world.handle(|attempt| {
                assert!(!attempt.entry().operation.id.0.is_multiple_of(10), "tenth");
                Outcome::success()
            });
            let stats = world.service.replay(None, Some(100)).unwrap();
            assert_eq!((stats.success, stats.failed), (90, 10));
            world.check_settled();
        },
    );
}

fn check_alone(world: &World, suspects: &[EntryId]) -> Ran {
    let (crowd, alone) = (Crowd::default(), suspects.to_vec());
    world.handle(move |attempt| {
        crowd.among(|running| {
            assert!(running == 1 || !alone.contains(&attempt.entry().operation.id));
            Outcome::success()
        })
    })
}

#[test]
fn suspects_run_first_and_alone() {
    each_with(
        |config| config.replay_jobs = 8,
        |world| {
            let mut suspects = Vec::new();
            for _ in 0..3 {
                world.entries("mail", 10);
                suspects.push(world.suspect("mail"));
            }
            let ran = check_alone(world, &suspects);
            let stats = world.service.replay(None, Some(100)).unwrap();
            assert_eq!((stats.success, stats.failed), (33, 0), "{:?}", stats.errors);
            assert_eq!(ran.ids()[..3], suspects);
        },
    );
}

#[test]
fn a_suspect_waits_while_another_replay_runs() {
    each(|world| {
        world.entry("mail");
        let service = world.service.clone();
        let inner = Arc::new(Mutex::new(Vec::new()));
        let results = Arc::clone(&inner);
        world.register(
            "mail",
            nested(move || {
                results.lock().unwrap().push(service.replay(Some("stock"), None).unwrap());
            }),
        );
        world.entry("stock");
        let suspect = world.suspect("stock");
        world.succeed();
        assert_eq!(world.service.replay(Some("mail"), None).unwrap().success, 1);
        let stats = inner.lock().unwrap().pop().unwrap();
        assert_eq!((stats.success, stats.skip_reasons[&Skip::RunsAlone]), (1, 1));
        assert_eq!(world.status(suspect), Status::Pending);
        assert_eq!(world.service.replay(Some("stock"), None).unwrap().success, 1);
    });
}

#[test]
fn nothing_starts_while_a_suspect_runs() {
    each(|world| {
        let stock = world.entry("stock");
        world.suspect("mail");
        let service = world.service.clone();
        let inner = Arc::new(Mutex::new(Vec::new()));
        let results = Arc::clone(&inner);
        world.register(
            "mail",
            nested(move || {
                results.lock().unwrap().push(service.replay(Some("stock"), None).unwrap());
            }),
        );
        world.succeed();
        assert_eq!(world.service.replay(Some("mail"), None).unwrap().success, 1);
        let stats = inner.lock().unwrap().pop().unwrap();
        assert_eq!(stats.early_stop_reason, Some(EarlyStop::RunsAlone));
        assert_eq!(stats.processed, 0);
        assert_eq!(world.status(stock), Status::Pending);
        assert_eq!(world.service.replay(Some("stock"), None).unwrap().success, 1);
    });
}

/// A handler that does something else first.
fn nested(work: impl Fn() + Send + Sync + 'static) -> impl deadletter::ReplayHandler {
    let replay = move |_: &ReplayAttempt<'_>| {
        work();
        Outcome::success()
    };
    super::Run(replay, Ran::default())
}
