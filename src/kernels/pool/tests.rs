use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::Pool;
use crate::kernels::stop::{Stop, StopPlace};
use crate::panics;

fn counted(pool: &Pool, n_pieces: usize) {
    let counts: Vec<_> = (0..n_pieces).map(|_| AtomicUsize::new(0)).collect();
    pool.run(n_pieces, &|index| {
        counts[index].fetch_add(1, Ordering::Relaxed);
    });
    let once = |count: &AtomicUsize| count.load(Ordering::Relaxed) == 1;
    assert!(counts.iter().all(once), "{n_pieces} pieces");
}

/// Lets the workers fall asleep.
fn pause() {
    thread::sleep(Duration::from_millis(2));
}

#[test]
fn every_piece_runs_once_whatever_the_number_of_threads() {
    for n_threads in [0, 1, 2, 5] {
        let pool = Pool::new(n_threads);
        assert_eq!(pool.n_threads(), n_threads.max(1));
        for n_pieces in [0, 1, 2, 100, 1000] {
            counted(&pool, n_pieces);
        }
    }
}

#[test]
fn sleeping_workers_are_woken_for_their_share() {
    let pool = Pool::new(3);
    for _ in 0..5 {
        pause();
        let together = Barrier::new(3);
        // Ends only if three threads are in it.
        pool.run(3, &|_| {
            together.wait();
        });
    }
}

#[test]
fn many_small_jobs_back_to_back_run_every_piece_once() {
    let pool = Pool::new(3);
    for job in 0..20_000 {
        let sum = AtomicUsize::new(0);
        let n_pieces = 2 + job % 7;
        pool.run(n_pieces, &|index| {
            sum.fetch_add(index + 1, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), n_pieces * (n_pieces + 1) / 2);
    }
}

#[test]
fn what_pieces_write_is_seen_by_the_caller_and_by_the_next_job() {
    let pool = Pool::new(4);
    let cells: Vec<_> = (0..9).map(|_| AtomicUsize::new(0)).collect();
    for round in 0..5_000 {
        pool.run(cells.len(), &|index| {
            let neighbour = &cells[(index + round) % cells.len()];
            let before = neighbour.load(Ordering::Relaxed);
            assert_eq!(before, round);
            neighbour.store(before + 1, Ordering::Relaxed);
        });
        let written = |cell: &AtomicUsize| cell.load(Ordering::Relaxed) == round + 1;
        assert!(cells.iter().all(written));
    }
}

#[test]
fn callers_at_the_same_time_all_finish() {
    let pool = Pool::new(3);
    let total = AtomicUsize::new(0);
    thread::scope(|scope| {
        for caller in 0..4 {
            let (pool, total) = (&pool, &total);
            scope.spawn(move || {
                for job in 0..2_000 {
                    pool.run(7, &|_| {
                        total.fetch_add(1, Ordering::Relaxed);
                    });
                    if job % 500 == 100 * caller {
                        pause();
                    }
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 4 * 2_000 * 7);
}

#[test]
fn a_job_inside_of_a_piece_runs_too() {
    let pool = Pool::new(3);
    let total = AtomicUsize::new(0);
    pool.run(5, &|_| {
        pool.run(5, &|_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(total.into_inner(), 25);
}

#[test]
fn a_panic_in_a_piece_reaches_the_caller_and_the_workers_go_on_helping() {
    let pool = Pool::new(2);
    for culprit in 0..50 {
        let outcome = panics::catch(|| {
            pool.run(50, &|index| assert_ne!(index, culprit, "on purpose"));
        });
        let said = outcome.expect_err("a panic");
        assert!(said.contains("on purpose"), "{said}");
        let together = Barrier::new(2);
        pool.run(2, &|_| {
            together.wait();
        });
    }
}

#[test]
fn after_a_panic_on_all_threads_no_piece_is_running() {
    let pool = Pool::new(4);
    let running = AtomicUsize::new(0);
    for _ in 0..200 {
        let outcome = panics::catch(|| {
            pool.run(40, &|index| {
                running.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
                running.fetch_sub(1, Ordering::Relaxed);
                assert!(index % 3 > 0, "on purpose");
            });
        });
        assert!(outcome.is_err());
        assert_eq!(running.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_caller_waits_for_a_piece_that_takes_long_on_a_worker() {
    let pool = Pool::new(2);
    let done = AtomicBool::new(false);
    let caller = thread::current().id();
    let began = AtomicBool::new(false);
    pool.run(2, &|_| {
        if thread::current().id() == caller {
            while !began.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            return;
        }
        began.store(true, Ordering::Relaxed);
        pause();
        done.store(true, Ordering::Relaxed);
    });
    assert!(done.into_inner());
}

#[test]
fn pools_end_at_any_time_after_a_job() {
    for n in 0..300 {
        let pool = Pool::new(1 + n % 4);
        if n % 3 > 0 {
            counted(&pool, n % 9);
        }
        if n % 50 == 0 {
            pause();
        }
        drop(pool);
    }
}

#[test]
fn users_may_leave_a_shared_pool_while_others_run() {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n_pieces in 0..200 {
                    counted(&Pool::shared(3), n_pieces % 10);
                }
            });
        }
    });
}

#[test]
fn ranges_cover_everything_once() {
    let pool = Pool::new(2);
    for (length, per_piece) in [(0, 4), (1, 4), (4, 4), (5, 4), (103, 7), (3, 1000)] {
        let seen = Mutex::new(Vec::new());
        pool.run_ranges(length, per_piece, &|range| {
            assert!(!range.is_empty() && range.len() <= per_piece);
            seen.lock().expect("no panic").extend(range);
        });
        let mut seen = seen.into_inner().expect("no panic");
        seen.sort_unstable();
        assert_eq!(seen, (0..length).collect::<Vec<_>>());
    }
}

#[test]
fn users_with_the_same_number_of_threads_share_a_pool_that_ends_with_the_last() {
    let n_threads = 7;
    let first = Pool::shared(n_threads);
    let second = Pool::shared(n_threads);
    assert!(Arc::ptr_eq(&first.threads, &second.threads));
    let others = Pool::shared(n_threads + 1);
    assert!(!Arc::ptr_eq(&first.threads, &others.threads));
    drop(first);
    let weak = Arc::downgrade(&second.threads);
    drop(second);
    assert!(weak.upgrade().is_none());
}

#[test]
fn the_default_is_the_number_for_this_machine() {
    assert_eq!(
        Pool::shared(0).n_threads(),
        super::default_threads().min(Pool::MAX_THREADS)
    );
}

#[test]
fn jobs_are_shared_by_several_threads() {
    let pool = Pool::new(2);
    let deadline = Instant::now() + Duration::from_secs(20);
    let threads = Mutex::new(HashSet::new());
    while threads.lock().expect("no panic").len() < 2 {
        assert!(Instant::now() < deadline, "the worker never helps");
        pool.run(64, &|_| {
            threads
                .lock()
                .expect("no panic")
                .insert(thread::current().id());
            thread::sleep(Duration::from_micros(50));
        });
    }
}

#[test]
fn pieces_that_have_not_begun_are_left_out_once_the_job_is_stopped() {
    let flag = Arc::new(AtomicBool::new(false));
    let place = StopPlace::default();
    for n_threads in [1, 3] {
        let pool = Pool::new(n_threads).stopped_by(place.clone());
        place.set(Some(Arc::new(Stop::new(flag.clone(), None))));
        let n_run = AtomicUsize::new(0);
        pool.run(1000, &|_| {
            n_run.fetch_add(1, Ordering::Relaxed);
            flag.store(true, Ordering::Relaxed);
        });
        assert!((1..=n_threads).contains(&n_run.into_inner()));
        flag.store(false, Ordering::Relaxed);
        place.set(None);
        counted(&pool, 1000);
    }
}
