//! Every operation on sequences works for every kind of cache; `recurrent` has what
//! is left of them where layers have states.

use std::sync::Arc;

use umrt::error::Status;
use umrt::kv::KvType;
use umrt::mlx::CpuOps;
use umrt::runtime::{Context, ContextOptions, Model};

use crate::common::random_family::{Chunked, Form, Latent, RandomFamily};
use crate::common::random_model::RandomModel;
use crate::common::{
    append, assert_identical, context_of, eval, open_with, relative_difference, stop_in_the_middle,
    token_ids,
};

/// A sequence of `tokens` goes on with the same bits after it was trimmed, forked, saved
/// and loaded. Contexts are all the same, with two sequences.
pub fn assert_trimmed_forked_and_saved(context: &dyn Fn() -> Context, tokens: &[i32]) {
    let files = tempfile::tempdir().expect("a directory");
    let path = files.path().join("sequence");
    let next = [5, 6, 7];
    let mut first = context();
    eval(&mut first, tokens);
    first.save(0, &path).expect("a file");
    first.fork(0, 1).expect("a fork");
    let expected = eval(&mut first, &next);
    first.trim(0, tokens.len()).expect("fewer tokens");
    assert!(eval(&mut first, &next) == expected, "trimmed");
    first.trim(0, 0).expect("none");
    first.fork(1, 0).expect("a fork");
    assert!(eval(&mut first, &next) == expected, "forked");
    let mut second = context();
    second.load(0, &path).expect("a sequence");
    assert!(eval(&mut second, &next) == expected, "saved");
}

/// In one layer, keys and values are functions of the token and its position alone, so
/// that a shifted sequence can be compared with one that never had what was removed.
const SHAPE: RandomModel = RandomModel {
    n_layers: 1,
    ..RandomModel::WIDE_HEADS
};

const LATENT: Latent = Latent::SMALL;

/// The text ends in the middle of its fourth chunk.
const CHUNKED: Chunked = Chunked {
    chunk: 90,
    n_experts: 4,
    n_chosen: 2,
    intermediate_size: 64,
};

const Q8: KvType = KvType::Quantized {
    bits: 8,
    group_size: 32,
};

/// A cache, and how far a shifted sequence may be from one that was never shifted.
struct Kind<'a> {
    name: &'a str,
    model: Arc<Model>,
    kv_type: KvType,
    bound: f32,
}

impl Kind<'_> {
    fn context(&self) -> Context {
        let options = ContextOptions {
            n_ctx: 400,
            n_sequences: 2,
            kv_type: self.kv_type,
            prefill_chunk: 64,
            ..ContextOptions::default()
        };
        context_of(&self.model, options)
    }

    /// With `text` in sequence 0.
    fn holding(&self, text: &[i32]) -> Context {
        let mut context = self.context();
        append(&mut context, 0, text);
        context
    }
}

fn for_each_kind(check: impl Fn(&Kind<'_>)) {
    for (name, form) in [
        ("whole", Form::Llama),
        // The text is longer than the window.
        ("window", Form::Gemma2),
        ("chunks", Form::Chunked(CHUNKED)),
        ("latent", Form::Latent(LATENT)),
    ] {
        let directory = RandomFamily { shape: SHAPE, form }.write();
        for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
            let model = open_with(directory.path(), cpu_ops);
            for (kv_type, bound) in [(KvType::Computed, 3e-6), (Q8, 1e-2)] {
                check(&Kind {
                    name: &format!("{name} {cpu_ops:?} {kv_type:?}"),
                    model: model.clone(),
                    kv_type,
                    bound,
                });
            }
        }
    }
}

fn text() -> Vec<i32> {
    token_ids(1, 330, SHAPE.vocab_size)
}

const NEXT: [i32; 2] = [7, 8];

#[test]
fn forks_go_on_as_what_they_are_forks_of() {
    for_each_kind(|kind| {
        let mut context = kind.holding(&text());
        context.fork(0, 1).expect(kind.name);
        let expected = append(&mut context, 0, &NEXT);
        assert_identical(&append(&mut context, 1, &NEXT), &expected);
    });
}

#[test]
fn trimmed_sequences_go_on_as_if_they_had_never_been_longer() {
    for_each_kind(|kind| {
        let expected = append(&mut kind.holding(&text()), 0, &NEXT);
        let mut context = kind.holding(&text());
        append(&mut context, 0, &[1; 40]);
        context.trim(0, text().len()).expect(kind.name);
        assert_identical(&append(&mut context, 0, &NEXT), &expected);
    });
}

#[test]
fn stopped_evaluations_are_rolled_back() {
    for_each_kind(|kind| {
        let text = text();
        let (held, more) = text.split_at(30);
        let expected = append(&mut kind.holding(held), 0, &NEXT);
        let mut context = kind.holding(held);
        stop_in_the_middle(&mut context, more, |context, error| {
            let status = error.status();
            assert_eq!(status, Status::DeadlineExceeded, "{}: {error}", kind.name);
            assert_eq!(context.sequence_tokens(0).expect("tokens"), held);
        });
        assert_identical(&append(&mut context, 0, &NEXT), &expected);
    });
}

#[test]
fn saved_sequences_go_on_in_other_contexts() {
    let files = tempfile::tempdir().expect("a directory");
    let path = files.path().join("sequence");
    for_each_kind(|kind| {
        let mut context = kind.holding(&text());
        context.save(0, &path).expect(kind.name);
        let expected = append(&mut context, 0, &NEXT);
        let mut other = kind.context();
        other.load(1, &path).expect(kind.name);
        assert_identical(&append(&mut other, 1, &NEXT), &expected);
    });
}

#[test]
fn shifted_sequences_go_on_as_if_what_was_removed_had_never_been_there() {
    for_each_kind(|kind| {
        let text = text();
        let mut context = kind.holding(&text);
        context.shift(0, 10, 200).expect(kind.name);
        let rest = [&text[..10], &text[210..]].concat();
        let expected = append(&mut kind.holding(&rest), 0, &NEXT);
        let found = append(&mut context, 0, &NEXT);
        let difference = relative_difference(&found, &expected);
        assert!(difference < kind.bound, "{}: {difference:.1e}", kind.name);
    });
}
