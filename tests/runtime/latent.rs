//! Sequences of latent vectors: as small as they should be, and good for all that can
//! be done with sequences.

use std::sync::Arc;

use umrt::checkpoint::Dtype;
use umrt::error::Status;
use umrt::kv::KvType;
use umrt::mlx::CpuOps;
use umrt::runtime::{Context, ContextOptions, Model};

use crate::common::random_family::{Form, Latent, RandomFamily};
use crate::common::random_model::RandomModel;
use crate::common::{
    assert_fails, context_of, eval_all, open_with, relative_difference, token_ids,
};
use crate::operations::assert_trimmed_forked_and_saved;

const LATENT: Latent = Latent::SMALL;

const FAMILY: RandomFamily = RandomFamily {
    shape: RandomModel {
        hidden_size: 64,
        intermediate_size: 128,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: 16,
        vocab_size: 96,
        dtype: Dtype::F32,
    },
    form: Form::Latent(LATENT),
};

const Q8: KvType = KvType::Quantized {
    bits: 8,
    group_size: 32,
};

fn context(model: &Arc<Model>, kv_type: KvType) -> Context {
    let options = ContextOptions {
        n_ctx: 300,
        n_sequences: 2,
        kv_type,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

#[test]
fn a_token_takes_one_latent_vector_and_one_rotated_key_in_each_layer() {
    let directory = FAMILY.write();
    let model = open_with(directory.path(), CpuOps::Kernels);
    let elements = 2 * (LATENT.rank + LATENT.rotated_dim);
    let bytes = |kv_type| context(&model, kv_type).kv_bytes_per_token();
    assert_eq!(bytes(KvType::Computed), 4 * elements);
    assert_eq!(bytes(KvType::F16), 2 * elements);
    assert_eq!(bytes(Q8), elements + elements / 32 * 8);
    let options = ContextOptions {
        kv_type: KvType::Quantized {
            bits: 8,
            group_size: 64,
        },
        ..ContextOptions::default()
    };
    assert!(Context::new(&model, &options).is_ok(), "two groups of 64");
    let odd = RandomFamily {
        form: Form::Latent(Latent { rank: 72, ..LATENT }),
        ..FAMILY
    };
    let directory = odd.write();
    let model = open_with(directory.path(), CpuOps::Kernels);
    let found = Context::new(&model, &options).map(|_| ());
    assert_fails(found, Status::Unsupported, &["104 dimensions"]);
}

#[test]
fn latent_sequences_are_trimmed_forked_and_saved() {
    let directory = FAMILY.write();
    let tokens = token_ids(1, 270, FAMILY.shape.vocab_size);
    for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
        let model = open_with(directory.path(), cpu_ops);
        for kv_type in [KvType::Computed, Q8] {
            assert_trimmed_forked_and_saved(&|| context(&model, kv_type), &tokens);
        }
    }
}

#[test]
fn fewer_bits_of_latent_vectors_change_little() {
    let directory = FAMILY.write();
    let tokens = token_ids(2, 150, FAMILY.shape.vocab_size);
    let [kernels, stock] =
        [CpuOps::Kernels, CpuOps::Stock].map(|ops| open_with(directory.path(), ops));
    let expected = eval_all(&mut context(&stock, KvType::Computed), &tokens);
    for model in [kernels, stock] {
        for (kv_type, bound) in [(KvType::Computed, 2e-6), (KvType::F16, 3e-4), (Q8, 5e-3)] {
            let found = eval_all(&mut context(&model, kv_type), &tokens);
            let difference = relative_difference(&found, &expected);
            assert!(difference <= bound, "{kv_type:?}: {difference:.1e}");
        }
    }
}
