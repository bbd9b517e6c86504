//! Estimates from headers: right, at once, and without reading weights.

#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use common::process::{anonymous_bytes, isolated};
use common::{fixture, is_so_at_last, open};
use serde_json::{Map, json};
use tempfile::TempDir;
use umrt::memory::Share;
use umrt::mlx::memory_use;
use umrt::runtime::{
    Batch, Context, ContextOptions, MemoryEstimate, Model, ModelOptions, budget_info, estimate,
    set_budget,
};

const GIB: usize = 1 << 30;

fn estimate_of(path: &Path, context: ContextOptions) -> MemoryEstimate {
    estimate(path, &ModelOptions::default(), &context).expect("headers")
}

fn with_n_ctx(n_ctx: usize) -> ContextOptions {
    ContextOptions {
        n_ctx,
        ..ContextOptions::default()
    }
}

/// A Llama 3 70B in bfloat16: 141 GB of holes, which take no space on disk.
fn seventy_billion() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let config = json!({
        "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
        "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
    });
    fs::write(directory.path().join("config.json"), config.to_string()).expect("config.json");
    let (hidden, inner, keys) = (8192, 28672, 1024);
    let per_layer = [
        ("input_layernorm", vec![hidden]),
        ("self_attn.q_proj", vec![hidden, hidden]),
        ("self_attn.k_proj", vec![keys, hidden]),
        ("self_attn.v_proj", vec![keys, hidden]),
        ("self_attn.o_proj", vec![hidden, hidden]),
        ("post_attention_layernorm", vec![hidden]),
        ("mlp.gate_proj", vec![inner, hidden]),
        ("mlp.up_proj", vec![inner, hidden]),
        ("mlp.down_proj", vec![hidden, inner]),
    ];
    let mut shapes = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![128_256, hidden],
        ),
        ("lm_head.weight".to_owned(), vec![128_256, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..80 {
        for (module, shape) in &per_layer {
            shapes.push((
                format!("model.layers.{layer}.{module}.weight"),
                shape.clone(),
            ));
        }
    }
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in shapes {
        let bytes = 2 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes]});
        header.insert(name, entry);
        end += bytes;
    }
    let text = serde_json::to_vec(&header).expect("a header");
    let mut file = File::create(directory.path().join("model.safetensors")).expect("a file");
    file.write_all(&(text.len() as u64).to_le_bytes())
        .expect("a length");
    file.write_all(&text).expect("a header");
    file.set_len((8 + text.len() + end) as u64)
        .expect("a length");
    directory
}

#[test]
fn a_large_model_is_estimated_at_once_from_its_headers() {
    isolated(
        "a_large_model_is_estimated_at_once_from_its_headers",
        || {
            let directory = seventy_billion();
            estimate_of(&fixture("llama3-f32"), ContextOptions::default());
            let anonymous = anonymous_bytes();
            let limit = if cfg!(debug_assertions) { 100 } else { 10 };
            let is_at_once = is_so_at_last(|| {
                let began = Instant::now();
                let found = estimate_of(directory.path(), with_n_ctx(32_768));
                let elapsed = began.elapsed();
                assert_eq!(found.weights.bfloat16, 2 * 70_553_706_496);
                assert_eq!(found.context.kv, 10 * GIB);
                assert_eq!(found.model.mapped, found.weights.bfloat16);
                assert_eq!(found.model.copied, 0);
                println!("estimated in {elapsed:?}");
                elapsed < Duration::from_millis(limit)
            });
            assert!(is_at_once, "not in {limit} ms");
            assert!(anonymous_bytes() < anonymous + (8 << 20));
        },
    );
}

#[test]
fn latent_attention_caches_one_vector_for_all_heads() {
    // A vector of 24 values and 8 that are rotated, in each of two layers.
    let per_token = 2 * (24 + 8) * size_of::<f32>();
    for name in ["deepseek-v2-f32", "deepseek-v3-f32", "youtu-f32"] {
        let found = estimate_of(&fixture(name), with_n_ctx(512));
        assert_eq!(found.kv_bytes_per_token, per_token, "{name}");
        assert_eq!(found.context.kv, 512 * per_token, "{name}");
    }
}

#[test]
fn learned_positions_bound_the_context() {
    let model = Model::open(&fixture("gpt2-f32"), ModelOptions::default()).expect("a model");
    let made = |n_ctx| Context::new(&model, &with_n_ctx(n_ctx));
    assert!(made(256).is_ok());
    let error = made(257).err().expect("there are no more positions");
    assert!(error.message().contains("learned 256"), "{error}");
}

#[test]
fn what_would_fit_instead_does() {
    isolated("what_would_fit_instead_does", || {
        let directory = seventy_billion();
        let weights = estimate_of(directory.path(), with_n_ctx(1)).model.mapped;
        // No machine of the tests has as much; the share of what it has decides.
        let found = estimate_of(directory.path(), with_n_ctx(8192));
        assert!(found.missing > 0 && found.usable.usable_bytes < weights);
        assert_eq!(found.would_fit.n_ctx, 0);

        let small = fixture("llama3-chat-f16");
        let one = estimate_of(&small, with_n_ctx(4096));
        let without_kv = one.total - one.context.kv;
        let set = |kv_share: f64| {
            let bytes = without_kv + (one.context.kv as f64 * kv_share) as usize;
            set_budget(Some(Share::Bytes(bytes))).expect("a budget");
            estimate_of(&small, with_n_ctx(4096))
        };
        let enough = set(1.0);
        assert_eq!((enough.missing, enough.would_fit.kv_bits), (0, 0));
        let three_quarters = set(0.75);
        assert_eq!(three_quarters.missing, one.context.kv / 4);
        assert_eq!(three_quarters.would_fit.n_sequences, 0);
        // Three quarters of the positions, and more as scratch memory shrinks with them.
        let found = three_quarters.would_fit.n_ctx;
        assert!((3072..4096).contains(&found), "{found}");
        let fits = |n_ctx| estimate_of(&small, with_n_ctx(n_ctx)).missing == 0;
        assert!(found.is_multiple_of(256) && fits(found), "{found}");
        assert!(!fits(found + 256), "found in whole blocks: {found}");
        set_budget(None).expect("a budget");
    });
}

#[test]
fn an_estimate_is_what_is_reserved_and_what_is_reserved_is_enough() {
    isolated(
        "an_estimate_is_what_is_reserved_and_what_is_reserved_is_enough",
        || {
            for name in [
                "llama3-f32",
                "llama-q4-mixed-bf16",
                "qwen3-q8-g128-f16",
                "gemma2-q4-g32-bf16",
                "qwen2-moe-q8-g32-f16",
            ] {
                let options = ContextOptions {
                    n_ctx: 700,
                    n_sequences: 2,
                    ..ContextOptions::default()
                };
                let path = fixture(name);
                let found = estimate_of(&path, options);
                let model = open(&path);
                let mut context = Context::new(&model, &options).expect("a context");
                assert_eq!(context.planned_bytes(), found.context, "{name}");
                assert_eq!(budget_info().expect("figures").taken, found.total, "{name}");
                let sequences: Vec<i32> = (0..1400).map(|index| index % 2).collect();
                let batch = Batch {
                    sequences: Some(&sequences),
                    ..Batch::of(&[1; 1400])
                };
                context.eval(&batch, None).expect("it was promised");
                let held = context.memory();
                assert_eq!(held.kv_reserved, found.context.kv, "{name}");
                assert!(held.logits <= found.context.logits);
                let cache = memory_use().expect("figures").cache;
                assert!(cache <= found.mlx_cache, "{name}: {cache}");
                drop(context);
                assert_eq!(memory_use().expect("figures").cache, 0, "{name}");
            }
        },
    );
}

/// Sequences that are full, evaluated in two steps.
#[test]
fn contexts_of_every_family_hold_the_keys_values_and_states_that_are_estimated() {
    const N_CTX: usize = 20;
    let models = fs::read_dir(fixture("")).expect("fixtures");
    let mut n_with_states = 0;
    for entry in models {
        let path = entry.expect("a fixture").path();
        let name = path.display();
        let options = ContextOptions {
            n_ctx: N_CTX,
            n_sequences: 2,
            ..ContextOptions::default()
        };
        let estimated = estimate_of(&path, options);
        let keys_and_values = 2 * N_CTX * estimated.kv_bytes_per_token;
        let states = estimated.context.kv - keys_and_values;
        n_with_states += usize::from(states > 0);
        let model = open(&path);
        let mut context = Context::new(&model, &options).expect("a context");
        for n_tokens in [N_CTX - 1, 1] {
            let sequences: Vec<i32> = (0..2 * n_tokens as i32).map(|index| index % 2).collect();
            let batch = Batch {
                sequences: Some(&sequences),
                ..Batch::of(&[1; 2 * N_CTX][..2 * n_tokens])
            };
            context.eval(&batch, None).expect("an evaluation");
        }
        // In front of the last step and behind it; a fifth place is for what scoring and
        // wrong guesses come back to.
        let held = keys_and_values + states / 5 * 4;
        assert_eq!(context.memory().kv_reserved, held, "{name}");
        assert_eq!(states % 5, 0, "{name}");
    }
    assert!(n_with_states > 5, "{n_with_states} recurrent families");
}

#[test]
fn weights_beyond_the_budget_are_opened_only_with_permission() {
    isolated(
        "weights_beyond_the_budget_are_opened_only_with_permission",
        || {
            let path = seventy_billion();
            let paged = || ModelOptions {
                allow_paging: true,
                ..ModelOptions::default()
            };
            let refused = Model::open(path.path(), ModelOptions::default()).err();
            let message = refused.expect("too large").to_string();
            assert!(
                message.contains("allow paging") && message.contains("more than"),
                "{message}"
            );
            let model = Model::open(path.path(), paged()).expect("holes are readable");
            assert_eq!(budget_info().expect("figures").reserved.mapped, 0);
            assert!(budget_info().expect("figures").reserved.paged > 100 * GIB);
            drop(model);
            assert_eq!(budget_info().expect("figures").reserved.paged, 0);
        },
    );
}
