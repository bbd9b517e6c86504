//! mlx-lm's prompt caches, from files that it wrote and into files that it reads.

mod common;

use std::path::PathBuf;

use umrt::error::Status;
use umrt::kv::KvType;
use umrt::mlx::CpuOps;
use umrt::runtime::{Context, ContextOptions};

use common::{
    assert_fails, assert_identical, context_of, eval, fixture, open_with, relative_difference,
};

fn file(name: &str) -> PathBuf {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fixtures.join("prompt-caches").join(name)
}

/// Those that the fixtures are of.
fn tokens() -> Vec<i32> {
    (0..41).map(|index| (7 * index + 3) % 96).collect()
}

const Q8_G32: KvType = KvType::Quantized {
    bits: 8,
    group_size: 32,
};

fn of(model: &str, kv_type: KvType, cpu_ops: CpuOps) -> Context {
    let options = ContextOptions {
        n_ctx: 100,
        kv_type,
        ..ContextOptions::default()
    };
    context_of(&open_with(&fixture(model), cpu_ops), options)
}

const BOTH: [CpuOps; 2] = [CpuOps::Kernels, CpuOps::Stock];

#[test]
fn a_text_goes_on_from_what_mlx_lm_saved() {
    for cpu_ops in BOTH {
        for (model, kv_type, files, bound) in [
            (
                "llama3-f32",
                KvType::F32,
                ["floats.safetensors", "floats-before.safetensors"],
                1e-5,
            ),
            (
                "gemma-f32",
                Q8_G32,
                ["quantized.safetensors", "quantized-before.safetensors"],
                5e-3,
            ),
        ] {
            let mut own = of(model, kv_type, cpu_ops);
            eval(&mut own, &tokens());
            let expected = eval(&mut own, &[5]);
            for name in files {
                let mut context = of(model, kv_type, cpu_ops);
                context
                    .import_mlx(0, &file(name), Some(&tokens()))
                    .expect("imported");
                assert_eq!(context.sequence_tokens(0).expect("tokens"), tokens());
                let difference = relative_difference(&eval(&mut context, &[5]), &expected);
                println!("{name} {cpu_ops:?}: {difference:.1e}");
                assert!(difference <= bound, "{name} {cpu_ops:?}: {difference:.1e}");
            }
        }
    }
}

#[test]
fn what_is_exported_is_loaded_with_its_tokens_and_bits() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cache.safetensors");
    for cpu_ops in BOTH {
        for (model, kv_type) in [
            ("llama3-f32", KvType::F32),
            ("llama3-f32", KvType::Bf16),
            ("gemma-f32", Q8_G32),
        ] {
            let mut first = of(model, kv_type, cpu_ops);
            eval(&mut first, &tokens());
            first.export_mlx(0, &path).expect("exported");
            let mut second = of(model, kv_type, cpu_ops);
            second.load(0, &path).expect("loaded");
            assert_eq!(second.sequence_tokens(0).expect("tokens"), tokens());
            assert_identical(&eval(&mut second, &[5]), &eval(&mut first, &[5]));
        }
    }
}

#[test]
fn what_does_not_belong_here_is_refused_and_changes_nothing() {
    let mut context = of("llama3-f32", KvType::F32, CpuOps::Kernels);
    eval(&mut context, &[1, 2]);
    let (floats, all) = (file("floats.safetensors"), tokens());
    let weights = fixture("llama3-f32").join("model.safetensors");
    for (path, named, status, part) in [
        (&floats, None, Status::InvalidArgument, "umrt_seq_import_mlx"),
        (&floats, Some(&all[1..]), Status::InvalidArgument, "41 tokens"),
        (
            &file("rotating.safetensors"),
            Some(&all[..]),
            Status::Unsupported,
            "RotatingKVCache",
        ),
        (
            &file("quantized.safetensors"),
            Some(&all[..]),
            Status::InvalidArgument,
            "model",
        ),
        (&weights, None, Status::Format, "no prompt cache"),
    ] {
        assert_fails(context.import_mlx(0, path, named), status, &[part]);
        assert_eq!(context.sequence_tokens(0).expect("tokens"), [1, 2]);
    }
    let unknown = [&all[..40], &[1000]].concat();
    let result = context.import_mlx(0, &floats, Some(&unknown));
    assert_fails(result, Status::Format, &["token 1000"]);
    let mut short = context_of(
        &open_with(&fixture("llama3-f32"), CpuOps::Kernels),
        ContextOptions {
            n_ctx: 40,
            ..ContextOptions::default()
        },
    );
    let result = short.import_mlx(0, &floats, Some(&all));
    assert_fails(result, Status::NoSpace, &["41 tokens"]);
}
