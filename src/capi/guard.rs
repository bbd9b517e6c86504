//! Status codes, the thread's last error, and panics as a status.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

use crate::error::{Error, Result, Status};
use crate::panics;

/// What a call returns: 0 (`UMRT_OK`) or the kind of failure. The numbers never
/// change; `umrt_last_error` has the sentence that goes with a failure.
pub type umrt_status = i32;

/// The call did what it says.
pub const UMRT_OK: i32 = 0;
/// The caller broke a documented rule: a NULL, an id or size out of range.
pub const UMRT_INVALID_ARGUMENT: i32 = 1;
/// A path or name that is not there.
pub const UMRT_NOT_FOUND: i32 = 2;
/// The operating system refused to read or write a file.
pub const UMRT_IO: i32 = 3;
/// A malformed checkpoint, tokenizer or template.
pub const UMRT_FORMAT: i32 = 4;
/// Well-formed, but not something this build can do; the message names it.
pub const UMRT_UNSUPPORTED: i32 = 5;
/// The operating system has no memory left.
pub const UMRT_OUT_OF_MEMORY: i32 = 6;
/// More memory than models may use; nothing was allocated.
pub const UMRT_OVER_BUDGET: i32 = 7;
/// A context or the caller's buffer is full; nothing was written.
pub const UMRT_NO_SPACE: i32 = 8;
/// Another call is using this handle.
pub const UMRT_BUSY: i32 = 9;
/// Stopped by `umrt_cancel_trigger`.
pub const UMRT_CANCELLED: i32 = 10;
/// MLX or its device failed.
pub const UMRT_BACKEND: i32 = 11;
/// A bug in umrt; it was caught. Free the handle that the call used.
pub const UMRT_PANIC: i32 = 12;
/// A bug in umrt that it noticed itself.
pub const UMRT_INTERNAL: i32 = 13;
/// Stopped because the time that the call was given is over.
pub const UMRT_DEADLINE_EXCEEDED: i32 = 14;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs an export's body: nothing unwinds out of it, and a failure is kept for
/// `umrt_last_error`.
pub(super) fn guard(body: impl FnOnce() -> Result<()>) -> umrt_status {
    let outcome = panics::catch(body).unwrap_or_else(|panic| {
        Err(Error::new(
            Status::Panic,
            format!(
                "bug in umrt: {panic}; please report it and free the handle that this call used"
            ),
        ))
    });
    match outcome {
        Ok(()) => UMRT_OK,
        Err(error) => {
            let status = error.status() as umrt_status;
            keep(&error);
            status
        }
    }
}

/// Runs a `_free` function's body; a failure has nobody to go to.
pub(super) fn guard_free(body: impl FnOnce()) {
    let _ = panics::catch(body);
}

fn keep(error: &Error) {
    let text = error.message().replace('\0', " ");
    let text = CString::new(text).unwrap_or_default();
    // A thread that is ending may have no place for it any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(text));
}

/// What went wrong in this thread's last failed call: one sentence that says
/// what happened, where, and what to do. Empty if nothing failed yet. Never
/// NULL; valid until the thread's next failure. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn umrt_last_error() -> *const c_char {
    LAST_ERROR
        .try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"the thread is ending".as_ptr())
}

/// The name of a status, such as "NO_SPACE"; "UNKNOWN" for other numbers. Static.
#[unsafe(no_mangle)]
pub extern "C" fn umrt_status_name(status: umrt_status) -> *const c_char {
    let name: &CStr = match Status::from_code(status) {
        Some(Status::Ok) => c"OK",
        Some(Status::InvalidArgument) => c"INVALID_ARGUMENT",
        Some(Status::NotFound) => c"NOT_FOUND",
        Some(Status::Io) => c"IO",
        Some(Status::Format) => c"FORMAT",
        Some(Status::Unsupported) => c"UNSUPPORTED",
        Some(Status::OutOfMemory) => c"OUT_OF_MEMORY",
        Some(Status::OverBudget) => c"OVER_BUDGET",
        Some(Status::NoSpace) => c"NO_SPACE",
        Some(Status::Busy) => c"BUSY",
        Some(Status::Cancelled) => c"CANCELLED",
        Some(Status::Backend) => c"BACKEND",
        Some(Status::Panic) => c"PANIC",
        Some(Status::Internal) => c"INTERNAL",
        Some(Status::DeadlineExceeded) => c"DEADLINE_EXCEEDED",
        None => c"UNKNOWN",
    };
    name.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_error() -> String {
        // SAFETY: never null, NUL-terminated, and no failure happens meanwhile.
        unsafe { CStr::from_ptr(umrt_last_error()) }
            .to_string_lossy()
            .into_owned()
    }

    #[test]
    fn a_panic_becomes_a_status_with_its_message() {
        let status = guard(|| panic!("the sky fell"));
        assert_eq!(status, UMRT_PANIC);
        assert!(last_error().contains("the sky fell"), "{}", last_error());
        guard_free(|| panic!("again"));
    }

    #[test]
    fn success_keeps_the_last_message_and_a_failure_replaces_it() {
        assert_eq!(guard(|| Err(Error::busy("first"))), UMRT_BUSY);
        assert_eq!(guard(|| Ok(())), UMRT_OK);
        assert_eq!(last_error(), "first");
        assert_eq!(guard(|| Err(Error::no_space("sec\0ond"))), UMRT_NO_SPACE);
        assert_eq!(last_error(), "sec ond");
    }

    #[test]
    fn the_codes_are_those_of_the_error_type() {
        assert_eq!(UMRT_INVALID_ARGUMENT, Status::InvalidArgument as i32);
        assert_eq!(UMRT_OVER_BUDGET, Status::OverBudget as i32);
        assert_eq!(UMRT_CANCELLED, Status::Cancelled as i32);
        assert_eq!(UMRT_INTERNAL, Status::Internal as i32);
        assert_eq!(UMRT_DEADLINE_EXCEEDED, Status::DeadlineExceeded as i32);
    }
}
