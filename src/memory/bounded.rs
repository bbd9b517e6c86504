//! Calls that may hold so many bytes and take so long and no more, into code that cannot
//! be told to end.
//!
//! Rust ends the process where an allocation fails, and an allocator may not unwind. So
//! such a call gets a thread of its own, and the [`EmergencyAllocator`] counts what this
//! thread holds. Beyond the bound it does not return to the thread: whoever waits for
//! the call is told, and the thread sleeps, with what it holds, until the process ends.
//! A call that takes too long is not waited for; its thread ends with the call, or sleeps
//! when it next allocates. With other allocators nothing is counted, and no thread sleeps.
//!
//! [`EmergencyAllocator`]: super::EmergencyAllocator

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::host;
use crate::panics;

/// What a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// That it holds at a time.
    pub bytes: usize,
    pub time: Duration,
}

/// What became of a call.
#[derive(Debug)]
pub enum Bounded<T> {
    Done(T),
    /// What the panic says.
    Panicked(String),
    /// It wanted more than its bytes, and will never end.
    TooLarge,
    /// It took longer than its time, and is not waited for.
    TooLong,
}

/// How often a waiting thread looks whether time is up. A process that is held in the middle,
/// by a debugger or by the system, loses one of these and not all.
const TICK: Duration = Duration::from_millis(100);
/// Threads without a bound never come below it.
const BOUNDED: isize = isize::MAX / 2;

thread_local! {
    /// Bytes that this thread may still take; threads without a bound have all there are.
    static LEFT: Cell<isize> = const { Cell::new(isize::MAX) };
    /// Who waits for a thread with a bound.
    static WATCH: RefCell<Option<Arc<Watch>>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Watch {
    state: Mutex<State>,
    changed: Condvar,
    /// Nobody waits any more.
    is_given_up: AtomicBool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Running,
    Ended,
    Stopped,
}

impl Watch {
    fn tell(&self, state: State) {
        *self.state() = state;
        self.changed.notify_one();
    }

    /// What became of it, once it does not run any more or its time is up.
    fn wait(&self, time: Duration) -> State {
        let n_ticks = time.as_nanos().div_ceil(TICK.as_nanos());
        let mut state = self.state();
        for _ in 0..n_ticks {
            let is_running = |state: &mut State| *state == State::Running;
            let waited = self.changed.wait_timeout_while(state, TICK, is_running);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if *state != State::Running {
                return *state;
            }
        }
        self.is_given_up.store(true, Ordering::Relaxed);
        State::Running
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `call` on a thread of its own, within `bounds`. It must not take locks that others wait
/// for, as it may never give them back.
///
/// # Errors
/// The system's if the thread cannot be started.
pub fn run_bounded<T: Send + 'static>(
    thread: thread::Builder,
    bounds: Bounds,
    call: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Bounded<T>> {
    let watch = Arc::<Watch>::default();
    let watched = watch.clone();
    let running = host::with_signals_blocked(|| {
        thread.spawn(move || {
            let _bound = Bound::begin(watched, bounds.bytes);
            panics::catch(call)
        })
    })?;
    Ok(match watch.wait(bounds.time) {
        State::Stopped => Bounded::TooLarge,
        State::Running => Bounded::TooLong,
        State::Ended => match running.join() {
            Ok(Ok(done)) => Bounded::Done(done),
            Ok(Err(panic)) => Bounded::Panicked(panic),
            // Not in `call`.
            Err(_) => Bounded::Panicked("its thread panicked".to_owned()),
        },
    })
}

/// Of this thread, until it is dropped.
struct Bound(Arc<Watch>);

impl Bound {
    fn begin(watch: Arc<Watch>, most_bytes: usize) -> Bound {
        WATCH.set(Some(watch.clone()));
        LEFT.set(isize::try_from(most_bytes).map_or(BOUNDED - 1, |bytes| bytes.min(BOUNDED - 1)));
        Bound(watch)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        LEFT.set(isize::MAX);
        self.0.tell(State::Ended);
    }
}

/// This thread takes so many bytes. Does not return where they are too many.
pub(super) fn take(bytes: usize) {
    let left = LEFT.get().saturating_sub_unsigned(bytes);
    LEFT.set(left);
    if left < BOUNDED {
        look(left);
    }
}

pub(super) fn give_back(bytes: usize) {
    LEFT.set(LEFT.get().saturating_add_unsigned(bytes));
}

/// On a thread with a bound.
#[cold]
fn look(left: isize) {
    let is_given_up = || {
        let given_up = |watch: &Arc<Watch>| watch.is_given_up.load(Ordering::Relaxed);
        WATCH.with_borrow(|watch| watch.as_ref().is_some_and(given_up))
    };
    if left < 0 || is_given_up() {
        stop();
    }
}

#[cold]
fn stop() {
    LEFT.set(isize::MAX);
    // A panic is about to end the call, and tells of itself under locks of the process.
    if thread::panicking() {
        return;
    }
    let is_watched = WATCH.with_borrow(|watch| {
        let watch = watch.as_ref();
        watch.inspect(|watch| watch.tell(State::Stopped)).is_some()
    });
    if is_watched {
        loop {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use super::*;

    fn run<T: Send + 'static>(
        bytes: usize,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Bounded<T> {
        let time = Duration::from_secs(60);
        run_bounded(thread::Builder::new(), Bounds { bytes, time }, call).expect("a thread")
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn a_call_gives_its_result() {
        assert!(matches!(run(MIB, || 7), Bounded::Done(7)));
    }

    #[test]
    fn what_was_given_back_does_not_count() {
        let outcome = run(MIB, || {
            (0..100)
                .map(|_| black_box(vec![1_u8; MIB / 2]).len())
                .sum::<usize>()
        });
        assert!(matches!(outcome, Bounded::Done(n) if n == 50 * MIB));
    }

    #[test]
    fn a_call_that_wants_too_much_is_stopped_however_it_does() {
        let at_once = || black_box(vec![0_u8; 3 * MIB]).len();
        let zeroed = || black_box(vec![0_u64; MIB]).len();
        let growing = || {
            let mut text = "a".to_owned();
            while !text.is_empty() {
                text = format!("{text}{text}");
            }
            0
        };
        let in_pieces = || {
            (0_u64..)
                .map_while(|n| Some(Box::new(n)))
                .collect::<Vec<_>>()
                .len()
        };
        assert!(matches!(run(2 * MIB, at_once), Bounded::TooLarge));
        assert!(matches!(run(2 * MIB, zeroed), Bounded::TooLarge));
        assert!(matches!(run(2 * MIB, growing), Bounded::TooLarge));
        assert!(matches!(run(2 * MIB, in_pieces), Bounded::TooLarge));
    }

    #[test]
    fn a_panic_is_told() {
        let outcome: Bounded<()> = run(MIB, || panic!("as it should"));
        let Bounded::Panicked(said) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(said.starts_with("as it should"), "{said}");
    }

    #[test]
    fn other_threads_have_no_bound() {
        assert!(matches!(run(MIB, || ()), Bounded::Done(())));
        assert_eq!(black_box(vec![1_u8; 4 * MIB]).len(), 4 * MIB);
    }

    #[test]
    fn a_call_that_takes_too_long_is_not_waited_for() {
        let bounds = Bounds {
            bytes: MIB,
            time: Duration::from_millis(1),
        };
        let (end, is_ended) = mpsc::channel::<()>();
        let waiting = move || {
            let _ = is_ended.recv();
        };
        let outcome = run_bounded(thread::Builder::new(), bounds, waiting).expect("a thread");
        assert!(matches!(outcome, Bounded::TooLong));
        assert!(end.send(()).is_ok(), "the thread goes on");
    }

    #[test]
    fn its_thread_sleeps_when_it_next_allocates() {
        let bounds = Bounds {
            bytes: MIB,
            time: Duration::from_millis(1),
        };
        let n_made = Arc::new(AtomicUsize::new(0));
        let counted = n_made.clone();
        let endless = move || {
            loop {
                counted.fetch_add(*black_box(Box::new(1)), Ordering::Relaxed);
            }
        };
        let outcome: Bounded<()> =
            run_bounded(thread::Builder::new(), bounds, endless).expect("a thread");
        assert!(matches!(outcome, Bounded::TooLong));
        let made = || n_made.load(Ordering::Relaxed);
        let mut last = 0;
        // It has been told, and is soon in the middle of an allocation or behind one.
        while last != made() {
            last = made();
            thread::sleep(TICK);
        }
    }
}
