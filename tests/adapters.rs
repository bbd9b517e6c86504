//! LoRA and DoRA adapters against the logits of PEFT and mlx-lm, on the fixtures that
//! `tools/oracles` made; and what adapters leave as it was.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::{
    assert_fails, assert_identical, context, context_of, eval, eval_all, fixture, open_fixture,
    relative_difference,
};
use safetensors::SafeTensors;
use serde_json::Value;
use umrt::decoder::Precision;
use umrt::error::Status;
use umrt::memory::{Category, ledger};
use umrt::mlx::CpuOps;
use umrt::runtime::{Adapter, ContextOptions, Model, ModelOptions, budget_info};

/// The largest difference from the reference's float32 logits, relative to their range.
const FLOAT32_BOUND: f32 = 1e-5;

const BOTH_WAYS: [CpuOps; 2] = [CpuOps::Kernels, CpuOps::Stock];

/// Bytes are counted for the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn adapters() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters")
}

struct Fixture {
    directory: PathBuf,
    facts: Value,
    prompt: Vec<i32>,
    decode: Vec<i32>,
}

impl Fixture {
    fn read(directory: PathBuf) -> Fixture {
        let json = |path: PathBuf| -> Value {
            serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
        };
        let facts = json(directory.join("fixture.json"));
        let base = json(fixture(facts["base"].as_str().expect("a base")).join("fixture.json"));
        let ids = |key: &str| {
            let ids = base[key].as_array().expect("token ids").iter();
            ids.map(|id| id.as_i64().expect("an id") as i32).collect()
        };
        Fixture {
            prompt: ids("prompt_ids"),
            decode: ids("decode_ids"),
            facts,
            directory,
        }
    }

    fn all() -> Vec<Fixture> {
        let entries = fs::read_dir(adapters()).expect("the fixtures");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.map(Fixture::read).collect()
    }

    fn expected(&self, name: &str) -> Vec<f32> {
        let bytes = fs::read(self.directory.join("expected.safetensors")).expect("logits");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let parts = ["prefill", "decode"].map(|part| {
            let tensor = tensors.tensor(&format!("{name}.{part}")).expect("logits");
            let values = tensor.data().as_chunks::<4>().0.iter();
            values.map(|x| f32::from_le_bytes(*x)).collect::<Vec<_>>()
        });
        parts.concat()
    }

    fn model(&self, cpu_ops: CpuOps) -> Arc<Model> {
        let options = ModelOptions {
            precision: Precision::Float32,
            cpu_ops,
            ..ModelOptions::default()
        };
        let base = fixture(self.facts["base"].as_str().expect("a base"));
        Model::open(&base, options).expect("a model")
    }

    /// Logits of prefill and of single tokens, with all of `adapters`.
    fn logits(&self, model: &Arc<Model>, adapters: &[&Path], chunk: usize) -> Vec<f32> {
        let open = |path: &&Path| (Adapter::open(model, path).expect("an adapter"), 1.0);
        let adapters: Vec<_> = adapters.iter().map(open).collect();
        let options = ContextOptions {
            prefill_chunk: chunk,
            ..ContextOptions::default()
        };
        let mut context = context_of(model, options);
        context.set_adapters(&adapters).expect("set");
        let mut logits = eval_all(&mut context, &self.prompt);
        for id in &self.decode {
            logits.extend(eval_all(&mut context, &[*id]));
        }
        logits
    }
}

fn attention_adapter() -> PathBuf {
    adapters().join("peft-attention")
}

#[test]
fn adapted_models_give_the_logits_of_peft_and_mlx_lm() {
    let _alone = alone();
    let fixtures = Fixture::all();
    assert!(fixtures.len() >= 6, "found {} fixtures", fixtures.len());
    let mut failures = Vec::new();
    for fixture in &fixtures {
        let expected = fixture.expected("f32");
        for (cpu_ops, chunk) in [
            (CpuOps::Kernels, 512),
            (CpuOps::Kernels, 7),
            (CpuOps::Stock, 7),
        ] {
            let found = fixture.logits(&fixture.model(cpu_ops), &[&fixture.directory], chunk);
            let difference = relative_difference(&found, &expected);
            let line = format!("{}: {cpu_ops:?} {difference:.1e}", fixture.facts["name"]);
            println!("{line}");
            if difference > FLOAT32_BOUND {
                failures.push(line);
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn two_adapters_add_up() {
    let _alone = alone();
    let mut compared = 0;
    for fixture in Fixture::all() {
        let Some(other) = fixture.facts["together_with"].as_str() else {
            continue;
        };
        let other = adapters().join(other);
        let both = [other.as_path(), fixture.directory.as_path()];
        for cpu_ops in BOTH_WAYS {
            let found = fixture.logits(&fixture.model(cpu_ops), &both, 512);
            let difference = relative_difference(&found, &fixture.expected("together"));
            assert!(difference <= FLOAT32_BOUND, "{cpu_ops:?} {difference:.1e}");
            compared += 1;
        }
    }
    assert!(compared > 0);
}

#[test]
fn half_precision_models_compute_with_adapters_in_their_own_type() {
    let _alone = alone();
    let adapted = |name| BOTH_WAYS.map(|cpu_ops| (Fixture::read(adapters().join(name)), cpu_ops));
    for (fixture, cpu_ops) in ["mlx-4bit", "mlx-dora-4bit"].into_iter().flat_map(adapted) {
        let options = ModelOptions {
            cpu_ops,
            ..ModelOptions::default()
        };
        let base = common::fixture("qwen3-q4-g32-bf16");
        let model = Model::open(&base, options).expect("a model");
        let found = fixture.logits(&model, &[&fixture.directory], 512);
        let difference = relative_difference(&found, &fixture.expected("f32"));
        assert!(
            (1e-4..0.1).contains(&difference),
            "{cpu_ops:?}: {difference:.1e}"
        );
    }
}

#[test]
fn nothing_remains_of_adapters_that_were_removed_or_have_the_scale_zero() {
    let _alone = alone();
    let fixture = Fixture::read(attention_adapter());
    for cpu_ops in BOTH_WAYS {
        let model = fixture.model(cpu_ops);
        let mut changed = context(&model);
        let mut untouched = context(&model);
        let before = eval_all(&mut changed, &fixture.prompt);
        let adapter = Adapter::open(&model, &attention_adapter()).expect("an adapter");
        let with = |context: &mut umrt::runtime::Context, scale: Option<f32>| {
            let adapters: Vec<_> = scale.map(|s| (adapter.clone(), s)).into_iter().collect();
            context.set_adapters(&adapters).expect("set");
            context.trim(0, 0).expect("trimmed");
            eval_all(context, &fixture.prompt)
        };
        let adapted = with(&mut changed, Some(1.0));
        assert!(relative_difference(&adapted, &before) > 0.01);
        assert_identical(&eval_all(&mut untouched, &fixture.prompt), &before);
        let half = with(&mut changed, Some(0.5));
        assert!(relative_difference(&half, &adapted) > 0.01);
        assert_identical(&with(&mut changed, Some(0.0)), &before);
        assert_identical(&with(&mut changed, Some(1.0)), &adapted);
        assert_identical(&with(&mut changed, None), &before);
    }
}

#[test]
fn keys_and_values_stay_those_that_they_were_made_with() {
    let _alone = alone();
    let fixture = Fixture::read(attention_adapter());
    let model = fixture.model(CpuOps::Kernels);
    let adapter = Adapter::open(&model, &attention_adapter()).expect("an adapter");
    let next = fixture.decode[0];
    let continued = |first: f32, then: f32| {
        let mut context = context(&model);
        context
            .set_adapters(&[(adapter.clone(), first)])
            .expect("set");
        eval(&mut context, &fixture.prompt);
        context
            .set_adapters(&[(adapter.clone(), then)])
            .expect("set");
        eval(&mut context, &[next])
    };
    let mixed = continued(1.0, 0.0);
    assert!(relative_difference(&mixed, &continued(0.0, 0.0)) > 0.01);
    assert!(relative_difference(&mixed, &continued(1.0, 1.0)) > 0.01);
}

#[test]
fn adapters_are_counted_and_reserved_until_their_last_user_is_gone() {
    let _alone = alone();
    let bytes = || ledger().bytes(Category::Adapters);
    let model = open_fixture("llama3-f32");
    let (before, reserved) = (bytes(), budget_info().expect("a budget").reserved.kept);
    let adapter = Adapter::open(&model, &attention_adapter()).expect("an adapter");
    // q and v of two layers, rank 3, float32.
    let expected = 2 * 4 * 3 * ((64 + 64) + (64 + 32));
    assert_eq!(adapter.mapped_bytes(), expected);
    assert_eq!(bytes(), before + expected);
    assert_eq!(
        budget_info().expect("a budget").reserved.kept,
        reserved + expected
    );
    let mut context = context(&model);
    context
        .set_adapters(&[(adapter.clone(), 1.0)])
        .expect("set");
    drop((adapter, model));
    eval(&mut context, &[1, 2, 3]);
    assert_eq!(bytes(), before + expected, "the context holds it");
    context.set_adapters(&[]).expect("set");
    assert_eq!(bytes(), before);
}

#[test]
fn adapters_and_scales_that_do_not_belong_there_change_nothing() {
    let _alone = alone();
    let fixture = Fixture::read(attention_adapter());
    let (model, other) = (open_fixture("llama3-f32"), open_fixture("llama3-f32"));
    let adapter = Adapter::open(&model, &attention_adapter()).expect("an adapter");
    let foreign = Adapter::open(&other, &attention_adapter()).expect("an adapter");
    let mut context = context(&model);
    context
        .set_adapters(&[(adapter.clone(), 1.0)])
        .expect("set");
    let before = eval(&mut context, &fixture.prompt);
    let set = context.set_adapters(&[(adapter.clone(), 1.0), (foreign, 1.0)]);
    assert_fails(
        set,
        Status::InvalidArgument,
        &["adapter 1", "another model"],
    );
    for scale in [f32::NAN, f32::INFINITY] {
        let set = context.set_adapters(&[(adapter.clone(), scale)]);
        assert_fails(set, Status::InvalidArgument, &["scale"]);
    }
    context.trim(0, 0).expect("trimmed");
    assert_identical(&eval(&mut context, &fixture.prompt), &before);
}

/// A copy of an adapter whose tensors were changed.
fn damaged(name: &str, change: impl Fn(&mut Tensors)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    let (config, weights) = ("adapter_config.json", "adapter_model.safetensors");
    fs::copy(adapters().join(name).join(config), copy.path().join(config)).expect("copied");
    let bytes = fs::read(adapters().join(name).join(weights)).expect("weights");
    let read = SafeTensors::deserialize(&bytes).expect("safetensors");
    let owned = |(name, tensor): (String, safetensors::tensor::TensorView<'_>)| {
        (name, tensor.shape().to_vec(), tensor.data().to_vec())
    };
    let mut tensors: Tensors = read.tensors().into_iter().map(owned).collect();
    tensors.sort();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, shape, data)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), data);
        (name.clone(), view.expect("a tensor"))
    });
    let bytes = safetensors::serialize(views, None).expect("serialized");
    fs::write(copy.path().join(weights), bytes).expect("written");
    copy
}

/// Name, shape and float32 values.
type Tensors = Vec<(String, Vec<usize>, Vec<u8>)>;

#[test]
fn bad_adapters_are_refused_with_what_is_wrong_in_them() {
    let _alone = alone();
    let model = open_fixture("llama3-f32");
    let before = ledger().bytes(Category::Adapters);
    let rename = |from: &'static str, to: &'static str| {
        damaged("peft-attention", move |tensors| {
            for (name, ..) in tensors {
                *name = name.replace(from, to);
            }
        })
    };
    let refuse = |copy: &tempfile::TempDir, status, parts: &[&str]| {
        assert_fails(Adapter::open(&model, copy.path()), status, parts);
    };
    let half = damaged("peft-attention", |tensors| drop(tensors.remove(0)));
    refuse(&half, Status::Format, &["lora_A.weight", "other part"]);
    let shapes = damaged("peft-attention", |tensors| {
        let (_, shape, data) = &mut tensors[0];
        shape[1] -= 1;
        data.truncate(4 * shape[0] * shape[1]);
    });
    refuse(&shapes, Status::Format, &["q_proj", "63", "64"]);
    let ranks = damaged("peft-attention", |tensors| {
        let (_, shape, data) = &mut tensors[0];
        shape[0] -= 1;
        data.truncate(4 * shape[0] * shape[1]);
    });
    refuse(&ranks, Status::Format, &["rank 3"]);
    let layer = rename("layers.1", "layers.2");
    refuse(&layer, Status::Format, &["layer 2", "another model"]);
    let module = rename("q_proj", "query");
    refuse(
        &module,
        Status::Format,
        &["self_attn.query", "another model"],
    );
    let embedding = rename("layers.0.self_attn.q_proj", "embed_tokens");
    refuse(
        &embedding,
        Status::Unsupported,
        &["embed_tokens", "embeddings"],
    );
    let magnitudes = rename("lora_A.weight", "lora_magnitude_vector");
    refuse(&magnitudes, Status::Unsupported, &["DoRA"]);
    let model_with_biases = open_fixture("llama-bias-f32");
    let without = damaged("peft-dora", |tensors| {
        tensors.retain(|(name, ..)| !name.ends_with("1.mlp.up_proj.lora_magnitude_vector"));
    });
    assert_fails(
        Adapter::open(&model_with_biases, without.path()),
        Status::Format,
        &["up_proj.lora_magnitude_vector", "other part"],
    );
    let short = damaged("peft-dora", |tensors| {
        let is_one = |name: &str| name.ends_with("lora_magnitude_vector");
        let one = tensors.iter_mut().find(|(name, ..)| is_one(name));
        let (_, shape, data) = one.expect("magnitudes");
        shape[0] -= 1;
        data.truncate(4 * shape[0]);
    });
    assert_fails(
        Adapter::open(&model_with_biases, short.path()),
        Status::Format,
        &["lora_magnitude_vector", "expected"],
    );
    let saved = rename("q_proj.lora_A.weight", "q_proj.weight");
    refuse(&saved, Status::Unsupported, &["modules_to_save"]);
    let whole = rename("", "");
    let weights = whole.path().join("adapter_model.safetensors");
    let length = fs::metadata(&weights).expect("a file").len();
    let file = fs::File::options()
        .write(true)
        .open(&weights)
        .expect("a file");
    file.set_len(length - 1).expect("truncated");
    refuse(&whole, Status::Format, &["truncated"]);
    fs::remove_file(&weights).expect("removed");
    refuse(&whole, Status::NotFound, &["adapter_model.safetensors"]);
    let nowhere = Adapter::open(&model, Path::new("/nowhere/at/all"));
    assert_fails(nowhere, Status::NotFound, &["/nowhere/at/all"]);
    assert_fails(
        Adapter::open(&model, &adapters().join("peft-fused")),
        Status::Format,
        &["proj", "another model"],
    );
    assert_eq!(ledger().bytes(Category::Adapters), before);
}
