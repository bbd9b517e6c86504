//! Panics that are caught. The process's panic hook does not see them: the default one
//! writes to stderr, which belongs to the host.

use std::any::Any;
use std::cell::Cell;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
    /// Where in the source the last caught panic was, and how much of that is text. It is
    /// kept without an allocation, since memory may be what is missing.
    static PLACE: Cell<[u8; PLACE_BYTES]> = const { Cell::new([0; PLACE_BYTES]) };
    static PLACE_LEN: Cell<usize> = const { Cell::new(0) };
}

const PLACE_BYTES: usize = 120;

/// Runs `body`. A panic becomes what it says, with its place in the source.
pub fn catch<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    PLACE_LEN.set(0);
    quietly(|| panic::catch_unwind(AssertUnwindSafe(body))).map_err(|panic| {
        let text = text(panic.as_ref());
        match &PLACE.get()[..PLACE_LEN.get()] {
            [] => text.to_owned(),
            place => format!("{text} ({})", String::from_utf8_lossy(place)),
        }
    })
}

/// Runs what catches its own panics, or is called by what does.
pub fn quietly<T>(run: impl FnOnce() -> T) -> T {
    static ONCE: Once = Once::new();
    ONCE.call_once(put_hook_on_top);
    let _quiet = Quiet(IS_QUIET.replace(true));
    run()
}

struct Quiet(bool);

impl Drop for Quiet {
    fn drop(&mut self) {
        IS_QUIET.set(self.0);
    }
}

/// Panics that are not caught keep whatever hook there was.
pub fn put_hook_on_top() {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !IS_QUIET.get() {
            return others(info);
        }
        if let Some(location) = info.location() {
            keep(location);
        }
    }));
}

fn keep(place: &panic::Location<'_>) {
    let mut text = [0; PLACE_BYTES];
    let mut rest = &mut text[..];
    // A path that is too long is cut off.
    let _ = write!(rest, "{place}");
    PLACE_LEN.set(PLACE_BYTES - rest.len());
    PLACE.set(text);
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_says_what_and_where() {
        let caught = catch(|| panic!("the {} fell", "sky")).expect_err("a panic");
        let (text, place) = caught.split_once(" (").expect("a place");
        assert_eq!(text, "the sky fell");
        assert!(place.contains("panics.rs:"), "{caught}");
        assert_eq!(catch(|| 1), Ok(1));
    }

    #[test]
    fn what_was_resumed_has_no_place() {
        let _ = catch(|| panic!("somewhere"));
        let caught = catch(|| panic::resume_unwind(Box::new("again"))).map(|()| 0);
        assert_eq!(caught, Err("again".to_owned()));
        let caught = catch(|| panic::resume_unwind(Box::new(7))).map(|()| 0);
        assert_eq!(caught, Err("a panic without a message".to_owned()));
    }

    #[test]
    fn inner_calls_leave_the_outer_one_quiet() {
        assert!(!IS_QUIET.get());
        let caught = catch(|| {
            let _ = catch(|| panic!("inside"));
            assert!(IS_QUIET.get());
            panic!("outside")
        });
        assert!(caught.expect_err("a panic").starts_with("outside"));
        assert!(!IS_QUIET.get());
    }
}
