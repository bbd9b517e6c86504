//! The thread that templates are compiled and run on: its stack, and how much it may
//! hold.

use std::thread::Builder;

use crate::error::{Error, Result};
use crate::memory::{Bounded, run_bounded};

/// The recursion of templates takes 1 MiB in a debug build; freeing a list takes stack
/// for each list inside of it. A program's threads may have little: 512 KiB on macOS,
/// 128 KiB with musl.
const STACK_BYTES: usize = 16 << 20;

/// What values and instructions may take, and more for each byte of the input. A short
/// list or object takes a hundred times the bytes that it has as JSON.
const MAX_OWN_BYTES: usize = 128 << 20;
const MAX_BYTES_PER_INPUT_BYTE: usize = 256;

pub fn most_bytes(input_bytes: usize) -> usize {
    let per_byte = MAX_BYTES_PER_INPUT_BYTE.saturating_mul(input_bytes);
    per_byte.saturating_add(MAX_OWN_BYTES)
}

/// `None`: it wanted more than [`most_bytes`] of its input, and was stopped for good.
pub fn run<T: Send + 'static>(
    input_bytes: usize,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<Option<T>> {
    let thread = Builder::new().name("umrt-chat".into());
    let thread = thread.stack_size(STACK_BYTES);
    let outcome = run_bounded(thread, most_bytes(input_bytes), call).map_err(|error| {
        Error::out_of_memory(format!(
            "cannot start a thread for the chat template: {error}"
        ))
    })?;
    match outcome {
        Bounded::Done(result) => result.map(Some),
        Bounded::Stopped => Ok(None),
        Bounded::Panicked => Err(Error::internal(
            "the template engine panicked on this chat template",
        )),
    }
}
