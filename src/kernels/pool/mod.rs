//! [`Pool`]: threads that share the work of a kernel, inside somebody else's
//! process: named, deaf to the host's signals, asleep soon after the last job,
//! and gone with the last user.

mod handoff;

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use self::handoff::Handoff;
use super::aligned::Aligned;
use super::stop::{Stop, StopPlace};
use super::threads::default_threads;
use crate::host;
use crate::memory::probe;

/// One user's way to threads that run the pieces of one job at a time.
pub struct Pool {
    threads: Arc<Threads>,
    stop: StopPlace,
}

/// Ends with the last pool that has them.
struct Threads {
    handoff: Arc<Handoff>,
    workers: Vec<JoinHandle<()>>,
    spare: Mutex<Vec<Buffer>>,
}

/// Scratch memory for any numbers of four bytes.
pub type Buffer = Aligned<u32>;

/// What the system has to have before a thread is started: std ends the process where a
/// few bytes of its own are refused.
const THREAD_BYTES: usize = 64 << 10;

/// Spare buffers that are kept at most.
const MAX_SPARE: usize = 4;

impl Pool {
    /// The most threads that a pool can have.
    pub const MAX_THREADS: usize = 1024;

    /// The process's threads for this number, made by their first user and ended with
    /// their last. 0: as many as suit the machine, see [`default_threads`].
    pub fn shared(n_threads: usize) -> Pool {
        static ALL: Mutex<BTreeMap<usize, Weak<Threads>>> = Mutex::new(BTreeMap::new());
        let n_threads = match n_threads {
            0 => default_threads(),
            n => n,
        };
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, threads| threads.strong_count() > 0);
        let known = all.get(&n_threads).and_then(Weak::upgrade);
        let threads = known.unwrap_or_else(|| {
            let threads = Arc::new(Threads::start(n_threads));
            all.insert(n_threads, Arc::downgrade(&threads));
            threads
        });
        Pool::of(threads)
    }

    /// `n_threads`, at most `MAX_THREADS`, counts the caller of `run`. If not all
    /// can be started, those that could share the work.
    pub fn new(n_threads: usize) -> Pool {
        Pool::of(Arc::new(Threads::start(n_threads)))
    }

    fn of(threads: Arc<Threads>) -> Pool {
        Pool {
            threads,
            stop: StopPlace::default(),
        }
    }

    /// The same threads for a user whose jobs end early by what is in `stop`.
    pub fn stopped_by(self, stop: StopPlace) -> Pool {
        Pool { stop, ..self }
    }

    /// What ends this user's jobs early. Its pieces may look at it if they take long.
    pub fn stop(&self) -> Option<Arc<Stop>> {
        self.stop.get()
    }

    /// Threads that share a job, its caller included.
    pub fn n_threads(&self) -> usize {
        self.threads.workers.len() + 1
    }

    /// Runs `piece(0)` to `piece(n_pieces - 1)`, each once, on any thread, and
    /// returns when all are done. While the workers run another caller's job,
    /// this one's pieces run on its own thread. Once `stop` is set, the pieces that
    /// have not begun are left out.
    ///
    /// Pieces should take tens of microseconds: many more than there are threads,
    /// so that a thread that the system stops holds up little.
    ///
    /// # Panics
    /// If a piece does. Then not all of them may have run.
    pub fn run(&self, n_pieces: usize, piece: &(dyn Fn(usize) + Sync)) {
        match self.stop() {
            None => self.threads.run(n_pieces, piece),
            Some(stop) => self.threads.run(n_pieces, &|index| {
                if !stop.is_set() {
                    piece(index);
                }
            }),
        }
    }

    /// A buffer with any contents: large ones cost more to get from the system than
    /// to fill. `give_back` keeps it for the next kernel, as long as the pool lives.
    pub fn buffer(&self, length: usize) -> Buffer {
        let mut spare = self.threads.spare();
        let length_of = |index: &usize| spare[*index].as_slice().len();
        let fits = (0..spare.len()).filter(|index| length_of(index) >= length);
        let smallest_that_fits = fits.min_by_key(length_of);
        let largest = (0..spare.len()).max_by_key(length_of);
        let found = smallest_that_fits
            .or(largest)
            .map(|index| spare.swap_remove(index));
        drop(spare);
        match found {
            Some(buffer) if smallest_that_fits.is_some() => buffer,
            found => {
                // Before the new one is there.
                drop(found);
                Buffer::zeroed(length)
            }
        }
    }

    pub fn give_back(&self, buffer: Buffer) {
        let mut spare = self.threads.spare();
        if spare.len() < MAX_SPARE {
            spare.push(buffer);
        }
    }

    /// Cuts `0..length` into ranges of `per_piece`, the last one maybe shorter,
    /// and runs each once, as `run` does.
    ///
    /// # Panics
    /// If `per_piece` is 0 or a range's work panics.
    pub fn run_ranges(
        &self,
        length: usize,
        per_piece: usize,
        work: &(dyn Fn(Range<usize>) + Sync),
    ) {
        self.run(length.div_ceil(per_piece), &|index| {
            let start = index * per_piece;
            work(start..length.min(start + per_piece));
        });
    }
}

impl Threads {
    fn start(n_threads: usize) -> Threads {
        host::watch_forks();
        let handoff = Arc::new(Handoff::new());
        let worker = |index: usize| {
            let handoff = handoff.clone();
            if !probe(THREAD_BYTES) {
                return None;
            }
            thread::Builder::new()
                .name(format!("umrt-{index}"))
                .spawn(move || handoff.work())
                .ok()
        };
        let indices = 1..n_threads.min(Pool::MAX_THREADS);
        let workers = host::with_signals_blocked(|| indices.map_while(worker).collect());
        Threads {
            handoff,
            workers,
            spare: Mutex::default(),
        }
    }

    fn run(&self, n_pieces: usize, piece: &(dyn Fn(usize) + Sync)) {
        let alone = n_pieces < 2 || self.workers.is_empty() || host::forked();
        if alone || !self.handoff.try_run(n_pieces, piece) {
            (0..n_pieces).for_each(piece);
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Buffer>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let workers = mem::take(&mut self.workers);
        if host::forked() {
            // They stayed behind in the parent.
            return mem::forget(workers);
        }
        self.handoff.end();
        for worker in workers {
            // A worker catches what its pieces do; there is nothing to pass on.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests;
