//! Keys and values in fewer bits than the model computes in.

use std::sync::Arc;

use umrt::error::Status;
use umrt::kv::KvType;
use umrt::mlx::CpuOps;
use umrt::runtime::{Context, ContextOptions, Model};

use crate::common::random_model::RandomModel;
use crate::common::{
    assert_close, assert_fails, context_of, eval, eval_all, open_fixture, open_with,
    relative_difference, token_ids,
};

const fn quantized(bits: usize, group_size: usize) -> KvType {
    KvType::Quantized { bits, group_size }
}

const TYPES: [KvType; 8] = [
    KvType::Computed,
    KvType::F32,
    KvType::F16,
    KvType::Bf16,
    quantized(8, 64),
    quantized(8, 32),
    quantized(4, 64),
    quantized(4, 32),
];

const SHAPE: RandomModel = RandomModel::WIDE_HEADS;

fn of_type(model: &Arc<Model>, kv_type: KvType, prefill_chunk: usize) -> Context {
    let options = ContextOptions {
        n_ctx: 300,
        kv_type,
        prefill_chunk,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

/// How far rounding may take logits from those of a float32 cache, relative to
/// their range.
fn bound(kv_type: KvType) -> f32 {
    match kv_type {
        KvType::Computed | KvType::F32 => 2e-6,
        KvType::F16 => 3e-4,
        KvType::Bf16 => 3e-3,
        KvType::Quantized { bits: 8, .. } => 5e-3,
        KvType::Quantized { .. } => 1e-1,
    }
}

#[test]
fn kernels_and_mlx_say_nearly_what_a_float32_cache_does() {
    let directory = SHAPE.write();
    let tokens = token_ids(1, 270, SHAPE.vocab_size);
    let (kernels, stock) = (CpuOps::Kernels, CpuOps::Stock);
    let [kernels, stock] = [kernels, stock].map(|ops| open_with(directory.path(), ops));
    let expected = eval_all(&mut of_type(&stock, KvType::Computed, 512), &tokens);
    for kv_type in TYPES {
        let found = [&kernels, &stock].map(|model| {
            let mut context = of_type(model, kv_type, 100);
            let mut found = eval_all(&mut context, &tokens[..260]);
            for token in &tokens[260..] {
                found.extend(eval(&mut context, &[*token]));
            }
            found
        });
        for found in &found {
            let difference = relative_difference(found, &expected);
            println!("{kv_type:?}: {difference:.1e}");
            assert!(
                difference <= bound(kv_type),
                "{kv_type:?}: {difference:.1e}"
            );
        }
        // The same codes, but for those that rounding decides.
        let difference = relative_difference(&found[0], &found[1]);
        assert!(difference <= bound(kv_type) / 2.0, "{difference:.1e}");
    }
}

#[test]
fn a_cache_in_few_bits_is_cut_into_steps_like_any_other() {
    let directory = SHAPE.write();
    let model = open_with(directory.path(), CpuOps::Kernels);
    let tokens = token_ids(2, 100, SHAPE.vocab_size);
    for kv_type in [KvType::F32, quantized(8, 32)] {
        let expected = eval(&mut of_type(&model, kv_type, 512), &tokens);
        let again = eval(&mut of_type(&model, kv_type, 512), &tokens);
        assert_close(&again, &expected);
        for prefill_chunk in [1, 33] {
            let found = eval(&mut of_type(&model, kv_type, prefill_chunk), &tokens);
            let difference = relative_difference(&found, &expected);
            assert!(difference <= bound(kv_type), "{difference:.1e}");
        }
    }
}

#[test]
fn a_token_takes_the_bytes_of_its_type() {
    let directory = SHAPE.write();
    let elements = SHAPE.n_layers * 2 * SHAPE.n_kv_heads * SHAPE.head_dim;
    let scales = |group_size| elements / group_size * 2 * size_of::<f32>();
    let bytes = [
        elements * 4,
        elements * 4,
        elements * 2,
        elements * 2,
        elements + scales(64),
        elements + scales(32),
        elements / 2 + scales(64),
        elements / 2 + scales(32),
    ];
    for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
        let model = open_with(directory.path(), cpu_ops);
        for (kv_type, bytes) in TYPES.into_iter().zip(bytes) {
            let mut context = of_type(&model, kv_type, 0);
            assert_eq!(context.kv_bytes_per_token(), bytes, "{kv_type:?}");
            eval(&mut context, &[1, 2, 3]);
            assert_eq!(context.memory().kv_used, 3 * bytes);
            assert_eq!(context.memory().kv_reserved, 256 * bytes);
        }
    }
}

#[test]
fn heads_that_are_no_whole_groups_cannot_be_quantized() {
    let model = open_fixture("llama3-f32");
    let options = ContextOptions {
        kv_type: quantized(4, 32),
        ..ContextOptions::default()
    };
    let result = Context::new(&model, &options);
    assert_fails(
        result,
        Status::Unsupported,
        &["groups of 32", "16 dimensions"],
    );
}
