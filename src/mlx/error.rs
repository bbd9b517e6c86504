//! Errors of MLX as values. mlx-c's own handler prints and calls `exit`, so ours
//! is put in its place before the first call.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Once;

use mlx_sys as sys;

use crate::error::{Error, Result};

thread_local! {
    static LAST_MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs the handler. Every path to MLX starts here.
pub(super) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: `keep_message` has the expected signature and lives as long as
        // the library; there is no payload to release. `Once` makes this the
        // only writer of mlx-c's global before any reader.
        unsafe { sys::mlx_set_error_handler(Some(keep_message), std::ptr::null_mut(), None) };
    });
}

/// Called by mlx-c on the thread whose call failed.
extern "C" fn keep_message(message: *const c_char, _payload: *mut c_void) {
    if message.is_null() {
        return;
    }
    // SAFETY: mlx-c passes a NUL-terminated string that outlives this call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    // mlx-c appends " at <its source file>:<line>", which says nothing to a user.
    let text = text.split(" at /").next().unwrap_or(&text).to_owned();
    // A thread that is ending may have no place for it any more.
    let _ = LAST_MESSAGE.try_with(|last| last.replace(Some(text)));
}

/// Turns mlx-c's return code into a `Result`.
pub(super) fn check(code: c_int) -> Result<()> {
    match code {
        0 => ensure_not_injected(),
        _ => Err(last_error()),
    }
}

/// As `check`, of a call that gives null when it fails.
pub(super) fn check_made<T>(made: *const T) -> Result<()> {
    check(c_int::from(made.is_null()))
}

#[cfg(not(test))]
fn ensure_not_injected() -> Result<()> {
    Ok(())
}

#[cfg(test)]
use injection::ensure_not_injected;
#[cfg(test)]
pub(crate) use injection::failing_at;

/// Failures that tests put into MLX's mouth.
#[cfg(test)]
mod injection {
    use std::cell::Cell;

    use super::{Result, of_message};

    thread_local! {
        /// Calls until one fails; 0: none does.
        static LEFT: Cell<usize> = const { Cell::new(0) };
    }

    /// Runs `call`, in which this thread's `n`-th call of MLX's fails, counted from 1.
    /// Also says whether it came to that.
    pub fn failing_at<T>(n: usize, call: impl FnOnce() -> T) -> (T, bool) {
        LEFT.set(n);
        let result = call();
        (result, LEFT.replace(0) == 0)
    }

    pub fn ensure_not_injected() -> Result<()> {
        let left = LEFT.get();
        LEFT.set(left.saturating_sub(1));
        match left {
            1 => Err(of_message("[test] refused on purpose".to_owned())),
            _ => Ok(()),
        }
    }
}

/// The failure that mlx-c just reported on this thread.
pub(super) fn last_error() -> Error {
    let message = LAST_MESSAGE.try_with(RefCell::take).ok().flatten();
    of_message(message.unwrap_or_else(|| "MLX failed without a message".to_owned()))
}

/// MLX's exceptions have no codes, only texts.
pub(super) fn of_message(message: String) -> Error {
    const NO_MEMORY: [&str; 3] = ["out of memory", "Unable to allocate", "bad_alloc"];
    match NO_MEMORY.iter().any(|text| message.contains(text)) {
        true => Error::out_of_memory(format!(
            "there is no memory left on the device ({message}); free models and contexts, or use \
             a smaller n_ctx or prefill_chunk"
        )),
        false => Error::backend(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[test]
    fn memory_that_is_not_there_is_told_from_other_failures() {
        let status = |message: &str| of_message(message.to_owned()).status();
        for text in [
            "cudaMallocAsync(&data, size, stream) failed: out of memory",
            "[malloc] Unable to allocate 512 bytes.",
            "std::bad_alloc",
        ] {
            assert_eq!(status(text), Status::OutOfMemory, "{text}");
        }
        assert_eq!(status("[matmul] shapes do not fit"), Status::Backend);
    }
}
