//! [`Pool`]: threads that share the work of a kernel, inside somebody else's
//! process: named, idle without spinning, and gone with the last user.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long an idle worker looks for more work before it sleeps. Kernels of one
/// step follow each other within this time.
const LINGER: Duration = Duration::from_micros(30);

/// Threads that run the pieces of one job at a time.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the caller whose job the workers run.
    turn: Mutex<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Counts jobs, so that a lingering worker sees a new one without the lock.
    jobs: AtomicUsize,
    wake: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct State {
    job: Option<Job>,
    /// Workers inside of the job.
    active: usize,
    stop: bool,
}

/// A job on its caller's stack; valid until the caller has seen `active` at 0.
#[derive(Clone, Copy)]
struct Job {
    run: *const (dyn Fn(usize) + Sync),
    next: *const AtomicUsize,
    panicked: *const AtomicBool,
    n_pieces: usize,
}

// SAFETY: what the pointers point to is `Sync`, and the caller of `Pool::run`
// keeps it alive until no worker uses it.
unsafe impl Send for Job {}

impl Pool {
    /// The process's pool, made by its first user and ended with its last.
    pub fn shared() -> Arc<Pool> {
        static POOL: Mutex<Weak<Pool>> = Mutex::new(Weak::new());
        let mut shared = lock(&POOL);
        shared.upgrade().unwrap_or_else(|| {
            let n_threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
            let pool = Arc::new(Pool::new(n_threads));
            *shared = Arc::downgrade(&pool);
            pool
        })
    }

    /// `n_threads` counts the caller of `run`. Fewer than asked for is fine: the
    /// work is shared by those that could be started.
    pub fn new(n_threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            jobs: AtomicUsize::new(0),
            wake: Condvar::new(),
            done: Condvar::new(),
        });
        let workers = (1..n_threads)
            .map_while(|index| {
                let shared = shared.clone();
                thread::Builder::new()
                    .name(format!("umrt-{index}"))
                    .spawn(move || shared.work())
                    .ok()
            })
            .collect();
        Pool {
            shared,
            workers,
            turn: Mutex::new(()),
        }
    }

    /// Runs `piece(0)` to `piece(n_pieces - 1)`, each once, on any thread, and
    /// returns when all are done. While the workers run another caller's job,
    /// this one's pieces run on its own thread.
    ///
    /// # Panics
    /// If a piece does.
    pub fn run(&self, n_pieces: usize, piece: &(dyn Fn(usize) + Sync)) {
        let turn = self.turn.try_lock();
        if n_pieces < 2 || self.workers.is_empty() || turn.is_err() {
            return (0..n_pieces).for_each(piece);
        }
        let next = AtomicUsize::new(0);
        let panicked = AtomicBool::new(false);
        // SAFETY: only the lifetime is erased. `Finish` keeps this frame until
        // no worker can reach the job, also when a piece panics here.
        let run: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(piece) };
        let job = Job {
            run,
            next: &next,
            panicked: &panicked,
            n_pieces,
        };
        {
            let finish = Finish(&self.shared);
            lock(&self.shared.state).job = Some(job);
            self.shared.jobs.fetch_add(1, Ordering::Release);
            self.shared.wake.notify_all();
            take_pieces(&next, n_pieces, piece);
            drop(finish);
        }
        assert!(
            !panicked.load(Ordering::Relaxed),
            "a kernel failed on a worker thread"
        );
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.jobs.fetch_add(1, Ordering::Release);
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches what its pieces do; there is nothing to pass on.
            let _ = worker.join();
        }
    }
}

/// Takes the job back and waits until no worker is inside of it.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.job = None;
        while state.active > 0 {
            state = self
                .0
                .done
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut seen = 0;
        while let Some(job) = self.next_job(&mut seen) {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: `active` counts this worker, so the caller's frame lives.
                let (run, next) = unsafe { (&*job.run, &*job.next) };
                take_pieces(next, job.n_pieces, run);
            }));
            if outcome.is_err() {
                // SAFETY: as above.
                unsafe { (*job.panicked).store(true, Ordering::Relaxed) };
            }
            let mut state = lock(&self.state);
            state.active -= 1;
            if state.active == 0 {
                self.done.notify_all();
            }
        }
    }

    /// Waits for a job that this worker has not seen; `None` when the pool ends.
    fn next_job(&self, seen: &mut usize) -> Option<Job> {
        let began = Instant::now();
        while self.jobs.load(Ordering::Acquire) == *seen && began.elapsed() < LINGER {
            std::hint::spin_loop();
        }
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                return None;
            }
            let jobs = self.jobs.load(Ordering::Acquire);
            if jobs != *seen {
                *seen = jobs;
                if let Some(job) = state.job {
                    state.active += 1;
                    return Some(job);
                }
            }
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn take_pieces(next: &AtomicUsize, n_pieces: usize, piece: &(dyn Fn(usize) + Sync)) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= n_pieces {
            return;
        }
        piece(index);
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_runs_once_whatever_the_number_of_threads() {
        for n_threads in [1, 2, 5] {
            let pool = Pool::new(n_threads);
            for n_pieces in [0, 1, 2, 100, 1000] {
                let counts: Vec<_> = (0..n_pieces).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n_pieces, &|index| {
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts
                        .iter()
                        .all(|count| count.load(Ordering::Relaxed) == 1)
                );
            }
        }
    }

    #[test]
    fn callers_at_the_same_time_all_finish() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(7, &|_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 7);
    }

    #[test]
    fn a_panic_in_a_piece_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(50, &|_| panic!("a piece"));
        }));
        assert!(outcome.is_err());
        let count = AtomicUsize::new(0);
        pool.run(10, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }

    #[test]
    fn the_shared_pool_ends_with_its_last_user() {
        let weak = {
            let first = Pool::shared();
            let second = Pool::shared();
            assert!(Arc::ptr_eq(&first, &second));
            Arc::downgrade(&first)
        };
        // Tests that run beside this one may hold it too.
        assert!(
            weak.upgrade()
                .is_none_or(|pool| Arc::strong_count(&pool) > 1)
        );
    }
}
