//! Cancellation.

use std::time::{Duration, Instant};

use super::guard::{guard, guard_free, umrt_status};
use super::handle;
use crate::runtime::Cancel;

/// A flag that stops running calls from another thread. It is a handle of its
/// own, so that triggering it never races with freeing what it stops.
pub struct umrt_cancel(pub(super) Cancel);

/// Makes a flag, not triggered. Free it with `umrt_cancel_free`.
///
/// Returns INVALID_ARGUMENT. Any thread.
///
/// # Safety
/// `cancel` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_cancel_new(cancel: *mut *mut umrt_cancel) -> umrt_status {
    // SAFETY: the caller's contract.
    guard(|| unsafe { handle::give(cancel, || Ok(umrt_cancel(Cancel::new()))) })
}

/// Stops every call that was given this flag, and those that will be, until it
/// is reset. They return CANCELLED. NULL is ignored. Any thread, and from signal
/// handlers.
///
/// # Safety
/// `cancel` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_cancel_trigger(cancel: *const umrt_cancel) {
    // SAFETY: the caller's contract. A plain store, safe in signal handlers.
    if let Some(cancel) = unsafe { cancel.as_ref() } {
        cancel.0.trigger();
    }
}

/// Lets the flag be used again. NULL is ignored. Any thread.
///
/// # Safety
/// `cancel` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_cancel_reset(cancel: *const umrt_cancel) {
    // SAFETY: the caller's contract.
    if let Some(cancel) = unsafe { cancel.as_ref() } {
        cancel.0.reset();
    }
}

/// Frees the flag; calls that use it go on. NULL is ignored. Any thread.
///
/// # Safety
/// `cancel` is NULL or a live handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_cancel_free(cancel: *mut umrt_cancel) {
    // SAFETY: the caller's contract.
    guard_free(|| unsafe { handle::free(cancel) });
}

/// As `optional`, and an end `deadline_ms` from now, unless that is 0.
///
/// # Safety
/// `cancel` is null or a live handle.
pub(super) unsafe fn or_after(cancel: *const umrt_cancel, deadline_ms: u32) -> Option<Cancel> {
    // SAFETY: the caller's contract.
    let cancel = unsafe { optional(cancel) };
    if deadline_ms == 0 {
        return cancel;
    }
    let deadline = Instant::now() + Duration::from_millis(deadline_ms.into());
    Some(cancel.unwrap_or_default().or_at(deadline))
}

/// # Safety
/// `cancel` is null or a live handle.
pub(super) unsafe fn optional(cancel: *const umrt_cancel) -> Option<Cancel> {
    // SAFETY: the caller's contract.
    unsafe { handle::borrow_optional(cancel) }.map(|cancel| cancel.0.clone())
}
