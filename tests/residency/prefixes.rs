//! Prefix caches give way to whoever needs the memory.

use umrt::kernels::Activations;
use umrt::memory::{Category, PressureLevel, Share, budget, ledger};
use umrt::mlx::CpuOps;
use umrt::runtime::{Context, ContextOptions, Model, notify, set_budget};

use super::common::process::isolated;
use super::common::random_model::RandomModel;
use super::common::{append, context_of, open_with, token_ids};

const OPTIONS: ContextOptions = ContextOptions {
    n_ctx: 400,
    n_sequences: 1,
    pressure_kv_type: None,
    activations: Activations::Auto,
    prefix_cache: true,
    prefill_chunk: 0,
    n_threads: 0,
    kv_type: umrt::kv::KvType::Computed,
    memory_limit: 0,
    overflow: umrt::runtime::Overflow::Refuse,
};

fn text() -> Vec<i32> {
    token_ids(1, 300, RandomModel::default().vocab_size)
}

fn kept() -> usize {
    ledger().bytes(Category::PrefixCache)
}

/// Leaves a text of 300 tokens behind.
fn evaluate(model: &std::sync::Arc<Model>) -> usize {
    let mut context = context_of(model, OPTIONS);
    append(&mut context, 0, &text());
    assert_eq!(kept(), 0, "the sequence holds it");
    let held = context.memory().kv_reserved;
    drop(context);
    assert_eq!(ledger().bytes(Category::KvReserved), 0);
    assert_eq!(kept(), held);
    held
}

#[test]
fn memory_that_is_reserved_is_taken_from_prefix_caches() {
    isolated(
        "prefixes::memory_that_is_reserved_is_taken_from_prefix_caches",
        || {
            let directory = RandomModel::default().write();
            let model = open_with(directory.path(), CpuOps::Kernels);
            let held = evaluate(&model);
            let context = Context::new(&model, &OPTIONS).expect("a context");
            let full = budget().snapshot().taken();
            drop(context);
            assert_eq!(kept(), held, "there is enough for both");
            // The context fits exactly, beside none of what is kept.
            set_budget(Some(Share::Bytes(full))).expect("a budget");
            assert_eq!(kept(), held, "nobody needs it yet");
            let mut context = Context::new(&model, &OPTIONS).expect("it is not refused");
            assert_eq!(kept(), 0);
            assert_eq!(context.reuse_prefix(0, &text()).expect("a sequence"), 0);
        },
    );
}

#[test]
fn memory_pressure_empties_prefix_caches() {
    isolated("prefixes::memory_pressure_empties_prefix_caches", || {
        let directory = RandomModel::default().write();
        let model = open_with(directory.path(), CpuOps::Kernels);
        let held = evaluate(&model);
        let trimmed = notify(PressureLevel::Normal).expect("a notice");
        assert_eq!((trimmed.prefix_cache, kept()), (0, held));
        let trimmed = notify(PressureLevel::Warning).expect("a notice");
        assert_eq!((trimmed.prefix_cache, kept()), (held, 0));
    });
}
