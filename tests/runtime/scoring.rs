//! Log-probabilities are those that the logits give, and computing them leaves nothing
//! behind.

use umrt::error::Status;
use umrt::runtime::{Cancel, Context, ContextOptions, score, top_logprobs};

use crate::common::{
    assert_fails, assert_identical, context, context_of, eval, eval_all, open_fixture, rows,
    token_ids,
};

const VOCAB_SIZE: usize = 128;

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().fold(f64::MIN, |a, b| a.max(f64::from(*b)));
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - largest).exp()).sum();
    let log_sum = largest + sum.ln();
    logits.iter().map(|x| f64::from(*x) - log_sum).collect()
}

/// From all logits of the prompt and the continuation.
fn expected_scores(name: &str, prompt: &[i32], continuation: &[i32]) -> Vec<f64> {
    let all = [prompt, continuation].concat();
    let logits = eval_all(&mut context(&open_fixture(name)), &all);
    let rows = logits.chunks_exact(VOCAB_SIZE).skip(prompt.len() - 1);
    rows.zip(continuation)
        .map(|(row, token)| log_softmax(row)[*token as usize])
        .collect()
}

fn chunked(name: &str, prefill_chunk: usize) -> Context {
    let options = ContextOptions {
        prefill_chunk,
        ..ContextOptions::default()
    };
    context_of(&open_fixture(name), options)
}

#[test]
fn scores_are_the_log_softmax_of_the_logits() {
    let prompt = token_ids(1, 11, VOCAB_SIZE);
    let continuations = [1, 2, 40].map(|n| token_ids(n as u64, n, VOCAB_SIZE));
    let slices: Vec<&[i32]> = continuations.iter().map(Vec::as_slice).collect();
    for name in ["llama3-f32", "qwen3-f32", "mistral-window-f32"] {
        let expected = slices
            .iter()
            .flat_map(|one| expected_scores(name, &prompt, one));
        let expected: Vec<f64> = expected.collect();
        for prefill_chunk in [512, 3, 1] {
            let mut context = chunked(name, prefill_chunk);
            let found = score(&mut context, 0, &prompt, &slices, None).expect("scores");
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                let difference = (f64::from(*found) - expected).abs();
                assert!(difference < 1e-4, "{name}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn what_the_sequence_holds_comes_in_front_and_stays() {
    let all = token_ids(1, 12, VOCAB_SIZE);
    let continuation = token_ids(2, 5, VOCAB_SIZE);
    let mut context = context(&open_fixture("llama3-f32"));
    let before = eval(&mut context, &all[..8]);
    let found = score(&mut context, 0, &all[8..], &[&continuation], None).expect("scores");
    let expected = expected_scores("llama3-f32", &all, &continuation);
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-4);
    }
    assert_eq!(context.sequence_tokens(0).expect("tokens"), all[..8]);
    assert_identical(&rows(&context), &before);
}

#[test]
fn what_cannot_be_scored_is_refused_and_leaves_nothing() {
    let options = ContextOptions {
        n_ctx: 16,
        ..ContextOptions::default()
    };
    let mut context = context_of(&open_fixture("llama3-f32"), options);
    let mut fails = |prompt: &[i32], continuations: &[&[i32]], status, parts: &[&str]| {
        let result = score(&mut context, 0, prompt, continuations, None);
        assert_fails(result, status, parts);
        assert_eq!(context.sequence_length(0).expect("a length"), 0);
    };
    let bad = Status::InvalidArgument;
    fails(&[], &[&[1]], bad, &["prompt has no tokens"]);
    fails(&[1], &[], bad, &["no continuation"]);
    fails(&[1], &[&[1], &[]], bad, &["continuation 1", "no tokens"]);
    fails(&[1], &[&[1], &[128]], bad, &["continuation 1", "128"]);
    fails(&[-1], &[&[1]], bad, &["token id -1"]);
    let long = [&[1][..], &[1; 14], &[1; 15]];
    fails(
        &[1, 2, 3],
        &long,
        Status::NoSpace,
        &["continuation 2", "17 tokens", "16"],
    );
    score(&mut context, 0, &[1, 2, 3], &long[..2], None).expect("just fits");
    let cancel = Cancel::new();
    cancel.trigger();
    let result = score(&mut context, 0, &[1, 2], &[&[1]], Some(&cancel));
    assert_fails(result, Status::Cancelled, &[]);
    assert_eq!(context.sequence_length(0).expect("a length"), 0);
    assert_fails(
        score(&mut context, 1, &[1], &[&[1]], None),
        bad,
        &["sequence 1"],
    );
}

#[test]
fn the_most_likely_tokens_come_first_with_their_log_probabilities() {
    let mut context = context(&open_fixture("llama3-f32"));
    let logits = eval(&mut context, &[1, 2, 3]);
    let mut expected: Vec<(usize, f64)> = log_softmax(&logits).into_iter().enumerate().collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));
    for k in [1, 5, VOCAB_SIZE] {
        let found = top_logprobs(&context, 0, k).expect("tokens");
        assert_eq!(found.len(), k);
        for ((token, logprob), expected) in found.iter().zip(&expected) {
            assert_eq!(*token as usize, expected.0);
            assert!((f64::from(*logprob) - expected.1).abs() < 1e-5);
        }
    }
    for k in [0, VOCAB_SIZE + 1] {
        let result = top_logprobs(&context, 0, k);
        assert_fails(result, Status::InvalidArgument, &["from 1 to 128"]);
    }
    let result = top_logprobs(&context, 1, 1);
    assert_fails(result, Status::InvalidArgument, &["row 1"]);
}
