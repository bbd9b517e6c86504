//! What does not fit is refused before memory is touched.

use umrt::error::Status;
use umrt::memory;
use umrt::mlx::{Device, gpu_available};
use umrt::runtime::{Context, ContextOptions, DeviceChoice, Model, ModelOptions, inspect};

use crate::common::{assert_fails, fixture, open_fixture};

#[test]
fn contexts_of_absurd_sizes_are_over_budget() {
    let model = open_fixture("llama3-f32");
    let huge = [1 << 29, 1 << 40, usize::MAX / 512, usize::MAX];
    let of = |n_ctx, n_sequences| ContextOptions {
        n_ctx,
        n_sequences,
        ..ContextOptions::default()
    };
    let longer = huge.map(|n| of(n, 1));
    let more = huge.map(|n| of(1, n));
    let both = huge.map(|n| of(n, n));
    for options in longer.iter().chain(&more).chain(&both) {
        let result = Context::new(&model, options);
        assert_fails(result, Status::OverBudget, &["models may use", "would fit"]);
    }
}

#[test]
fn a_context_of_ordinary_size_takes_no_memory_before_it_is_used() {
    let model = open_fixture("llama3-f32");
    let options = ContextOptions {
        n_ctx: 1 << 20,
        n_sequences: 4,
        ..ContextOptions::default()
    };
    let context = Context::new(&model, &options).expect("a context");
    assert_eq!(context.memory().kv_reserved, 0);
    assert_eq!(context.n_ctx(), 1 << 20);
}

#[test]
fn what_models_may_use_is_a_part_of_the_machines_memory() {
    let usable = memory::usable();
    assert!(usable.physical_bytes > 1 << 28);
    assert!(usable.usable_bytes > 1 << 26);
    assert!(usable.usable_bytes < usable.physical_bytes);
    assert!(!usable.bound.to_string().is_empty());
}

#[test]
fn a_gpu_that_is_not_there_is_unsupported_and_the_message_says_so() {
    if gpu_available() {
        return;
    }
    let open = |device| {
        let options = ModelOptions {
            device,
            ..ModelOptions::default()
        };
        Model::open(&fixture("llama3-f32"), options)
    };
    assert_fails(
        open(DeviceChoice::Gpu(0)),
        Status::Unsupported,
        &["no GPU", "CPU"],
    );
    for device in [DeviceChoice::Auto, DeviceChoice::Cpu] {
        let model = open(device).expect("a model");
        assert_eq!(model.device(), Device::Cpu);
    }
}

#[test]
fn inspecting_a_model_says_what_opening_it_does() {
    for name in [
        "llama3-f32",
        "llama-q4-mixed-bf16",
        "qwen3-q8-g128-f16",
        "llama-nvfp4-bf16",
        "llama-mxfp4-mixed-bf16",
    ] {
        let read = inspect(&fixture(name)).expect("headers");
        let model = open_fixture(name);
        let opened = model.info();
        assert_eq!(read.n_parameters, opened.n_parameters, "{name}");
        assert_eq!(read.weight_bytes, opened.weight_bytes, "{name}");
        assert_eq!(read.kv_bytes_per_token, opened.kv_bytes_per_token, "{name}");
        assert_eq!(
            (read.quant_bits, read.quant_group_size),
            (opened.quant_bits, opened.quant_group_size),
            "{name}"
        );
    }
}

#[test]
fn quantized_values_are_counted_one_by_one() {
    // Embedding and head, then per layer q and o, k and v, three of the MLP, and norms.
    let untied = 2 * 128 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64) + 64;
    let tied = 128 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 80 + 2 * 64) + 64;
    for (name, expected) in [
        ("llama-q4-mixed-bf16", untied),
        ("llama-q3-q6-mixed-bf16", untied),
        ("llama-mxfp4-mixed-bf16", untied),
        ("mistral-q6-g64-f16", untied),
        ("llama-nvfp4-bf16", tied),
    ] {
        let info = inspect(&fixture(name)).expect("headers");
        assert_eq!(info.n_parameters, expected, "{name}");
    }
}
