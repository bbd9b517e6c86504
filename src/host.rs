//! Manners towards the host process: its signals stay on its own threads, and a
//! fork of it is noticed.

use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static FORKED: AtomicBool = AtomicBool::new(false);

/// Runs in the child between `fork` and its return: may do next to nothing.
extern "C" fn note_fork() {
    FORKED.store(true, Ordering::Relaxed);
}

/// Makes `forked` true in the children of forks from here on. Called before
/// umrt's first thread is made: until then a fork harms nothing.
pub(crate) fn watch_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler stores an atomic, which is allowed in a child of a
        // process with threads. It fails only for want of memory, and then
        // forks go unnoticed.
        unsafe { libc::pthread_atfork(None, None, Some(note_fork)) };
    });
}

/// Whether this process is the child of a fork that left umrt's threads behind.
/// Locks that they held stay locked for ever.
pub(crate) fn forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

pub(crate) fn ensure_not_forked() -> Result<()> {
    match forked() {
        false => Ok(()),
        true => Err(Error::unsupported(
            "this process was forked after umrt was used, and umrt's threads are not in it; \
             fork before the first model is opened, or start the process anew with spawn or exec",
        )),
    }
}

/// Runs `make` so that threads it makes leave the host's signals to the host.
/// Faults stay unblocked: they come to the thread that causes them, and the
/// host's crash reporter may want to see them.
pub(crate) fn with_signals_blocked<T>(make: impl FnOnce() -> T) -> T {
    const FAULTS: [libc::c_int; 5] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
    ];
    let mut blocked = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: `sigfillset` initializes the set, and `pthread_sigmask` the former
    // mask; neither fails with these arguments.
    let _restore = unsafe {
        libc::sigfillset(blocked.as_mut_ptr());
        for fault in FAULTS {
            libc::sigdelset(blocked.as_mut_ptr(), fault);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, blocked.as_ptr(), before.as_mut_ptr());
        RestoredMask(before.assume_init())
    };
    make()
}

struct RestoredMask(libc::sigset_t);

impl Drop for RestoredMask {
    fn drop(&mut self) {
        // SAFETY: a mask that this thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_blocked(signal: libc::c_int) -> bool {
        let mut mask = MaybeUninit::uninit();
        // SAFETY: the call initializes the mask.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), mask.as_mut_ptr());
            libc::sigismember(mask.as_ptr(), signal) == 1
        }
    }

    #[test]
    fn threads_inherit_blocked_signals_and_their_maker_keeps_its_own() {
        let worker = with_signals_blocked(|| {
            std::thread::spawn(|| [libc::SIGUSR1, libc::SIGINT, libc::SIGSEGV].map(is_blocked))
        });
        assert_eq!(worker.join().expect("no panic"), [true, true, false]);
        assert!(!is_blocked(libc::SIGUSR1));
    }
}
