//! What the runtime takes from the system, and that it gives it back. Each test
//! measures in a process of its own.

#![cfg(target_os = "linux")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::process::{
    anonymous_bytes, isolated, isolated_within, n_open_files, n_threads, uses_of,
    with_little_memory,
};
use common::random_model::RandomModel;
use common::{
    assert_fails, assert_identical, context, context_of, eval, fixture, is_so_at_last, open,
    open_fixture, rows, token_ids,
};
use umrt::checkpoint::Dtype;
use umrt::error::Status;
use umrt::memory::usable;
use umrt::mlx::{CpuOps, MemoryUse, memory_use, reset_peak};
use umrt::runtime::{
    Batch, Cancel, Context, ContextOptions, MemoryStats, Model, ModelMemory, ModelOptions, Want,
    inspect, memory_stats,
};

const MIB: usize = 1 << 20;

fn active_bytes() -> usize {
    memory_use().expect("figures").active
}

fn stats() -> MemoryStats {
    memory_stats().expect("figures")
}

/// 600 MiB of bfloat16.
fn large_model() -> RandomModel {
    RandomModel {
        hidden_size: 2048,
        intermediate_size: 8192,
        n_layers: 4,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 64,
        vocab_size: 16_384,
        dtype: Dtype::BF16,
    }
}

/// Reads the file once, so that it is in the page cache.
fn warm_up(directory: &Path) -> usize {
    let mut file = std::fs::File::open(directory.join("model.safetensors")).expect("weights");
    let bytes = std::io::copy(&mut file, &mut std::io::sink()).expect("a read");
    bytes as usize
}

#[test]
fn opening_maps_the_weights_and_copies_none_of_them() {
    isolated("opening_maps_the_weights_and_copies_none_of_them", || {
        let directory = large_model().write();
        let file_bytes = warm_up(directory.path());
        assert!(file_bytes > 580 * MIB, "{file_bytes}");
        drop(open_fixture("llama3-f32"));
        let (anonymous, active) = (anonymous_bytes(), active_bytes());

        let is_at_once = is_so_at_last(|| {
            let began = Instant::now();
            let model = open(directory.path());
            let elapsed = began.elapsed();
            let grown = anonymous_bytes().saturating_sub(anonymous);
            assert!(grown < 10 * MIB, "opening took {grown} bytes");
            assert!(active_bytes() < active + MIB);

            let memory = model.memory().expect("figures");
            assert_eq!(memory.weights_copied, 0);
            assert_eq!(memory.weights_mapped, model.info().weight_bytes);
            assert!(memory.weights_mapped > file_bytes - MIB);
            println!("opened in {elapsed:?}");
            elapsed < Duration::from_millis(100)
        });
        assert!(is_at_once, "not in 100 ms");
    });
}

#[test]
fn using_mapped_weights_copies_none_of_them() {
    isolated("using_mapped_weights_copies_none_of_them", || {
        let directory = large_model().write();
        let model = open(directory.path());
        let mut context = context(&model);
        let anonymous = anonymous_bytes();
        reset_peak().expect("a counter");
        for token in [1, 2] {
            eval(&mut context, &[token]);
        }
        let grown = anonymous_bytes().saturating_sub(anonymous);
        let peak = memory_use().expect("figures").peak;
        println!("grown by {grown}, peak {peak}");
        // The largest matrix is 32 MiB; the cache of 256 tokens is 4 MiB.
        assert!(grown < 24 * MIB, "evaluating took {grown} bytes");
        assert!(peak < 24 * MIB, "evaluating took {peak} bytes of MLX's");
    });
}

#[test]
fn a_step_updates_the_cache_in_place() {
    isolated("a_step_updates_the_cache_in_place", || {
        let wide = RandomModel {
            n_layers: 2,
            n_heads: 16,
            n_kv_heads: 16,
            head_dim: 256,
            ..RandomModel::default()
        };
        let directory = wide.write();
        // Blocks of our own are no memory of MLX's; its arrays could be copied.
        let options = ModelOptions {
            cpu_ops: CpuOps::Stock,
            ..ModelOptions::default()
        };
        let model = Model::open(directory.path(), options).expect("a model");
        let options = ContextOptions {
            n_ctx: 1024,
            n_sequences: 2,
            prefill_chunk: 128,
            ..ContextOptions::default()
        };
        let mut context = context_of(&model, options);
        for sequence in [0, 1] {
            let tokens = token_ids(1, 700, wide.vocab_size);
            let batch = Batch {
                sequences: Some(&[sequence; 700]),
                ..Batch::of(&tokens)
            };
            context.eval(&batch, None).expect("an evaluation");
        }
        let reserved = context.memory().kv_reserved;
        let one_array = reserved / (2 * wide.n_layers * 2);
        assert!(one_array > 10 * MIB, "{one_array}");

        let cancel = Cancel::new();
        let steps = [
            (&[0][..], None),
            (&[0], Some(&cancel)),
            (&[0, 1], None),
            (&[0, 0, 1, 1], None),
        ];
        for (sequences, cancel) in steps {
            let tokens = token_ids(2, sequences.len(), wide.vocab_size);
            let batch = Batch {
                sequences: Some(sequences),
                ..Batch::of(&tokens)
            };
            reset_peak().expect("a counter");
            let before = active_bytes();
            context.eval(&batch, cancel).expect("an evaluation");
            let scratch = memory_use().expect("figures").peak - before;
            println!("{} tokens: {scratch} bytes of scratch", tokens.len());
            // A copy of one array would show, and there are eight.
            assert!(scratch < one_array / 4, "{scratch} of {one_array}");
        }
        assert_eq!(context.memory().kv_reserved, reserved);
    });
}

#[test]
fn a_sequence_that_the_system_has_no_memory_for_stays_as_it_was() {
    let test = "a_sequence_that_the_system_has_no_memory_for_stays_as_it_was";
    isolated(test, || {
        let wide = RandomModel {
            n_layers: 2,
            n_heads: 16,
            n_kv_heads: 16,
            head_dim: 256,
            ..RandomModel::default()
        };
        let directory = wide.write();
        let model = open(directory.path());
        let options = ContextOptions {
            n_ctx: 4096,
            ..ContextOptions::default()
        };
        let mut context = context_of(&model, options);
        let before = eval(&mut context, &[1, 2, 3]);
        let memory = context.memory();
        assert!(memory.kv_reserved > 15 * MIB);
        // Eight blocks, of which three fit.
        let tokens = token_ids(1, 2000, wide.vocab_size);
        let result = with_little_memory(50 * MIB, || context.eval(&Batch::of(&tokens), None));
        assert_fails(result, Status::OutOfMemory, &["256 more tokens", "trim"]);
        assert_eq!(context.sequence_length(0).expect("a sequence"), 3);
        assert_eq!(context.memory(), memory);
        assert_identical(&rows(&context), &before);
        let found = eval(&mut context, &[4]);
        assert_identical(&found, &{
            let mut undisturbed = context_of(&model, options);
            eval(&mut undisturbed, &[1, 2, 3]);
            eval(&mut undisturbed, &[4])
        });
    });
}

#[test]
fn ten_thousand_tokens_over_rolling_contexts_leave_memory_flat() {
    isolated(
        "ten_thousand_tokens_over_rolling_contexts_leave_memory_flat",
        || {
            const N_CTX: usize = 256;
            let model = open_fixture("llama3-f32");
            let mut context = context(&model);
            assert_eq!(context.n_ctx(), N_CTX);
            let mut roll = |seed| {
                for token in token_ids(seed, N_CTX, 128) {
                    eval(&mut context, &[token]);
                }
                context.trim(0, 0).expect("a sequence");
            };
            (0..8).for_each(&mut roll);
            let (anonymous, active) = (anonymous_bytes(), active_bytes());
            (8..8 + 10_000_u64.div_ceil(N_CTX as u64)).for_each(&mut roll);
            let grown = anonymous_bytes().saturating_sub(anonymous);
            println!("grown by {grown}");
            assert!(grown < MIB, "grown by {grown}");
            assert_eq!(active_bytes(), active);
        },
    );
}

/// What must not grow with use.
#[derive(Debug)]
struct Footprint {
    anonymous: usize,
    mlx: MemoryUse,
    open_files: usize,
    threads: usize,
}

impl Footprint {
    fn now() -> Footprint {
        Footprint {
            anonymous: anonymous_bytes(),
            mlx: memory_use().expect("figures"),
            open_files: n_open_files(),
            threads: n_threads(),
        }
    }

    fn assert_not_beyond(&self, before: &Footprint) {
        println!("before {before:?}\nafter  {self:?}");
        assert!(self.anonymous < before.anonymous + MIB);
        assert_eq!(self.mlx.active, before.mlx.active);
        assert!(self.mlx.cache <= before.mlx.cache + MIB);
        assert_eq!(self.open_files, before.open_files);
        assert_eq!(self.threads, before.threads);
    }
}

fn use_once(model: &Arc<Model>) {
    let mut context = context(model);
    eval(&mut context, &token_ids(1, 20, 128));
    eval(&mut context, &[1]);
}

#[test]
fn contexts_give_everything_back() {
    isolated("contexts_give_everything_back", || {
        let model = open_fixture("llama3-f32");
        (0..20).for_each(|_| use_once(&model));
        let before = Footprint::now();
        (0..200).for_each(|_| use_once(&model));
        Footprint::now().assert_not_beyond(&before);
    });
}

#[test]
fn models_give_everything_back() {
    isolated("models_give_everything_back", || {
        for name in ["llama3-f32", "llama-sharded-f16", "llama-q4-mixed-bf16"] {
            let open_and_use = || use_once(&open_fixture(name));
            (0..10).for_each(|_| open_and_use());
            let before = Footprint::now();
            (0..100).for_each(|_| open_and_use());
            Footprint::now().assert_not_beyond(&before);
            assert_eq!(uses_of(&fixture(name)), 0, "no mapping is left");
        }
    });
}

#[test]
fn threads_that_come_and_go_leave_nothing_behind() {
    isolated("threads_that_come_and_go_leave_nothing_behind", || {
        const AT_ONCE: usize = 4;
        let model = open_fixture("llama3-f32");
        let visit = || {
            let visitors: [_; AT_ONCE] = std::array::from_fn(|_| {
                let model = model.clone();
                std::thread::spawn(move || use_once(&model))
            });
            for visitor in visitors {
                visitor.join().expect("a visit");
            }
        };
        // MLX keeps a thread for each context that there ever was at once.
        drop([(); AT_ONCE].map(|()| context(&model)));
        (0..20).for_each(|_| visit());
        let before = Footprint::now();
        (0..50).for_each(|_| visit());
        Footprint::now().assert_not_beyond(&before);
    });
}

#[test]
fn the_ledger_follows_models_and_contexts() {
    isolated("the_ledger_follows_models_and_contexts", || {
        let held = |stats: &MemoryStats| {
            let weights = ModelMemory {
                // The system's, which drops pages of files whenever it likes.
                weights_resident: 0,
                ..stats.weights
            };
            (weights, stats.contexts, stats.mlx.active)
        };
        let none = stats();
        assert_eq!(none.weights.weights_mapped, 0);
        let model = open_fixture("llama3-f32");
        let open = stats();
        assert_eq!(open.weights.weights_mapped, model.info().weight_bytes);
        assert!(open.weights.weights_resident <= open.weights.weights_mapped + MIB);

        let per_token = model.info().kv_bytes_per_token;
        let options = ContextOptions {
            n_ctx: 1000,
            n_sequences: 2,
            ..ContextOptions::default()
        };
        let mut context = context_of(&model, options);
        let expect = |context: &Context, reserved: usize, used: usize| {
            let found = context.memory();
            assert_eq!(found.kv_reserved, reserved * per_token);
            assert_eq!(found.kv_used, used * per_token);
            assert_eq!(found, stats().contexts);
        };
        assert_eq!(context.kv_bytes_per_token(), per_token);
        expect(&context, 0, 0);

        let marks = [1; 10];
        let batch = Batch {
            tokens: &token_ids(1, 10, 128),
            sequences: Some(&[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]),
            want: Want::Marked(&marks),
        };
        context.eval(&batch, None).expect("an evaluation");
        expect(&context, 512, 10);
        let logits = 10 * model.info().spec.vocab_size * size_of::<f32>();
        assert_eq!(context.memory().logits, logits);
        // Blocks of keys and values are not MLX's memory; logits are, but for
        // alignment.
        let allocated = active_bytes() - open.mlx.active;
        assert!(allocated.abs_diff(logits) < 64 << 10, "{allocated}");

        context.trim(0, 1).expect("a sequence");
        expect(&context, 512, 7);
        context.trim(0, 0).expect("a sequence");
        expect(&context, 256, 6);
        context.trim(1, 0).expect("a sequence");
        expect(&context, 0, 0);
        eval(&mut context, &token_ids(1, 700, 128));
        expect(&context, 768, 700);

        drop(context);
        assert_eq!(held(&stats()), held(&open));
        drop(model);
        assert_eq!(held(&stats()), held(&none));
    });
}

#[test]
fn a_limit_of_address_space_bounds_what_models_may_use() {
    let test = "a_limit_of_address_space_bounds_what_models_may_use";
    const LIMIT: usize = 6 << 30;
    isolated_within(test, LIMIT, || {
        let usable = usable();
        assert!(usable.usable_bytes <= LIMIT, "{usable:?}");
        let kv_bytes = inspect(&fixture("llama3-f32"))
            .expect("headers")
            .kv_bytes_per_token;
        let options = ContextOptions {
            n_ctx: LIMIT / kv_bytes + 1,
            ..ContextOptions::default()
        };
        let result = Context::new(&open_fixture("llama3-f32"), &options);
        let bound = usable.bound.to_string();
        assert_fails(result, Status::OverBudget, &["MiB", &bound]);
    });
}
