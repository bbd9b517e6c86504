//! Vectors of texts are those of transformers, however they are computed, and leave
//! nothing behind.

use std::fs;
use std::path::Path;

use serde_json::Value;
use umrt::error::Status;
use umrt::mlx::CpuOps;
use umrt::runtime::{Cancel, Context, ContextOptions, EmbedOptions, Pooling, embed};

use crate::common::{
    assert_close, assert_fails, assert_identical, context, context_of, eval, fixture, open_fixture,
    open_with, rows, token_ids,
};

const MEAN: EmbedOptions = EmbedOptions {
    pooling: Pooling::Mean,
    normalize: false,
};

struct Expected(Value);

impl Expected {
    fn all() -> Vec<Expected> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/embeddings");
        let files = fs::read_dir(root).expect("the fixtures");
        let read = |path| serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON");
        let all: Vec<_> = files
            .map(|file| Expected(read(file.expect("a file").path())))
            .collect();
        assert!(all.len() >= 4);
        all
    }

    fn model(&self) -> &str {
        self.0["model"].as_str().expect("a name")
    }

    fn texts(&self) -> Vec<Vec<i32>> {
        serde_json::from_value(self.0["texts"].clone()).expect("token ids")
    }

    fn vectors(&self, pooling: &str) -> Vec<f32> {
        let rows: Vec<Vec<f32>> = serde_json::from_value(self.0[pooling].clone()).expect(pooling);
        rows.concat()
    }
}

fn slices(texts: &[Vec<i32>]) -> Vec<&[i32]> {
    texts.iter().map(Vec::as_slice).collect()
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let difference = (found - expected).abs() / largest;
        assert!(difference < 1e-5, "{what}: {found} for {expected}");
    }
}

#[test]
fn vectors_are_the_pooled_hidden_states_of_transformers() {
    let poolings = [
        (Pooling::Mean, "mean"),
        (Pooling::Last, "last"),
        (Pooling::First, "first"),
    ];
    for expected in Expected::all() {
        let texts = expected.texts();
        for (cpu_ops, n_sequences, prefill_chunk) in [
            (CpuOps::Kernels, 1, 512),
            (CpuOps::Kernels, 2, 7),
            (CpuOps::Kernels, 4, 512),
            (CpuOps::Stock, 2, 7),
        ] {
            let model = open_with(&fixture(expected.model()), cpu_ops);
            let options = ContextOptions {
                n_sequences,
                prefill_chunk,
                ..ContextOptions::default()
            };
            let mut context = context_of(&model, options);
            for (pooling, name) in poolings {
                let options = EmbedOptions { pooling, ..MEAN };
                let found = embed(&mut context, &slices(&texts), &options, None).expect("vectors");
                let what = format!("{} {name} {cpu_ops:?}", expected.model());
                assert_near(&found, &expected.vectors(name), &what);
            }
        }
    }
}

#[test]
fn normalized_vectors_have_length_one_and_the_same_direction() {
    let mut context = context(&open_fixture("llama3-f32"));
    let text = token_ids(1, 20, 128);
    let plain = embed(&mut context, &[&text], &MEAN, None).expect("a vector");
    let options = EmbedOptions {
        normalize: true,
        ..MEAN
    };
    let unit = embed(&mut context, &[&text], &options, None).expect("a vector");
    let length = plain.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((unit.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    let scaled: Vec<f32> = unit.iter().map(|x| x * length).collect();
    assert_close(&scaled, &plain);
}

fn two_sequences() -> Context {
    let options = ContextOptions {
        n_sequences: 2,
        n_ctx: 32,
        ..ContextOptions::default()
    };
    context_of(&open_fixture("llama3-f32"), options)
}

#[test]
fn sequences_with_tokens_and_logits_stay_as_they_are() {
    let mut context = two_sequences();
    let before = eval(&mut context, &[1, 2, 3]);
    let texts = [
        token_ids(1, 9, 128),
        token_ids(2, 30, 128),
        token_ids(3, 4, 128),
    ];
    let found = embed(&mut context, &slices(&texts), &MEAN, None).expect("vectors");
    assert_eq!(found.len(), 3 * 64);
    assert_identical(&rows(&context), &before);
    assert_eq!(context.sequence_tokens(0).expect("tokens"), [1, 2, 3]);
    assert_eq!(context.sequence_length(1).expect("a length"), 0);
    assert!(
        embed(&mut context, &[], &MEAN, None)
            .expect("none")
            .is_empty()
    );
}

#[test]
fn what_cannot_be_embedded_is_refused_and_leaves_nothing() {
    let mut context = two_sequences();
    let (short, long) = (token_ids(1, 9, 128), token_ids(2, 33, 128));
    let result = embed(&mut context, &[&short, &[]], &MEAN, None);
    assert_fails(result, Status::InvalidArgument, &["text 1", "no tokens"]);
    let result = embed(&mut context, &[&short, &[128]], &MEAN, None);
    assert_fails(result, Status::InvalidArgument, &["text 1", "token id 128"]);
    let result = embed(&mut context, &[&short, &long], &MEAN, None);
    assert_fails(result, Status::NoSpace, &["text 1", "33 tokens", "32"]);
    let cancel = Cancel::new();
    cancel.trigger();
    let result = embed(&mut context, &[&short], &MEAN, Some(&cancel));
    assert_fails(result, Status::Cancelled, &[]);
    for sequence in [0, 1] {
        assert_eq!(context.sequence_length(sequence).expect("a length"), 0);
    }
    eval(&mut context, &[1]);
    context.fork(0, 1).expect("a fork");
    let result = embed(&mut context, &[&short], &MEAN, None);
    assert_fails(
        result,
        Status::NoSpace,
        &["a sequence without tokens", "n_seq"],
    );
}
