//! What a step is predicted to take is what it takes: `scratch` of a context's plan
//! against MLX's peak and the ledger, and never less than the process grew by.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::thread;

use common::process::{give_back_large_blocks, isolated, peak_growth};
use common::random_family::{Form, Latent, Mixture, RandomFamily, Shared};
use common::random_model::RandomModel;
use common::{context_of, open, token_ids};
use umrt::checkpoint::Dtype;
use umrt::memory::{Category, ledger};
use umrt::mlx::{CpuOps, clear_cache, memory_use, reset_peak};
use umrt::runtime::{Batch, Context, ContextOptions, Model, ModelOptions};

const MIB: usize = 1 << 20;

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

const MIXTURE: Form = Form::Mixture(Mixture {
    n_experts: 16,
    n_chosen: 4,
    intermediate_size: 704,
    shared_size: 2816,
});

const LATENT: Form = Form::Latent(Latent {
    query_rank: Some(384),
    rank: 256,
    plain_dim: 64,
    rotated_dim: 32,
    value_dim: 64,
});

const SHARED: Form = Form::Shared(Shared {
    n_shared: 1,
    columns: 256,
    long_head_dim: 128,
});

/// Forms of layers that `RandomModel` does not have.
const OTHER_FORMS: [Form; 6] = [
    MIXTURE,
    Form::Gemma2,
    Form::Phi,
    Form::Olmo2,
    LATENT,
    Form::ShortConv(2),
];

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

/// Within 3%, or within 1 MiB if that is more.
fn assert_predicts(predicted: usize, measured: usize, what: &str) {
    let tolerance = MIB.max(measured / 100 * 3);
    println!("{what}: predicted {predicted}, measured {measured}");
    assert!(
        predicted.abs_diff(measured) <= tolerance,
        "{what}: predicted {predicted}, measured {measured}"
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
fn assert_predicts_steps(family: &RandomFamily) {
    give_back_large_blocks();
    let directory = family.write();
    for sizes in [(1024, 1, 512), (768, 2, 512), (512, 1, 100)] {
        thread::scope(|scope| {
            scope.spawn(|| assert_predicts_step(family, directory.path(), sizes));
        });
    }
}

fn assert_predicts_step(
    family: &RandomFamily,
    directory: &Path,
    (n_ctx, n_sequences, chunk): (usize, usize, usize),
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
    assert_predicts(bytes.prefill_arrays + logits, step.arrays, &what);
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
    assert_predicts(bytes.decode_arrays + logits, step.arrays, &what);
}

#[test]
fn the_prediction_of_a_step_is_what_it_takes() {
    isolated("the_prediction_of_a_step_is_what_it_takes", || {
        for (shape, dtypes) in [
            (SMALL, &[Dtype::BF16, Dtype::F16, Dtype::F32][..]),
            (GROUPED, &[Dtype::BF16, Dtype::F32]),
            (DEEP, &[Dtype::BF16]),
        ] {
            for &dtype in dtypes {
                assert_predicts_steps(&RandomFamily {
                    shape: RandomModel { dtype, ..shape },
                    form: Form::Llama,
                });
            }
        }
    });
}

#[test]
fn layers_of_other_forms_take_what_is_predicted() {
    isolated("layers_of_other_forms_take_what_is_predicted", || {
        for form in OTHER_FORMS {
            let shape = match form {
                // Of a dense layer it takes less than of one with experts.
                Form::Mixture(_) => RandomModel {
                    intermediate_size: 512,
                    ..GROUPED
                },
                _ => GROUPED,
            };
            assert_predicts_steps(&RandomFamily { shape, form });
        }
    });
}

#[test]
fn stock_operations_take_no_more_than_predicted() {
    isolated("stock_operations_take_no_more_than_predicted", || {
        for form in [Form::Llama, SHARED].into_iter().chain(OTHER_FORMS) {
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
