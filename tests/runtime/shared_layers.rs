//! Layers that see the keys and values of others: they take nothing in the cache, and
//! sequences are good for all that can be done with them.

use std::sync::Arc;

use umrt::checkpoint::Dtype;
use umrt::kv::KvType;
use umrt::mlx::CpuOps;
use umrt::runtime::{Context, ContextOptions, Model};

use crate::common::random_family::{Form, RandomFamily, Shared};
use crate::common::random_model::RandomModel;
use crate::common::{
    append, context_of, eval, eval_all, open_with, relative_difference, token_ids,
};
use crate::operations::assert_trimmed_forked_and_saved;

const SHARED: Shared = Shared {
    n_shared: 2,
    columns: 16,
    long_head_dim: 64,
};

const FAMILY: RandomFamily = RandomFamily {
    shape: RandomModel {
        hidden_size: 64,
        intermediate_size: 96,
        n_layers: 4,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 32,
        vocab_size: 96,
        dtype: Dtype::F32,
    },
    form: Form::Shared(SHARED),
};

const Q8: KvType = KvType::Quantized {
    bits: 8,
    group_size: 32,
};

const BOTH_WAYS: [CpuOps; 2] = [CpuOps::Kernels, CpuOps::Stock];

fn options(kv_type: KvType) -> ContextOptions {
    ContextOptions {
        n_ctx: 300,
        n_sequences: 2,
        kv_type,
        ..ContextOptions::default()
    }
}

fn context(model: &Arc<Model>, kv_type: KvType) -> Context {
    context_of(model, options(kv_type))
}

#[test]
fn layers_that_share_take_nothing_in_the_cache() {
    let directory = FAMILY.write();
    // A layer with a window and one without, keys and values of two heads.
    let elements = 2 * 2 * (32 + 64);
    for cpu_ops in BOTH_WAYS {
        let model = open_with(directory.path(), cpu_ops);
        let bytes = |kv_type| context(&model, kv_type).kv_bytes_per_token();
        assert_eq!(bytes(KvType::Computed), 4 * elements);
        assert_eq!(bytes(Q8), elements + elements / 32 * 8);
        let mut context = context(&model, KvType::Computed);
        eval(&mut context, &token_ids(1, 270, FAMILY.shape.vocab_size));
        assert_eq!(context.memory().kv_used, 270 * 4 * elements);
    }
}

#[test]
fn their_sequences_are_trimmed_forked_and_saved() {
    let directory = FAMILY.write();
    let tokens = token_ids(1, 270, FAMILY.shape.vocab_size);
    for cpu_ops in BOTH_WAYS {
        let model = open_with(directory.path(), cpu_ops);
        for kv_type in [KvType::Computed, Q8] {
            assert_trimmed_forked_and_saved(&|| context(&model, kv_type), &tokens);
        }
    }
}

#[test]
fn their_beginnings_are_found_again() {
    let directory = FAMILY.write();
    let text = token_ids(3, 290, FAMILY.shape.vocab_size);
    for cpu_ops in BOTH_WAYS {
        let model = open_with(directory.path(), cpu_ops);
        let options = ContextOptions {
            prefix_cache: true,
            ..options(KvType::Computed)
        };
        let mut context = context_of(&model, options);
        append(&mut context, 0, &text[..280]);
        context.fork(0, 1).expect("a fork");
        let expected = append(&mut context, 0, &text[280..]);
        context.trim(0, 0).expect("none");
        context.trim(1, 0).expect("none");
        let n = context.reuse_prefix(0, &text).expect("a sequence");
        if cpu_ops == CpuOps::Kernels {
            assert!(n >= 256, "only {n} of {}", text.len());
        }
        let found = append(&mut context, 0, &text[n..]);
        let last = expected.len() - FAMILY.shape.vocab_size;
        let difference = relative_difference(
            &found[found.len() - FAMILY.shape.vocab_size..],
            &expected[last..],
        );
        assert!(difference < 3e-6, "{cpu_ops:?}: {difference:.1e}");
    }
}

#[test]
fn fewer_bits_change_little() {
    let directory = FAMILY.write();
    let tokens = token_ids(2, 150, FAMILY.shape.vocab_size);
    let [kernels, stock] = BOTH_WAYS.map(|ops| open_with(directory.path(), ops));
    let expected = eval_all(&mut context(&stock, KvType::Computed), &tokens);
    // Scores of normalized heads are large, so that a softmax has much to lose.
    for model in [kernels, stock] {
        for (kv_type, bound) in [(KvType::Computed, 1e-4), (KvType::F16, 5e-2)] {
            let found = eval_all(&mut context(&model, kv_type), &tokens);
            let difference = relative_difference(&found, &expected);
            println!("{kv_type:?}: {difference:.1e}");
            assert!(difference <= bound, "{kv_type:?}: {difference:.1e}");
        }
    }
}
