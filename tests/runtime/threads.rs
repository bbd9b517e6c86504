//! One model, many threads.

use std::sync::Arc;
use std::thread;

use umrt::runtime::{Context, Model};

use crate::common::{assert_identical, context, eval, open_fixture, token_ids};

const VOCAB_SIZE: usize = 128;

/// A prompt, then tokens one by one; all logits.
fn conversation(context: &mut Context, seed: u64) -> Vec<f32> {
    let mut logits = eval(context, &token_ids(seed, 40, VOCAB_SIZE));
    for token in token_ids(seed + 1, 20, VOCAB_SIZE) {
        logits.extend(eval(context, &[token]));
    }
    logits
}

fn serial(model: &Arc<Model>, n: u64) -> Vec<Vec<f32>> {
    (0..n)
        .map(|seed| conversation(&mut context(model), seed))
        .collect()
}

#[test]
fn contexts_on_several_threads_at_once_give_what_they_give_one_after_another() {
    for name in ["llama3-f32", "llama-q4-mixed-bf16"] {
        let model = open_fixture(name);
        let expected = serial(&model, 6);
        thread::scope(|scope| {
            for (seed, expected) in (0..).zip(&expected) {
                let model = &model;
                scope.spawn(move || {
                    for _ in 0..3 {
                        let found = conversation(&mut context(model), seed);
                        assert_identical(&found, expected);
                    }
                });
            }
        });
    }
}

#[test]
fn contexts_may_be_made_and_dropped_on_any_thread() {
    let model = open_fixture("llama3-f32");
    let expected = serial(&model, 4);
    thread::scope(|scope| {
        for worker in 0..8 {
            let (model, expected) = (&model, &expected);
            scope.spawn(move || {
                for seed in (0..4).cycle().skip(worker).take(8) {
                    let mut context = context(model);
                    let found = conversation(&mut context, seed);
                    assert_identical(&found, &expected[seed as usize]);
                    // Dropped by yet another thread.
                    thread::spawn(move || drop(context)).join().expect("a drop");
                }
            });
        }
    });
}

#[test]
fn a_context_goes_on_after_it_moved_to_another_thread() {
    let model = open_fixture("llama3-f32");
    let tokens = token_ids(9, 30, VOCAB_SIZE);
    let mut at_home = context(&model);
    let expected: Vec<f32> = tokens
        .chunks(3)
        .flat_map(|part| eval(&mut at_home, part))
        .collect();
    let mut traveller = context(&model);
    let mut found = Vec::new();
    for part in tokens.chunks(3) {
        let part = part.to_vec();
        let journey = thread::spawn(move || {
            let logits = eval(&mut traveller, &part);
            (traveller, logits)
        });
        let (back, logits) = journey.join().expect("an evaluation");
        traveller = back;
        found.extend(logits);
    }
    assert_identical(&found, &expected);
}

#[test]
fn models_may_be_opened_at_the_same_time_and_outlive_their_opener() {
    let openers: Vec<_> = (0..4)
        .map(|_| thread::spawn(|| open_fixture("llama3-f32")))
        .collect();
    let models: Vec<_> = openers
        .into_iter()
        .map(|opener| opener.join().expect("a model"))
        .collect();
    let expected = conversation(&mut context(&models[0]), 1);
    for model in models {
        let mut context = context(&model);
        drop(model);
        assert_identical(&conversation(&mut context, 1), &expected);
    }
}
