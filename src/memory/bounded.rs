//! Calls that may hold so many bytes and no more, into code that cannot be told that
//! there are none left.
//!
//! Rust ends the process where an allocation fails, and an allocator may not unwind. So
//! such a call gets a thread of its own, and the [`EmergencyAllocator`] counts what this
//! thread holds. Beyond the bound it does not return to the thread: whoever waits for
//! the call is told, and the thread sleeps, with what it holds, until the process ends.
//! With other allocators nothing is counted.
//!
//! [`EmergencyAllocator`]: super::EmergencyAllocator

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::host;

/// What became of a call.
#[derive(Debug)]
pub enum Bounded<T> {
    Done(T),
    Panicked,
    /// It wanted more than its bytes, and will never end.
    Stopped,
}

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

    /// What became of it, once it does not run any more.
    fn wait(&self) -> State {
        let is_running = |state: &mut State| *state == State::Running;
        let state = self.changed.wait_while(self.state(), is_running);
        *state.unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `call` on a thread of its own, which may hold `most_bytes` at a time. It must not
/// take locks that others wait for, as it may never give them back.
///
/// # Errors
/// The system's if the thread cannot be started.
pub fn run_bounded<T: Send + 'static>(
    thread: thread::Builder,
    most_bytes: usize,
    call: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Bounded<T>> {
    let watch = Arc::<Watch>::default();
    let watched = watch.clone();
    let running = host::with_signals_blocked(|| {
        thread.spawn(move || {
            let _bound = Bound::begin(watched, most_bytes);
            call()
        })
    })?;
    Ok(match watch.wait() {
        State::Stopped => Bounded::Stopped,
        _ => running.join().map_or(Bounded::Panicked, Bounded::Done),
    })
}

/// Of this thread, until it is dropped.
struct Bound(Arc<Watch>);

impl Bound {
    fn begin(watch: Arc<Watch>, most_bytes: usize) -> Bound {
        WATCH.set(Some(watch.clone()));
        LEFT.set(isize::try_from(most_bytes).unwrap_or(isize::MAX));
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
    if left < 0 {
        stop();
    }
}

pub(super) fn give_back(bytes: usize) {
    LEFT.set(LEFT.get().saturating_add_unsigned(bytes));
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
    use super::*;

    fn run<T: Send + 'static>(
        most_bytes: usize,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Bounded<T> {
        run_bounded(thread::Builder::new(), most_bytes, call).expect("a thread")
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn a_call_gives_its_result() {
        assert!(matches!(run(MIB, || 7), Bounded::Done(7)));
    }

    #[test]
    fn what_was_given_back_does_not_count() {
        let outcome = run(MIB, || {
            (0..100).map(|_| vec![1_u8; MIB / 2].len()).sum::<usize>()
        });
        assert!(matches!(outcome, Bounded::Done(n) if n == 50 * MIB));
    }

    #[test]
    fn a_call_that_wants_too_much_is_stopped_however_it_does() {
        let at_once = || vec![0_u8; 3 * MIB].len();
        let zeroed = || vec![0_u64; MIB].len();
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
        assert!(matches!(run(2 * MIB, at_once), Bounded::Stopped));
        assert!(matches!(run(2 * MIB, zeroed), Bounded::Stopped));
        assert!(matches!(run(2 * MIB, growing), Bounded::Stopped));
        assert!(matches!(run(2 * MIB, in_pieces), Bounded::Stopped));
    }

    #[test]
    fn a_panic_is_told() {
        let outcome: Bounded<()> = run(MIB, || panic!("as it should"));
        assert!(matches!(outcome, Bounded::Panicked));
    }

    #[test]
    fn other_threads_have_no_bound() {
        assert!(matches!(run(MIB, || ()), Bounded::Done(())));
        assert_eq!(vec![1_u8; 4 * MIB].len(), 4 * MIB);
    }
}
