//! The thread that templates are compiled and run on: its stack, how much it may hold and
//! how long it may take.

use std::thread::Builder;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::memory::{Bounded, Bounds, run_bounded};

/// The recursion of templates takes 1 MiB in a debug build; freeing a list takes stack
/// for each list inside of it. A program's threads may have little: 512 KiB on macOS,
/// 128 KiB with musl.
const STACK_BYTES: usize = 16 << 20;

/// What values and instructions may take, and more for each byte of the input. A short
/// list or object takes a hundred times the bytes that it has as JSON.
const MAX_OWN_BYTES: usize = 128 << 20;
const MAX_BYTES_PER_INPUT_BYTE: usize = 256;

/// Steps are counted by the engine, but one that searches a long text takes milliseconds.
const MAX_OWN_TIME: Duration = Duration::from_secs(10);
const MAX_TIME_PER_INPUT_BYTE: Duration = Duration::from_micros(100);

/// What a template took too much of, and how much it may be. It was stopped for good.
#[derive(Clone, Copy, Debug)]
pub enum Excess {
    Bytes(usize),
    Time(Duration),
}

fn bounds(input_bytes: usize) -> Bounds {
    let per_byte = MAX_BYTES_PER_INPUT_BYTE.saturating_mul(input_bytes);
    let n_bytes = u32::try_from(input_bytes).unwrap_or(u32::MAX);
    Bounds {
        bytes: per_byte.saturating_add(MAX_OWN_BYTES),
        time: MAX_OWN_TIME + MAX_TIME_PER_INPUT_BYTE * n_bytes,
    }
}

pub fn run<T: Send + 'static>(
    input_bytes: usize,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<std::result::Result<T, Excess>> {
    let thread = Builder::new().name("umrt-chat".into());
    let thread = thread.stack_size(STACK_BYTES);
    let bounds = bounds(input_bytes);
    let outcome = run_bounded(thread, bounds, call).map_err(|error| {
        Error::out_of_memory(format!(
            "cannot start a thread for the chat template: {error}"
        ))
    })?;
    match outcome {
        Bounded::Done(result) => result.map(Ok),
        Bounded::TooLarge => Ok(Err(Excess::Bytes(bounds.bytes))),
        Bounded::TooLong => Ok(Err(Excess::Time(bounds.time))),
        Bounded::Panicked(panic) => Err(Error::internal(format!(
            "the template engine panicked on this chat template: {panic}"
        ))),
    }
}
