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
    if code == 0 { Ok(()) } else { Err(last_error()) }
}

/// The failure that mlx-c just reported on this thread.
pub(super) fn last_error() -> Error {
    let message = LAST_MESSAGE.try_with(RefCell::take).ok().flatten();
    Error::backend(message.unwrap_or_else(|| "MLX failed without a message".to_owned()))
}
