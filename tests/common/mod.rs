//! What the tests of the runtime share.
//!
//! - here: opening, evaluating and comparing
//! - `random_model`, `random_family`, `random_gemma`, `random_memories`: checkpoints of any
//!   shape
//! - `damaged`: copies of fixtures with something wrong in them
//! - `random`: numbers by a seed
//! - `process`: figures of this process, and tests in processes of their own

#![allow(dead_code)] // each test binary uses a part

pub mod damaged;
pub mod process;
pub mod random;
pub mod random_family;
pub mod random_gemma;
pub mod random_memories;
pub mod random_model;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use random::Random;
use umrt::error::{Error, Result, Status};
use umrt::mlx::CpuOps;
use umrt::runtime::{Batch, Cancel, Context, ContextOptions, Model, ModelOptions, Want};

/// The largest difference between float32 logits that were summed in another
/// order, relative to their range.
pub const SUMMATION_BOUND: f32 = 2e-6;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/models")
        .join(name)
}

pub fn try_open(path: &Path) -> Result<Arc<Model>> {
    Model::open(path, ModelOptions::default())
}

pub fn open(path: &Path) -> Arc<Model> {
    try_open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn open_with(path: &Path, cpu_ops: CpuOps) -> Arc<Model> {
    let options = ModelOptions {
        cpu_ops,
        ..ModelOptions::default()
    };
    Model::open(path, options).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn open_fixture(name: &str) -> Arc<Model> {
    open(&fixture(name))
}

pub fn context_of(model: &Arc<Model>, options: ContextOptions) -> Context {
    Context::new(model, &options).expect("a context")
}

pub fn context(model: &Arc<Model>) -> Context {
    context_of(model, ContextOptions::default())
}

/// All rows that the last evaluation left, after one another.
pub fn rows(context: &Context) -> Vec<f32> {
    let row = |row| context.logits(row).expect("logits").iter().copied();
    (0..context.n_logits_rows()).flat_map(row).collect()
}

/// Appends to sequence 0; logits after the last token.
pub fn eval(context: &mut Context, tokens: &[i32]) -> Vec<f32> {
    context
        .eval(&Batch::of(tokens), None)
        .expect("an evaluation");
    rows(context)
}

/// Evaluates `tokens` behind what sequence 0 holds until a call was stopped in the middle:
/// some of its steps were done, and not all. How long that takes differs by machine and
/// moment, so that times are tried.
pub fn stop_in_the_middle(
    context: &mut Context,
    tokens: &[i32],
    mut stopped: impl FnMut(&mut Context, Error),
) {
    let n_before = context.sequence_length(0).expect("a sequence");
    let mut after = Duration::from_millis(4);
    let is_in_the_middle = (0..1000).any(|_| {
        let n_done = context.perf().n_prefill_tokens;
        let cancel = Cancel::new().or_at(Instant::now() + after);
        match context.eval(&Batch::of(tokens), Some(&cancel)) {
            Ok(()) => {
                context.trim(0, n_before).expect("what was there");
                after /= 2;
                false
            }
            Err(error) => {
                stopped(context, error);
                after = after * 3 / 2;
                context.perf().n_prefill_tokens > n_done
            }
        }
    });
    assert!(is_in_the_middle);
}

/// Tries until it succeeds: on a busy machine anything can take long now and then.
pub fn is_so_at_last(mut attempt: impl FnMut() -> bool) -> bool {
    (0..100).any(|_| attempt())
}

/// Appends tokens to one of several sequences and gives the logits of the last.
pub fn append(context: &mut Context, sequence: i32, tokens: &[i32]) -> Vec<f32> {
    let batch = Batch {
        sequences: Some(&vec![sequence; tokens.len()]),
        ..Batch::of(tokens)
    };
    context.eval(&batch, None).expect("an evaluation");
    rows(context)
}

/// Appends to sequence 0; logits after every token.
pub fn eval_all(context: &mut Context, tokens: &[i32]) -> Vec<f32> {
    let marks = vec![1; tokens.len()];
    let batch = Batch {
        want: Want::Marked(&marks),
        ..Batch::of(tokens)
    };
    context.eval(&batch, None).expect("an evaluation");
    rows(context)
}

/// `n` token ids below `vocab_size`, the same for the same seed.
pub fn token_ids(seed: u64, n: usize, vocab_size: usize) -> Vec<i32> {
    let mut random = Random(seed);
    (0..n)
        .map(|_| (random.next() % vocab_size as u64) as i32)
        .collect()
}

/// The largest difference relative to the range of what was expected.
pub fn relative_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "another number of logits");
    let (low, high) = expected
        .iter()
        .fold((f32::MAX, f32::MIN), |(low, high), &value| {
            (low.min(value), high.max(value))
        });
    assert!(high > low, "logits without contrast prove nothing");
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    assert!(found.iter().all(|value| value.is_finite()));
    differences.fold(0.0, f32::max) / (high - low)
}

/// Equal but for the order of summation.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f32]) {
    let difference = relative_difference(found, expected);
    assert!(difference <= SUMMATION_BOUND, "differ by {difference:.1e}");
}

/// Equal in every bit.
#[track_caller]
pub fn assert_identical(found: &[f32], expected: &[f32]) {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let difference = relative_difference(found, expected);
    assert!(
        bits(found) == bits(expected),
        "differ by {difference:.1e}, not at all was expected"
    );
}

#[track_caller]
pub fn assert_fails<T>(result: Result<T>, status: Status, parts: &[&str]) -> Error {
    let error = result.err().expect("an error");
    assert_eq!(error.status(), status, "{error}");
    for part in parts {
        assert!(error.message().contains(part), "no {part:?} in: {error}");
    }
    error
}
