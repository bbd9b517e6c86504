//! Sequences that lose tokens: by hand, or to make room.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use umrt::error::Status;
use umrt::kv::KvType;
use umrt::mlx::CpuOps;
use umrt::runtime::{Context, ContextOptions, Model, Overflow};

use crate::common::random_family::{Form, Latent, RandomFamily, Shared};
use crate::common::random_model::{RandomModel, write_random};
use crate::common::{
    append, assert_fails, assert_identical, context_of, open_with, relative_difference, token_ids,
};

/// In one layer, keys and values are functions of the token and its position alone.
const SHAPE: RandomModel = RandomModel {
    n_layers: 1,
    ..RandomModel::WIDE_HEADS
};

/// Every way to rotate, by what is different in the configuration.
fn rotations() -> Vec<(&'static str, Value)> {
    let scaled = |scaling: Value| json!({ "rope_scaling": scaling });
    vec![
        ("halves", json!({})),
        ("neighbours", json!({ "rope_interleave": true })),
        ("a part", json!({ "partial_rotary_factor": 0.5 })),
        (
            "linear",
            scaled(json!({ "rope_type": "linear", "factor": 4.0 })),
        ),
        (
            "llama3",
            scaled(json!({
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
            })),
        ),
        (
            "yarn",
            scaled(json!({
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256,
            })),
        ),
        (
            "longrope",
            scaled(json!({
                "rope_type": "longrope", "original_max_position_embeddings": 256,
                "short_factor": vec![1.0; 32], "long_factor": vec![3.0; 32],
            })),
        ),
        (
            "none",
            json!({ "model_type": "smollm3", "no_rope_layers": [0] }),
        ),
    ]
}

fn checkpoint(changes: &Value) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = SHAPE.config();
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    write_random(directory.path(), &config, &SHAPE.shapes(), SHAPE.dtype);
    directory
}

fn tokens(seed: u64, n: usize) -> Vec<i32> {
    token_ids(seed, n, SHAPE.vocab_size)
}

fn with(model: &Arc<Model>, n_ctx: usize, overflow: Overflow) -> Context {
    let options = ContextOptions {
        n_ctx,
        n_sequences: 2,
        overflow,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

#[test]
fn shifted_keys_are_those_of_their_new_positions() {
    for (name, changes) in rotations() {
        let directory = checkpoint(&changes);
        // How keys turn does not depend on where they are.
        let n_spans = if name == "halves" { SPANS.len() } else { 1 };
        check_shifts(name, directory.path(), &SPANS[..n_spans]);
    }
}

#[test]
fn latent_keys_turn_in_their_rotated_part() {
    let latent = Latent {
        query_rank: None,
        rank: 96,
        plain_dim: 24,
        rotated_dim: 32,
        value_dim: 20,
    };
    let family = RandomFamily {
        shape: SHAPE,
        form: Form::Latent(latent),
    };
    check_shifts("latent", family.write().path(), &SPANS);
}

/// Of two layers the second one sees the keys of the first.
#[test]
fn shared_keys_turn_once() {
    let family = RandomFamily {
        shape: RandomModel {
            n_layers: 2,
            ..SHAPE
        },
        form: Form::Shared(Shared {
            n_shared: 1,
            columns: 16,
            long_head_dim: 64,
        }),
    };
    check_shifts("shared", family.write().path(), &SPANS);
}

/// Where tokens are removed, and how many.
const SPANS: [(usize, usize); 4] = [(4, 300), (256, 20), (0, 1), (329, 1)];

/// Whether a sequence goes on as if the removed tokens had never been there, and its fork
/// as if they still were.
fn check_shifts(name: &str, directory: &Path, spans: &[(usize, usize)]) {
    let text = tokens(1, 330);
    for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
        let model = open_with(directory, cpu_ops);
        let anew = |tokens: &[i32]| {
            let all = [tokens, &[7, 8]].concat();
            append(&mut with(&model, 400, Overflow::Refuse), 0, &all)
        };
        for &(from, drop) in spans {
            let mut context = with(&model, 400, Overflow::Refuse);
            append(&mut context, 0, &text);
            context.fork(0, 1).expect("a fork");
            context.shift(0, from, drop).expect("a shift");
            let rest = [&text[..from], &text[from + drop..]].concat();
            assert_eq!(context.sequence_tokens(0).expect("tokens"), rest);
            for (sequence, tokens) in [(0, &rest), (1, &text)] {
                let found = append(&mut context, sequence, &[7, 8]);
                let difference = relative_difference(&found, &anew(tokens));
                assert!(
                    difference < 3e-6,
                    "{name} {cpu_ops:?} {from} {drop} {sequence}: {difference:.1e}"
                );
            }
        }
    }
}

#[test]
fn fewer_bits_are_rounded_once_more() {
    let directory = checkpoint(&json!({}));
    let q = |bits| KvType::Quantized {
        bits,
        group_size: 64,
    };
    let bounds = [
        (KvType::F16, 3e-4),
        (KvType::Bf16, 3e-3),
        (q(8), 1e-2),
        (q(4), 2e-1),
    ];
    for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
        let model = open_with(directory.path(), cpu_ops);
        for (kv_type, bound) in bounds {
            let options = ContextOptions {
                n_ctx: 400,
                kv_type,
                ..ContextOptions::default()
            };
            let text = tokens(2, 300);
            let mut context = context_of(&model, options);
            append(&mut context, 0, &text);
            context.shift(0, 10, 200).expect("a shift");
            let rest = [&text[..10], &text[210..], &[5]].concat();
            let found = append(&mut context, 0, &[5]);
            let expected = append(&mut context_of(&model, options), 0, &rest);
            let difference = relative_difference(&found, &expected);
            println!("{kv_type:?} {cpu_ops:?}: {difference:.1e}");
            assert!(
                difference < bound,
                "{kv_type:?} {cpu_ops:?}: {difference:.1e}"
            );
        }
    }
}

#[test]
fn a_full_sequence_loses_its_oldest_tokens_but_for_the_first() {
    let directory = checkpoint(&json!({}));
    for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
        let model = open_with(directory.path(), cpu_ops);
        let shifting = Overflow::Shift { n_keep: 4 };
        let mut context = with(&model, 300, shifting);
        let text = tokens(3, 310);
        append(&mut context, 0, &text[..300]);
        append(&mut context, 0, &text[300..301]);
        let held = [&text[..4], &text[4 + 148..301]].concat();
        assert_eq!(context.sequence_tokens(0).expect("tokens"), held);
        assert_eq!(context.perf().n_removed_tokens, 148);
        let mut by_hand = with(&model, 300, Overflow::Refuse);
        append(&mut by_hand, 0, &text[..300]);
        assert_fails(
            by_hand.eval(&umrt::runtime::Batch::of(&text[..1]), None),
            Status::NoSpace,
            &["do not fit"],
        );
        by_hand.shift(0, 4, 148).expect("a shift");
        append(&mut by_hand, 0, &text[300..301]);
        let found = append(&mut context, 0, &text[301..]);
        assert_identical(&found, &append(&mut by_hand, 0, &text[301..]));
        let refused = context.eval(&umrt::runtime::Batch::of(&tokens(4, 297)), None);
        assert_fails(refused, Status::NoSpace, &["297 more do not fit"]);
        append(&mut context, 0, &tokens(4, 296));
        assert_eq!(context.sequence_length(0).expect("a sequence"), 300);
    }
}

#[test]
fn what_is_not_there_cannot_be_removed() {
    let directory = checkpoint(&json!({}));
    let model = open_with(directory.path(), CpuOps::Kernels);
    let mut context = with(&model, 300, Overflow::Refuse);
    append(&mut context, 0, &tokens(1, 10));
    for (from, drop) in [(0, 11), (10, 1), (usize::MAX, 1), (5, usize::MAX)] {
        let result = context.shift(0, from, drop);
        assert_fails(result, Status::InvalidArgument, &["holds 10 tokens"]);
    }
    context.shift(0, 0, 10).expect("all of them");
    assert_eq!(context.memory().kv_reserved, 0);
    let options = ContextOptions {
        n_ctx: 300,
        overflow: Overflow::Shift { n_keep: 300 },
        ..ContextOptions::default()
    };
    assert_fails(
        Context::new(&model, &options),
        Status::InvalidArgument,
        &["n_keep is 300"],
    );
}
