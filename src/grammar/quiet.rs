//! llguidance turns its own panics into errors, for which it takes the process's panic
//! hook and captures where each happened. That reads debugging information under a lock
//! of the process, which a thread with bounded memory must not hold.

use std::sync::Once;

use llguidance::panic_utils::catch_unwind;

use crate::panics;

/// Runs code of llguidance. Where it panics, no hook but ours sees it.
pub fn quietly<T>(run: impl FnOnce() -> T) -> T {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Its first call is what sets its hook.
        let set = catch_unwind(|| Ok(()));
        debug_assert!(set.is_ok());
        panics::put_hook_on_top();
    });
    panics::quietly(run)
}
