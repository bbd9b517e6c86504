//! llguidance turns its own panics into errors, for which it takes the process's panic
//! hook and captures where each happened. That reads debugging information under a lock
//! of the process, which a thread with bounded memory must not hold.

use std::cell::Cell;
use std::panic;
use std::sync::Once;

use llguidance::panic_utils::catch_unwind;

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs code of llguidance. Where it panics, no hook sees it.
pub fn quietly<T>(run: impl FnOnce() -> T) -> T {
    static ONCE: Once = Once::new();
    ONCE.call_once(take_hook_back);
    let _quiet = Quiet(IS_QUIET.replace(true));
    run()
}

struct Quiet(bool);

impl Drop for Quiet {
    fn drop(&mut self) {
        IS_QUIET.set(self.0);
    }
}

fn take_hook_back() {
    // Its first call is what sets its hook.
    let set = catch_unwind(|| Ok(()));
    debug_assert!(set.is_ok());
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !IS_QUIET.get() {
            others(info);
        }
    }));
}
