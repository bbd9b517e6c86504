//! What a step is predicted to take is what it takes: `scratch` of a context's plan
//! against MLX's peak and the ledger, and never less than the process grew by.
//!
//! What MLX keeps of freed buffers comes on top of that. It has a bound and a place of its
//! own in a plan, so that here it keeps none: buffers are used again for sizes that are
//! almost the same only, and layers that differ would leave each other's.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::thread;

use common::process::{give_back_large_blocks, isolated, peak_growth};
use common::random_family::{Chunked, Form, Latent, Mixture, RandomFamily, Shared};
use common::random_gemma::{Alternating, ExpertsBeside};
use common::random_memories::Memories;
use common::random_model::RandomModel;
use common::{context_of, open, token_ids};
use umrt::checkpoint::Dtype;
use umrt::memory::{Category, ledger};
use umrt::mlx::{CpuOps, clear_cache, memory_use, reset_peak};
use umrt::runtime::{Batch, Context, ContextOptions, Model, ModelOptions, set_mlx_cache};

const MIB: usize = 1 << 20;

/// Large layers take minutes otherwise.
const IS_OPTIMIZED: bool = !cfg!(debug_assertions);

const SMALL: RandomModel = RandomModel {
    hidden_size: 64,
    intermediate_size: 128,
    n_layers: 3,
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 16,
    vocab_size: 96,
    dtype: Dtype::F32,
};

const GROUPED: RandomModel = RandomModel {
    hidden_size: 1024,
    intermediate_size: 2816,
    n_layers: 3,
    n_heads: 16,
    n_kv_heads: 4,
    head_dim: 64,
    vocab_size: 4096,
    dtype: Dtype::BF16,
};

const DEEP: RandomModel = RandomModel {
    hidden_size: 512,
    intermediate_size: 4096,
    n_layers: 12,
    n_heads: 8,
    n_kv_heads: 8,
    head_dim: 128,
    vocab_size: 8192,
    dtype: Dtype::BF16,
};

/// Small enough for kernels that are not optimized.
const NARROW: RandomModel = RandomModel {
    hidden_size: 64,
    intermediate_size: 160,
    n_layers: 3,
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 16,
    vocab_size: 96,
    dtype: Dtype::BF16,
};

const MIXTURE: Form = Form::Mixture(Mixture {
    n_experts: 16,
    n_chosen: 4,
    intermediate_size: 176,
    shared_size: 352,
});

const CHUNKED: Form = Form::Chunked(Chunked {
    chunk: 96,
    n_experts: 8,
    n_chosen: 1,
    intermediate_size: 1408,
});

const LATENT: Form = Form::Latent(Latent::SMALL);

const SHARED: Form = Form::Shared(Shared {
    n_shared: 1,
    columns: 40,
    long_head_dim: 96,
});

const ALTERNATING: Form = Form::Alternating(Alternating {
    n_states: 4,
    rank: 48,
    columns: 40,
});

const EXPERTS_BESIDE: Form = Form::ExpertsBeside(ExpertsBeside {
    n_experts: 8,
    n_chosen: 2,
    intermediate_size: 96,
});

/// Forms of layers that `RandomModel` does not have.
const OTHER_FORMS: [Form; 18] = [
    MIXTURE,
    CHUNKED,
    Form::Gemma2,
    Form::Phi,
    Form::Olmo2,
    Form::Clipped,
    Form::Gated,
    LATENT,
    SHARED,
    ALTERNATING,
    EXPERTS_BESIDE,
    Form::ShortConv(2),
    Form::Memories(Memories::Delta),
    Form::Memories(Memories::DeltaByHead),
    Form::Memories(Memories::Scan),
    Form::Memories(Memories::Beside),
    Form::Memories(Memories::Alone),
    Form::Memories(Memories::Apart),
];

/// How a context is cut: its length, sequences, and tokens of a step.
type Sizes = (usize, usize, usize);

const PROMPTS: [Sizes; 3] = [(1024, 1, 512), (768, 2, 512), (512, 1, 100)];
const SHORT_PROMPTS: [Sizes; 2] = [(320, 1, 256), (90, 2, 100)];

/// What one evaluation took.
struct Measured {
    arrays: usize,
    kernels: usize,
    /// What the process grew by at most, but for the cache.
    anonymous: usize,
}

/// Fills all sequences but for `n` tokens each and evaluates those in one step.
fn measure(context: &mut Context, vocab_size: usize, n: usize) -> Measured {
    let n_sequences = context.n_sequences();
    let n_ctx = context.n_ctx();
    let append = |context: &mut Context, n: usize| {
        let tokens = token_ids(3, n * n_sequences, vocab_size);
        let sequences: Vec<i32> = (0..n * n_sequences)
            .map(|index| (index % n_sequences) as i32)
            .collect();
        let batch = Batch {
            sequences: Some(&sequences),
            ..Batch::of(&tokens)
        };
        context.eval(&batch, None).expect("an evaluation");
    };
    for sequence in 0..n_sequences {
        context.trim(sequence as i32, 0).expect("a sequence");
    }
    append(context, n_ctx - n);
    append(context, n);
    for sequence in 0..n_sequences {
        context
            .trim(sequence as i32, n_ctx - n)
            .expect("a sequence");
    }
    clear_cache().expect("freed");
    let active = memory_use().expect("figures").active;
    let cached = context.memory().kv_reserved;
    reset_peak().expect("a counter");
    let grown = peak_growth(|| append(context, n));
    let cached = context.memory().kv_reserved - cached;
    Measured {
        arrays: memory_use().expect("figures").peak - active,
        kernels: ledger().bytes(Category::Scratch),
        anonymous: grown.saturating_sub(cached),
    }
}

/// Within 1%, or 8 KiB; at most that and new logits, which may come when layers have gone.
fn assert_predicts(arrays: usize, logits: usize, measured: usize, what: &str) {
    let tolerance = (8 << 10).max(arrays / 100);
    let least = arrays.saturating_sub(tolerance);
    println!("{what}: predicted {arrays} and logits {logits}, measured {measured}");
    assert!(
        (least..=arrays + logits + tolerance).contains(&measured),
        "{what}: predicted {arrays} and logits {logits}, measured {measured}"
    );
}

fn with_chunk(model: &Arc<Model>, n_ctx: usize, n_sequences: usize, chunk: usize) -> Context {
    let options = ContextOptions {
        n_ctx,
        n_sequences,
        prefill_chunk: chunk,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

/// Prompts of several lengths, and single tokens. Each is computed by a thread that has
/// no buffers from the one before.
fn assert_predicts_steps(family: &RandomFamily, all_sizes: &[Sizes]) {
    give_back_large_blocks();
    set_mlx_cache(0).expect("a bound");
    let directory = family.write();
    for &sizes in all_sizes {
        thread::scope(|scope| {
            scope.spawn(|| assert_predicts_step(family, directory.path(), sizes));
        });
    }
}

fn assert_predicts_step(
    family: &RandomFamily,
    directory: &Path,
    (n_ctx, n_sequences, chunk): Sizes,
) {
    let RandomModel {
        dtype,
        hidden_size,
        vocab_size,
        ..
    } = family.shape;
    let what = format!(
        "{:?} {dtype} {hidden_size} x {chunk} of {n_ctx}",
        family.form
    );
    let model = open(directory);
    let mut context = with_chunk(&model, n_ctx, n_sequences, chunk);
    let bytes = context.planned_bytes();
    let logits = bytes.logits / 2;
    let step = measure(&mut context, vocab_size, chunk / n_sequences);
    assert_predicts(bytes.prefill_arrays, logits, step.arrays, &what);
    let kernels = bytes.prefill_scratch - bytes.prefill_arrays;
    println!(
        "{what}: for kernels {kernels}, kept {}, grown {}",
        step.kernels, step.anonymous
    );
    assert!(step.kernels <= kernels, "{what}: {}", step.kernels);
    assert!(
        step.anonymous <= bytes.prefill_scratch + logits + MIB,
        "{what}: grown by {}, predicted {}",
        step.anonymous,
        bytes.prefill_scratch
    );
    let step = measure(&mut context, vocab_size, 1);
    assert_predicts(bytes.decode_arrays, logits, step.arrays, &what);
}

#[test]
fn the_prediction_of_a_step_is_what_it_takes() {
    isolated("the_prediction_of_a_step_is_what_it_takes", || {
        let small = (SMALL, &[Dtype::BF16, Dtype::F16, Dtype::F32][..]);
        let large = [
            (GROUPED, &[Dtype::BF16, Dtype::F32][..]),
            (DEEP, &[Dtype::BF16]),
        ];
        let (large, sizes) = match IS_OPTIMIZED {
            true => (&large[..], &PROMPTS[..]),
            false => (&[][..], &SHORT_PROMPTS[..]),
        };
        for &(shape, dtypes) in [small].iter().chain(large) {
            for &dtype in dtypes {
                let shape = RandomModel { dtype, ..shape };
                let form = Form::Llama;
                assert_predicts_steps(&RandomFamily { shape, form }, sizes);
            }
        }
    });
}

#[test]
fn layers_of_other_forms_take_what_is_predicted() {
    isolated("layers_of_other_forms_take_what_is_predicted", || {
        for form in OTHER_FORMS {
            let (shape, sizes) = match IS_OPTIMIZED {
                true => (GROUPED, &PROMPTS[..]),
                false => (NARROW, &SHORT_PROMPTS[..]),
            };
            let shape = match form {
                // Of a dense layer it takes less than of one with experts.
                Form::Mixture(_) => RandomModel {
                    intermediate_size: shape.hidden_size / 2,
                    ..shape
                },
                _ => shape,
            };
            assert_predicts_steps(&RandomFamily { shape, form }, sizes);
        }
    });
}

#[test]
fn stock_operations_take_no_more_than_predicted() {
    isolated("stock_operations_take_no_more_than_predicted", || {
        for form in [Form::Llama].into_iter().chain(OTHER_FORMS) {
            for dtype in [Dtype::F16, Dtype::F32] {
                assert_stock_steps_fit(&RandomFamily {
                    shape: RandomModel {
                        dtype,
                        intermediate_size: 2048,
                        ..SMALL
                    },
                    form,
                });
            }
        }
    });
}

fn assert_stock_steps_fit(family: &RandomFamily) {
    set_mlx_cache(0).expect("a bound");
    let directory = family.write();
    let options = ModelOptions {
        cpu_ops: CpuOps::Stock,
        ..ModelOptions::default()
    };
    let model = Model::open(directory.path(), options).expect("a model");
    let mut context = with_chunk(&model, 1024, 1, 256);
    let bytes = context.planned_bytes();
    let step = measure(&mut context, family.shape.vocab_size, 256);
    let what = format!("{:?} {}", family.form, family.shape.dtype);
    let predicted = bytes.prefill_scratch + bytes.logits / 2;
    println!("{what}: predicted {predicted}, measured {}", step.arrays);
    assert!(step.arrays <= predicted, "{what}: {predicted}");
    assert!(predicted < 2 * step.arrays, "{what}: and not absurdly more");
}
