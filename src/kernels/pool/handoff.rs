//! [`Handoff`]: how a caller's job reaches the workers and comes to its end.
//!
//! Two counters carry a job. `unclaimed` is the number of its pieces that nobody
//! has taken: whoever decrements it from a positive number has claimed a piece.
//! `unfinished` is the number of pieces that are not done. In between stands
//! `job`, a cell that holds the address of the caller's function.
//!
//! **Who may touch `job`.** The caller writes it while `taken` is its own and
//! `unfinished` is 0. A worker reads it only between a claim and the matching
//! decrement of `unfinished`. The two never meet:
//!
//! 1. The caller writes `job`, then `unfinished = n`, then `unclaimed = n`
//!    (release). A claim (acquire) that succeeds comes after that swap in the
//!    order of `unclaimed`, through decrements alone, so it sees both writes. It
//!    need not be the job that the worker saw coming: a claim belongs to the job
//!    whose count it decremented, and that one is in the cell.
//! 2. The caller leaves when `unfinished` is 0 (acquire). Each claimed piece is
//!    taken off after it ran (release), so by then all that workers did with
//!    `job`, and with what it points to on the caller's stack, lies in the past.
//! 3. It leaves with `unclaimed` at 0 or below, and nothing but a next job makes
//!    it positive. A worker that comes late finds nothing to claim.
//!
//! So nobody ever waits for a worker that has not claimed a piece: one that the
//! system does not run costs nothing, and one that is stopped inside of a piece
//! delays the job by that piece.
//!
//! **Sleep.** Who finds nothing spins for `LINGER` and then sleeps. For a worker
//! that goes to sleep while a job appears: it announces itself in `sleeping` and
//! then looks at `unclaimed`; the caller sets `unclaimed` and then looks at
//! `sleeping`. A sequentially consistent fence between the two, on both sides,
//! makes at least one see the other. The caller hands out permits, one per worker that it wants, and takes
//! those workers off `sleeping` at once: a worker that was woken but does not run
//! yet is not woken again. The caller itself announces its sleep in a bit of
//! `unfinished`, which the last decrement therefore sees.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::panics;

/// How long a thread that waits looks for work before it sleeps. The kernels of
/// one token follow each other within this time, and to wake a thread takes
/// about as long.
const LINGER: Duration = Duration::from_micros(40);
/// Looks at the counter between two looks at the clock.
const SPINS: usize = 32;

/// Set in `unfinished` while the caller sleeps.
const CALLER_SLEEPS: usize = 1 << (usize::BITS - 1);

type Piece<'a> = dyn Fn(usize) + Sync + 'a;

/// A job on its caller's stack.
#[derive(Clone, Copy)]
struct Job {
    run: *const Piece<'static>,
    failure: *const OnceLock<String>,
    n_pieces: usize,
}

/// Keeps what different threads write on different cache lines.
#[repr(align(128))]
struct Line<T>(T);

/// One job at a time, from any thread to the threads that are in `work`.
pub(super) struct Handoff {
    /// Whether a caller has a job here.
    taken: Line<AtomicBool>,
    unclaimed: Line<AtomicIsize>,
    job: UnsafeCell<Option<Job>>,
    unfinished: Line<AtomicUsize>,
    /// Workers that sleep and have no permit to wake up. Written under `sleep`.
    sleeping: Line<AtomicUsize>,
    sleep: Mutex<Sleep>,
    wake: Condvar,
    caller_sleep: Mutex<()>,
    caller_wake: Condvar,
}

#[derive(Default)]
struct Sleep {
    permits: usize,
    ended: bool,
}

// SAFETY: `job` is accessed as the module's comment says; what it points to is
// `Sync` and outlives its use.
unsafe impl Sync for Handoff {}
// SAFETY: as above.
unsafe impl Send for Handoff {}

impl Handoff {
    pub(super) fn new() -> Handoff {
        Handoff {
            taken: Line(AtomicBool::new(false)),
            unclaimed: Line(AtomicIsize::new(0)),
            job: UnsafeCell::new(None),
            unfinished: Line(AtomicUsize::new(0)),
            sleeping: Line(AtomicUsize::new(0)),
            sleep: Mutex::new(Sleep::default()),
            wake: Condvar::new(),
            caller_sleep: Mutex::new(()),
            caller_wake: Condvar::new(),
        }
    }

    /// Runs all pieces, here and on the workers, and returns when they are done;
    /// `false`: another caller's job is being run, and nothing was done.
    ///
    /// # Panics
    /// If a piece does. Then not all of them may have run.
    pub(super) fn try_run(&self, n_pieces: usize, piece: &Piece<'_>) -> bool {
        if self.taken.0.swap(true, Ordering::Acquire) {
            return false;
        }
        let failure = OnceLock::new();
        let mut turn = Turn {
            handoff: self,
            n_claimed: 0,
        };
        // SAFETY: only the lifetime is erased. `turn` keeps this frame until no
        // worker can reach the job, also when a piece panics here.
        let run: *const Piece<'static> = unsafe { std::mem::transmute(piece) };
        let job = Job {
            run,
            failure: &failure,
            n_pieces,
        };
        self.publish(job);
        while let Some(index) = self.claim().map(|left| n_pieces - left) {
            turn.n_claimed += 1;
            piece(index);
        }
        drop(turn);
        if let Some(failure) = failure.get() {
            panic!("a kernel failed on a worker thread: {failure}");
        }
        true
    }

    fn publish(&self, job: Job) {
        // SAFETY: `taken` is ours and `unfinished` is 0, so nobody reads.
        unsafe { *self.job.get() = Some(job) };
        let unclaimed = isize::try_from(job.n_pieces).expect("a number of pieces");
        self.unfinished.0.store(job.n_pieces, Ordering::Relaxed);
        self.unclaimed.0.swap(unclaimed, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if self.sleeping.0.load(Ordering::Relaxed) > 0 {
            self.wake_workers(job.n_pieces - 1);
        }
    }

    fn wake_workers(&self, n_wanted: usize) {
        let mut sleep = lock(&self.sleep);
        let n_sleeping = self.sleeping.0.load(Ordering::Relaxed);
        let n_woken = n_sleeping.min(n_wanted);
        self.sleeping
            .0
            .store(n_sleeping - n_woken, Ordering::Relaxed);
        sleep.permits += n_woken;
        drop(sleep);
        match n_woken == n_sleeping {
            true => self.wake.notify_all(),
            false => (0..n_woken).for_each(|_| self.wake.notify_one()),
        }
    }

    /// Claims a piece; returns how many there were.
    fn claim(&self) -> Option<usize> {
        if self.unclaimed.0.load(Ordering::Relaxed) <= 0 {
            return None;
        }
        let before = self.unclaimed.0.fetch_sub(1, Ordering::AcqRel);
        usize::try_from(before).ok().filter(|left| *left > 0)
    }

    fn finish(&self, n_pieces: usize) {
        let before = self.unfinished.0.fetch_sub(n_pieces, Ordering::AcqRel);
        if before == CALLER_SLEEPS + n_pieces {
            drop(lock(&self.caller_sleep));
            self.caller_wake.notify_one();
        }
    }

    fn wait_until_finished(&self) {
        let unfinished = &self.unfinished.0;
        if spin_until(|| unfinished.load(Ordering::Acquire) == 0) {
            return;
        }
        unfinished.fetch_or(CALLER_SLEEPS, Ordering::AcqRel);
        let mut sleep = lock(&self.caller_sleep);
        while unfinished.load(Ordering::Acquire) != CALLER_SLEEPS {
            sleep = wait(&self.caller_wake, sleep);
        }
        unfinished.store(0, Ordering::Relaxed);
    }

    /// What a worker does until `end`.
    pub(super) fn work(&self) {
        while self.wait_for_pieces() {
            self.help();
        }
    }

    /// Takes pieces while there are any.
    fn help(&self) {
        let mut n_claimed = 0;
        while let Some(left) = self.claim() {
            n_claimed += 1;
            // SAFETY: this thread has claimed a piece and not finished it, so
            // the job stays, and so does the frame that it points to.
            let (job, run, failure) = unsafe {
                let job = (*self.job.get()).expect("a claimed piece is part of a job");
                (job, &*job.run, &*job.failure)
            };
            if let Err(panic) = panics::catch(|| run(job.n_pieces - left)) {
                // The first one is told.
                let _ = failure.set(panic);
            }
        }
        if n_claimed > 0 {
            self.finish(n_claimed);
        }
    }

    /// Returns when there may be pieces to claim; `false`: there will be none.
    fn wait_for_pieces(&self) -> bool {
        let some_unclaimed = || self.unclaimed.0.load(Ordering::Relaxed) > 0;
        if spin_until(some_unclaimed) {
            return true;
        }
        let mut sleep = lock(&self.sleep);
        if sleep.ended {
            return false;
        }
        self.sleeping.0.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if some_unclaimed() {
            self.sleeping.0.fetch_sub(1, Ordering::Relaxed);
            return true;
        }
        while sleep.permits == 0 && !sleep.ended {
            sleep = wait(&self.wake, sleep);
        }
        sleep.permits = sleep.permits.saturating_sub(1);
        !sleep.ended
    }

    /// Sends the workers home; there must not be a job.
    pub(super) fn end(&self) {
        lock(&self.sleep).ended = true;
        self.wake.notify_all();
    }
}

/// A caller's time with the workers.
struct Turn<'a> {
    handoff: &'a Handoff,
    /// Pieces that the caller took itself.
    n_claimed: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // After a panic there may be pieces left, which nobody is to begin.
        let withdrawn = self.handoff.unclaimed.0.swap(0, Ordering::AcqRel);
        let n_withdrawn = usize::try_from(withdrawn).unwrap_or(0);
        self.handoff.finish(self.n_claimed + n_withdrawn);
        self.handoff.wait_until_finished();
        self.handoff.taken.0.store(false, Ordering::Release);
    }
}

/// Looks for `LINGER` whether `condition` comes true.
fn spin_until(condition: impl Fn() -> bool) -> bool {
    let mut began = None;
    loop {
        for _ in 0..SPINS {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        if began.get_or_insert_with(Instant::now).elapsed() >= LINGER {
            return false;
        }
    }
}

/// Nothing that holds one of these locks panics; poison has no meaning here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_woken_and_does_not_run_is_neither_waited_for_nor_woken_again() {
        let handoff = Handoff::new();
        // Sleeping workers that the system never runs.
        handoff.sleeping.0.store(3, Ordering::Relaxed);
        let count = AtomicUsize::new(0);
        let count_up = |_| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        for (n_pieces, n_permits) in [(2, 1), (2, 2), (100, 3), (100, 3)] {
            count.store(0, Ordering::Relaxed);
            assert!(handoff.try_run(n_pieces, &count_up));
            assert_eq!(count.load(Ordering::Relaxed), n_pieces);
            assert_eq!(lock(&handoff.sleep).permits, n_permits);
        }
    }
}
