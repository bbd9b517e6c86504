//! Weights that other tools have quantized, against transformers on what the stored
//! numbers stand for (`tools/oracles/foreign_fixture.py`).

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::damaged::Damaged;
use common::{assert_fails, context, context_of, eval_all, open, relative_difference};
use safetensors::SafeTensors;
use umrt::checkpoint::{Checkpoint, LoadMode};
use umrt::decoder::Precision;
use umrt::error::Status;
use umrt::mlx::CpuOps;
use umrt::runtime::{ContextOptions, Model, ModelOptions, estimate};

/// Of the logits' range, computing in float32.
const BOUND: f32 = 1e-5;

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/foreign");
    let entries = fs::read_dir(root).expect("the fixtures");
    let mut folders: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 10, "{folders:?}");
    folders
}

fn name_of(folder: &Path) -> String {
    let name = folder.file_name().expect("a name");
    name.to_string_lossy().into_owned()
}

/// Tokens, and the logits after each.
fn expected(folder: &Path) -> (Vec<i32>, Vec<f32>) {
    let bytes = fs::read(folder.join("expected.safetensors")).expect("logits");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let ids = tensors
        .tensor("ids")
        .expect("ids")
        .data()
        .as_chunks::<8>()
        .0;
    let logits = tensors.tensor("logits").expect("logits").data();
    (
        ids.iter()
            .map(|id| i64::from_le_bytes(*id) as i32)
            .collect(),
        logits
            .as_chunks::<4>()
            .0
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect(),
    )
}

fn open_as(folder: &Path, precision: Precision, cpu_ops: CpuOps, load: LoadMode) -> Arc<Model> {
    let options = ModelOptions {
        precision,
        cpu_ops,
        load,
        ..ModelOptions::default()
    };
    Model::open(folder, options).unwrap_or_else(|error| panic!("{}: {error}", name_of(folder)))
}

#[test]
fn logits_are_those_of_what_the_stored_numbers_stand_for() {
    for folder in fixtures() {
        let (ids, logits) = expected(&folder);
        for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
            let model = open_as(&folder, Precision::Float32, cpu_ops, LoadMode::Map);
            let options = ContextOptions {
                prefill_chunk: 7,
                ..ContextOptions::default()
            };
            let found = eval_all(&mut context_of(&model, options), &ids);
            let difference = relative_difference(&found, &logits);
            println!("{:24} {cpu_ops:?}: {difference:.1e}", name_of(&folder));
            assert!(
                difference <= BOUND,
                "{}: {difference:.1e}",
                name_of(&folder)
            );
        }
        let model = open_as(&folder, Precision::Native, CpuOps::Kernels, LoadMode::Read);
        let found = eval_all(&mut context(&model), &ids);
        let difference = relative_difference(&found, &logits);
        assert!(difference <= 0.05, "{}: {difference:.1e}", name_of(&folder));
    }
}

#[test]
fn what_is_made_in_private_memory_is_predicted_and_counted() {
    for folder in fixtures() {
        let name = name_of(&folder);
        let options = ModelOptions::default();
        let predicted = estimate(&folder, &options, &ContextOptions::default()).expect("a plan");
        let model = open(&folder);
        let memory = model.memory().expect("figures");
        assert_eq!(memory.weights_copied, predicted.model.copied, "{name}");
        assert!(memory.weights_mapped <= predicted.model.mapped, "{name}");
        let checkpoint = Checkpoint::inspect(&folder).expect("headers");
        let of_codes = checkpoint
            .tensors()
            .iter()
            .filter(|tensor| tensor.name.ends_with("proj.weight"));
        let is_in_place = of_codes.clone().all(|tensor| !checkpoint.is_made(tensor));
        assert_eq!(is_in_place, name.starts_with("packed"), "{name}");
    }
}

#[test]
fn damaged_parts_are_named() {
    for (fixture, edit, status, parts) in [
        (
            "awq",
            ("\"bits\": 4", "\"bits\": 3"),
            Status::Unsupported,
            ["bits", "4"],
        ),
        (
            "awq",
            ("\"group_size\": 32", "\"group_size\": 16"),
            Status::Unsupported,
            ["qweight", "multiples of 32"],
        ),
        (
            "gptq-symmetric",
            ("\"group_size\": 64", "\"group_size\": 32"),
            Status::Format,
            ["scales", "imply"],
        ),
        (
            "gptq-symmetric",
            ("\"desc_act\": false", "\"desc_act\": true"),
            Status::Unsupported,
            ["desc_act", "consecutive"],
        ),
        (
            "fp8-blocks",
            ("\"fp8\"", "\"bitsandbytes\""),
            Status::Unsupported,
            ["bitsandbytes", "GPTQ"],
        ),
    ] {
        let copy = Damaged::copy_of(&format!("../foreign/{fixture}"));
        let config = fs::read_to_string(copy.config_path()).expect("config.json");
        assert!(config.contains(edit.0), "{config}");
        let copy = copy.with_config_text(config.replace(edit.0, edit.1));
        assert_fails(common::try_open(copy.path()), status, &parts);
    }
}
