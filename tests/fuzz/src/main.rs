//! The targets of `tests/hostile` under libFuzzer, one of them in each process:
//!
//! - `UMRT_FUZZ_TARGET` names it,
//! - `UMRT_FUZZ_SEEDS` is a folder for its seeds, which are written at the start.
//!
//! `cargo xtask fuzz` sets both and compiles with the instrumentation that makes it
//! worth while.

#![no_main]

#[path = "../../hostile/mutate.rs"]
mod mutate;
#[allow(dead_code)] // other tests use more of it
#[path = "../../common/random.rs"]
mod random;
#[path = "../../hostile/targets/mod.rs"]
mod targets;

use std::env;
use std::fs;
use std::panic;
use std::path::PathBuf;
use std::process;
use std::sync::{LazyLock, Mutex, PoisonError};

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use random::Random;
use targets::Target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = env::var("UMRT_FUZZ_TARGET").expect("UMRT_FUZZ_TARGET is set");
    Target::named(&name).expect("UMRT_FUZZ_TARGET names a target")
});

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

fn prepare() {
    // libFuzzer's own hook ends the process, but panics of the tokenizers crate are
    // caught and become errors.
    panic::set_hook(Box::new(|info| {
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
    if let Some(folder) = env::var_os("UMRT_FUZZ_SEEDS").map(PathBuf::from) {
        for (number, seed) in (TARGET.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:03}")), seed).expect("a seed is written");
        }
    }
}

fuzz_target!(init: prepare(), |input: &[u8]| {
    if panic::catch_unwind(|| TARGET.read(input)).is_err() {
        let message = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!("{message}");
        process::abort();
    }
});

// One of two mutations is libFuzzer's own, which uses what comparisons have shown.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed.is_multiple_of(2) {
        return fuzzer_mutate(data, size, max_size);
    }
    let changed = mutate::mutate(&data[..size], &mut Random(seed.into()), max_size);
    data[..changed.len()].copy_from_slice(&changed);
    changed.len()
});
