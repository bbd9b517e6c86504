//! Handles: reference-counted objects behind opaque pointers. Children hold
//! references to their parents, so any order of freeing works; a call holds one
//! to its handle, so freeing a handle in use takes effect when the call ends.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use crate::error::{Error, Result, Status};
use crate::host;

/// Gives `object` to the caller through `out`.
///
/// # Safety
/// `out` is null or points to a writable pointer.
pub(super) unsafe fn give<T>(out: *mut *mut T, object: impl FnOnce() -> Result<T>) -> Result<()> {
    if out.is_null() {
        return Err(Error::invalid(
            "the pointer that receives the handle is NULL",
        ));
    }
    // SAFETY: not null; writable by the caller's contract.
    unsafe {
        out.write(std::ptr::null_mut());
        out.write(Arc::into_raw(Arc::new(object()?)).cast_mut());
    }
    Ok(())
}

/// A reference to the object behind a handle, for the length of a call.
///
/// # Safety
/// `handle` is null or came from `give` and was not freed.
pub(super) unsafe fn borrow<T>(handle: *const T, name: &str) -> Result<Arc<T>> {
    // SAFETY: the caller's contract.
    unsafe { borrow_optional(handle) }
        .ok_or_else(|| Error::invalid(format!("the {name} handle is NULL")))
}

/// As `borrow`; a null handle is `None`.
///
/// # Safety
/// As for `borrow`.
pub(super) unsafe fn borrow_optional<T>(handle: *const T) -> Option<Arc<T>> {
    if handle.is_null() {
        return None;
    }
    // SAFETY: the pointer came from `Arc::into_raw` and the caller's reference
    // is alive; this makes another one.
    unsafe {
        Arc::increment_strong_count(handle);
        Some(Arc::from_raw(handle))
    }
}

/// Takes back the caller's reference. Null is fine. In a forked child the object
/// stays: to take it apart could wait for a lock that a thread of the parent held,
/// and its memory is a copy that goes with the child.
///
/// # Safety
/// As for `borrow`; the handle is not used again.
pub(super) unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() && !host::forked() {
        // SAFETY: the reference that `give` handed out.
        drop(unsafe { Arc::from_raw(handle.cast_const()) });
    }
}

/// Locks an object that takes one call at a time.
pub(super) fn one_call<'a, T>(object: &'a Mutex<T>, name: &str) -> Result<MutexGuard<'a, T>> {
    match object.try_lock() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::WouldBlock) => {
            // The other call may have been one of the parent's, at the fork.
            host::ensure_not_forked()?;
            Err(Error::busy(format!(
                "another call is using this {name}; wait for it, or make one {name} per thread"
            )))
        }
        Err(TryLockError::Poisoned(_)) => Err(Error::new(
            Status::Panic,
            format!("an earlier call on this {name} failed with a bug; free it"),
        )),
    }
}
