//! Texts that begin like one that was evaluated before.

use std::sync::Arc;

use umrt::error::Status;
use umrt::kv::KvType;
use umrt::mlx::CpuOps;
use umrt::runtime::{
    Context, ContextOptions, Flow, GenerateOptions, Model, Prompt, SamplingDevice, Speculation,
    generate, memory_stats,
};
use umrt::sample::{Sampler, SamplerParams};

use crate::common::random_model::RandomModel;
use crate::common::{
    Random, append, assert_fails, assert_identical, context_of, fixture, open, open_with, token_ids,
};

const N_CTX: usize = 700;

fn in_both_ways(test: impl Fn(&Arc<Model>, CpuOps)) {
    let directory = RandomModel::default().write();
    for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
        test(&open_with(directory.path(), cpu_ops), cpu_ops);
    }
}

fn options() -> ContextOptions {
    ContextOptions {
        n_ctx: N_CTX,
        n_sequences: 2,
        prefix_cache: true,
        ..ContextOptions::default()
    }
}

fn caching(model: &Arc<Model>) -> Context {
    context_of(model, options())
}

fn tokens(seed: u64, n: usize) -> Vec<i32> {
    token_ids(seed, n, RandomModel::default().vocab_size)
}

fn reuse(context: &mut Context, sequence: i32, tokens: &[i32]) -> usize {
    context.reuse_prefix(sequence, tokens).expect("a sequence")
}

/// What the rest of `text` says behind the first `n_reused` tokens of `first`.
fn as_a_fork(model: &Arc<Model>, first: &[i32], text: &[i32], n_reused: usize) -> Vec<f32> {
    let mut context = context_of(
        model,
        ContextOptions {
            prefix_cache: false,
            ..options()
        },
    );
    append(&mut context, 0, first);
    context.fork(0, 1).expect("a fork");
    context.trim(1, n_reused).expect("a sequence");
    append(&mut context, 1, &text[n_reused..])
}

#[test]
fn a_known_beginning_goes_on_with_the_bits_of_a_fork() {
    in_both_ways(|model, _| {
        let mut random = Random(3);
        let first = tokens(1, 300);
        for n_common in [0, 30, 255, 256, 257, 300] {
            let others = tokens(random.next(), 1 + (random.next() % 30) as usize);
            let text = [&first[..n_common], &others].concat();
            let n_common = text.iter().zip(&first).take_while(|(a, b)| a == b).count();
            let (mut one, mut other) = (caching(model), caching(model));
            append(&mut one, 0, &first);
            // What the sequence gave up is known as well as what it completed.
            one.trim(0, 0).expect("a sequence");
            let n = reuse(&mut other, 1, &text);
            assert_eq!(n, n_common.min(text.len() - 1));
            assert_eq!(other.sequence_tokens(1).expect("tokens"), text[..n]);
            let found = append(&mut other, 1, &text[n..]);
            assert_identical(&found, &as_a_fork(model, &first, &text, n));
            model.prefix_cache().set_max_bytes(0);
            model.prefix_cache().set_max_bytes(usize::MAX);
        }
    });
}

#[test]
fn what_is_cut_at_the_same_places_has_the_same_bits_without_a_cache() {
    in_both_ways(|model, _| {
        let options = ContextOptions {
            prefill_chunk: 256,
            kv_type: KvType::F16,
            ..options()
        };
        let cold = ContextOptions {
            prefix_cache: false,
            ..options
        };
        let first = tokens(1, 530);
        let text = [&first[..512], &[95 - first[512]], &tokens(2, 40)].concat();
        append(&mut context_of(model, options), 0, &first);
        let mut warm = context_of(model, options);
        assert_eq!(reuse(&mut warm, 0, &text), 512);
        let found = append(&mut warm, 0, &text[512..]);
        assert_identical(&found, &append(&mut context_of(model, cold), 0, &text));
    });
}

#[test]
fn a_sequence_goes_on_with_its_own_beginning() {
    in_both_ways(|model, _| {
        for prefix_cache in [false, true] {
            let mut context = context_of(
                model,
                ContextOptions {
                    prefix_cache,
                    ..options()
                },
            );
            let text = tokens(1, 90);
            append(&mut context, 0, &text);
            assert_eq!(
                reuse(&mut context, 0, &[&text[..50], &[3, 4, 5]].concat()),
                50
            );
            assert_eq!(context.sequence_length(0).expect("a sequence"), 50);
            assert_eq!(reuse(&mut context, 0, &text[..50]), 49, "logits are wanted");
            assert_eq!(reuse(&mut context, 0, &[91]), 0);
            assert_eq!(context.perf().n_prefix_hits, 0);
        }
    });
}

#[test]
fn only_what_was_computed_the_same_way_is_shared() {
    let directory = RandomModel {
        head_dim: 64,
        ..RandomModel::default()
    }
    .write();
    let model = open_with(directory.path(), CpuOps::Kernels);
    let (text, plain) = (tokens(1, 300), options());
    append(&mut context_of(&model, plain), 0, &text);
    let q8 = KvType::Quantized {
        bits: 8,
        group_size: 64,
    };
    for kv_type in [KvType::F16, q8] {
        let other = ContextOptions { kv_type, ..plain };
        assert_eq!(
            reuse(&mut context_of(&model, other), 0, &text),
            0,
            "{kv_type:?}"
        );
        append(&mut context_of(&model, other), 0, &text);
        assert_eq!(
            reuse(&mut context_of(&model, other), 0, &text),
            299,
            "{kv_type:?}"
        );
    }
    // Neither length nor threads nor chunks matter.
    let other = ContextOptions {
        n_ctx: 301,
        n_threads: 1,
        prefill_chunk: 100,
        kv_type: KvType::F32,
        ..plain
    };
    let mut short = context_of(&model, other);
    assert_eq!(reuse(&mut short, 0, &text), 299);
    let found = append(&mut short, 0, &text[299..]);
    assert_identical(&found, &as_a_fork(&model, &text, &text, 299));
    append(&mut short, 0, &[1]);
    assert_fails(
        short.reuse_prefix(0, &[]),
        Status::InvalidArgument,
        &["no tokens"],
    );
}

#[test]
fn a_loaded_or_shifted_text_is_nobody_elses() {
    in_both_ways(|model, _| {
        let text = tokens(1, 300);
        let mut bytes = Vec::new();
        {
            let plain = ContextOptions {
                prefix_cache: false,
                ..options()
            };
            let mut context = context_of(model, plain);
            append(&mut context, 0, &text);
            bytes.resize(context.saved_bytes(0).expect("a size"), 0);
            context.save_to(0, &mut bytes).expect("saved");
        }
        let mut context = caching(model);
        context.load_from(0, &bytes).expect("loaded");
        append(&mut context, 0, &tokens(2, 20));
        assert_eq!(reuse(&mut context, 1, &text), 0, "loaded by anybody");
        assert_eq!(reuse(&mut context, 0, &text), 299, "but its own");
        context.trim(0, 0).expect("a sequence");
        append(&mut context, 0, &text);
        context.shift(0, 290, 5).expect("a shift");
        append(&mut context, 0, &tokens(2, 20));
        let shifted = context.sequence_tokens(0).expect("tokens");
        context.trim(0, 0).expect("a sequence");
        assert_eq!(reuse(&mut context, 1, &shifted), 290);
    });
}

#[test]
fn prompts_begin_with_what_is_known() {
    let model = open(&fixture("../../../examples/models/umrt-tales-4bit"));
    let run = |context: &mut Context, prompt: &[i32]| {
        let options = GenerateOptions {
            prompt: Prompt::Tokens(prompt),
            sequence: 0,
            max_tokens: 4,
            stop: &[],
            ignore_end: true,
            sampling_device: SamplingDevice::Auto,
            constraint: None,
        };
        let mut sampler = Sampler::new(SamplerParams::default()).expect("a sampler");
        let mut text = String::new();
        let mut receive = |piece: &str, _| {
            text.push_str(piece);
            Flow::Continue
        };
        let how = Speculation::default();
        generate(
            context,
            &mut sampler,
            &options,
            how,
            None,
            Some(&mut receive),
        )
        .expect("a text");
        text
    };
    let prompt = token_ids(1, 300, 200);
    let expected = run(&mut context_of(&model, ContextOptions::default()), &prompt);
    let mut context = context_of(
        &model,
        ContextOptions {
            n_ctx: 1024,
            prefix_cache: true,
            ..ContextOptions::default()
        },
    );
    assert_eq!(run(&mut context, &prompt), expected);
    assert_eq!(context.perf().n_prefix_hits, 0);
    context.trim(0, 0).expect("a sequence");
    assert_eq!(run(&mut context, &prompt), expected);
    let perf = context.perf();
    assert_eq!((perf.n_prefix_hits, perf.n_prefix_tokens), (1, 299));
    // Behind tokens that are there.
    context.trim(0, 100).expect("a sequence");
    assert_eq!(run(&mut context, &prompt[100..]), expected);
    assert_eq!(context.perf().n_prefix_tokens, 299 + 199);
}

#[test]
fn what_contexts_share_takes_no_memory_twice() {
    in_both_ways(|model, cpu_ops| {
        let text = tokens(1, 550);
        let mut contexts = [caching(model), caching(model)];
        append(&mut contexts[0], 0, &text);
        let n = reuse(&mut contexts[1], 0, &text);
        assert_eq!(n, 512);
        let cached = model.prefix_cache().bytes();
        let per_token = contexts[0].kv_bytes_per_token();
        match cpu_ops {
            CpuOps::Kernels => assert_eq!(cached, 0),
            CpuOps::Stock => assert_eq!(cached, 512 * per_token),
        }
        drop(contexts);
        let kept = model.prefix_cache().bytes();
        assert!(kept >= 550 * per_token, "{kept}");
        assert!(memory_stats().expect("figures").prefix_cache >= kept);
        model.prefix_cache().set_max_bytes(256 * per_token);
        assert!(model.prefix_cache().bytes() <= 256 * per_token);
        let mut context = caching(model);
        assert_eq!(
            reuse(&mut context, 0, &text),
            256,
            "the beginning stays longest"
        );
    });
}
