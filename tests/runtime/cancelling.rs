//! A cancelled call leaves everything as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use umrt::error::Status;
use umrt::runtime::{Batch, Cancel, Context, ContextOptions, Model, ModelOptions};

use crate::common::random_model::RandomModel;
use crate::common::{
    assert_fails, assert_identical, context, context_of, eval, fixture, is_so_at_last, open,
    open_fixture, rows, token_ids,
};

const PROMPT: [i32; 5] = [3, 1, 4, 1, 5];

#[test]
fn a_call_cancelled_before_it_starts_does_nothing() {
    let model = open_fixture("llama3-f32");
    let mut context = context(&model);
    let before = eval(&mut context, &PROMPT);
    let cancel = Cancel::new();
    cancel.clone().trigger();
    for tokens in [&[9][..], &[9; 100]] {
        let result = context.eval(&Batch::of(tokens), Some(&cancel));
        assert_fails(result, Status::Cancelled, &[]);
        assert_eq!(context.sequence_length(0).expect("a sequence"), 5);
        assert_identical(&rows(&context), &before);
    }
    cancel.reset();
    context
        .eval(&Batch::of(&[9]), Some(&cancel))
        .expect("no longer cancelled");
    assert_eq!(context.sequence_length(0).expect("a sequence"), 6);
}

/// Slow enough that there is a middle to be cancelled in.
fn slow_model() -> RandomModel {
    RandomModel {
        hidden_size: 256,
        intermediate_size: 512,
        n_layers: 8,
        n_heads: 8,
        n_kv_heads: 4,
        head_dim: 32,
        ..RandomModel::default()
    }
}

fn timed(call: impl FnOnce()) -> Duration {
    let began = Instant::now();
    call();
    began.elapsed()
}

fn with_short_prompt(model: &Arc<Model>) -> Context {
    let options = ContextOptions {
        n_ctx: 1024,
        prefill_chunk: 64,
        ..ContextOptions::default()
    };
    let mut context = context_of(model, options);
    eval(&mut context, &PROMPT);
    context
}

#[test]
fn a_prefill_cancelled_from_another_thread_stops_soon_and_leaves_no_trace() {
    let shape = slow_model();
    let directory = shape.write();
    let model = open(directory.path());
    let long = token_ids(1, 640, shape.vocab_size);

    let mut undisturbed = with_short_prompt(&model);
    let expected = eval(&mut undisturbed, &[9]);
    let takes = || timed(|| drop(eval(&mut with_short_prompt(&model), &long)));

    // In the first of ten chunks, and in a later one.
    for part in [40, 5] {
        let mut context = with_short_prompt(&model);
        let before = rows(&context);
        let is_stopped_soon = is_so_at_last(|| {
            let whole = takes();
            let cancel = Cancel::new();
            let mut result = Ok(());
            let elapsed = timed(|| {
                thread::scope(|scope| {
                    scope.spawn(|| {
                        thread::sleep(whole / part);
                        cancel.trigger();
                    });
                    result = context.eval(&Batch::of(&long), Some(&cancel));
                });
            });
            if result.is_ok() {
                context = with_short_prompt(&model);
                return false;
            }
            assert_fails(result, Status::Cancelled, &[]);
            assert_eq!(context.sequence_length(0).expect("a sequence"), 5);
            assert_identical(&rows(&context), &before);
            elapsed < whole * 9 / 10
        });
        assert!(is_stopped_soon);
        assert_identical(&eval(&mut context, &[9]), &expected);
    }
}

#[test]
fn an_evaluation_that_takes_too_long_stops_and_leaves_no_trace() {
    let shape = slow_model();
    let directory = shape.write();
    let model = open(directory.path());
    let long = token_ids(1, 640, shape.vocab_size);
    let mut context = with_short_prompt(&model);
    let before = rows(&context);
    let takes = || timed(|| drop(eval(&mut with_short_prompt(&model), &long)));
    let end = |after| Cancel::new().or_at(Instant::now() + after);

    for part in [0, 1] {
        let is_stopped_soon = is_so_at_last(|| {
            let whole = takes();
            let after = whole * part / 5;
            let mut result = Ok(());
            let elapsed = timed(|| result = context.eval(&Batch::of(&long), Some(&end(after))));
            if result.is_ok() {
                context = with_short_prompt(&model);
                return false;
            }
            assert_fails(result, Status::DeadlineExceeded, &["deadline"]);
            assert_eq!(context.sequence_length(0).expect("a sequence"), 5);
            assert_identical(&rows(&context), &before);
            elapsed < whole * 9 / 10
        });
        assert!(is_stopped_soon);
    }
    let plenty = end(Duration::from_secs(3600));
    let in_time = context.eval(&Batch::of(&[9]), Some(&plenty));
    in_time.expect("there was time");
    let undisturbed = eval(&mut with_short_prompt(&model), &[9]);
    assert_identical(&rows(&context), &undisturbed);
}

#[test]
fn a_flag_that_is_taken_back_at_once_still_stops_the_call_or_does_nothing() {
    let shape = slow_model();
    let directory = shape.write();
    let model = open(directory.path());
    let long = token_ids(1, 128, shape.vocab_size);
    let expected = eval(&mut with_short_prompt(&model), &long);
    let mut context = with_short_prompt(&model);
    let cancel = Cancel::new();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                cancel.trigger();
                cancel.reset();
                thread::sleep(Duration::from_millis(1));
            }
        });
        for _ in 0..20 {
            match context.eval(&Batch::of(&long), Some(&cancel)) {
                Ok(()) => {
                    assert_identical(&rows(&context), &expected);
                    context.trim(0, PROMPT.len()).expect("a sequence");
                }
                Err(error) => assert_eq!(error.status(), Status::Cancelled),
            }
            assert_eq!(context.sequence_length(0).expect("a sequence"), 5);
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn opening_a_model_can_be_cancelled() {
    let cancel = Cancel::new();
    let mut calls = 0;
    let mut progress = |done: usize, total: usize| {
        calls += 1;
        assert!(done <= total);
        if done == 1 {
            cancel.trigger();
        }
    };
    let options = ModelOptions {
        progress: Some(&mut progress),
        cancel: Some(&cancel),
        ..ModelOptions::default()
    };
    let result = Model::open(&fixture("llama3-f32"), options);
    assert_fails(result, Status::Cancelled, &[]);
    assert_eq!(calls, 2, "layers 0 and 1, then no further");
}
