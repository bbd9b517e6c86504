//! The decoder against the reference implementations' logits, on the fixtures
//! that `tools/oracles` made of tiny random checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use serde_json::Value;
use umrt::decoder::Precision;
use umrt::mlx::CpuOps;
use umrt::runtime::{Batch, Context, ContextOptions, Model, ModelOptions, Want};

/// Computing in float32, whatever the weights are: the largest difference from
/// the reference's float32 logits, relative to their range. A fixture drawn at random
/// may say another one.
const FLOAT32_BOUND: f32 = 1e-5;

/// Computing in the checkpoint's own half precision: largest and mean difference
/// from the float32 logits, relative to those of the reference implementation
/// when it computes in that precision. Both round, in different places.
const NATIVE_MAX_BOUND: f32 = 1.5;
const NATIVE_MEAN_BOUND: f32 = 1.2;

struct Fixture {
    directory: PathBuf,
    facts: Value,
    expected: Vec<u8>,
}

impl Fixture {
    /// Those of this repository, or those of `cargo xtask parity --random`.
    fn all() -> Vec<Fixture> {
        let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        let root = drawn().unwrap_or_else(own);
        let mut directories: Vec<_> = fs::read_dir(&root)
            .expect("the fixtures")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.join("fixture.json").exists())
            .collect();
        directories.sort();
        directories.into_iter().map(Fixture::read).collect()
    }

    fn read(directory: PathBuf) -> Fixture {
        let facts = fs::read(directory.join("fixture.json")).expect("fixture.json");
        Fixture {
            facts: serde_json::from_slice(&facts).expect("JSON"),
            expected: fs::read(directory.join("expected.safetensors")).expect("logits"),
            directory,
        }
    }

    fn float32_bound(&self) -> f32 {
        let bound = self.facts["float32_bound"].as_f64();
        bound.map_or(FLOAT32_BOUND, |bound| bound as f32)
    }

    /// In a context of the length that the fixture was made for.
    fn options(&self) -> ContextOptions {
        let n_ctx = self.facts["n_ctx"].as_u64();
        ContextOptions {
            n_ctx: n_ctx.map_or(0, |n| n as usize),
            ..ContextOptions::default()
        }
    }

    fn name(&self) -> &str {
        self.facts["name"].as_str().expect("a name")
    }

    fn ids(&self, key: &str) -> Vec<i32> {
        let ids = self.facts[key].as_array().expect("token ids");
        ids.iter()
            .map(|id| id.as_i64().expect("an id") as i32)
            .collect()
    }

    /// Logits of one reference, prefill and token by token after one another.
    fn reference(&self, name: &str) -> Vec<f32> {
        let mut logits = self.logits(&format!("{name}.prefill"));
        logits.extend(self.logits(&format!("{name}.decode")));
        logits
    }

    /// f32 `[rows, vocab_size]`
    fn logits(&self, key: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.expected).expect("safetensors");
        let tensor = tensors.tensor(key).expect(key);
        let values = tensor.data().as_chunks::<4>().0;
        values
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    }

    fn open(&self, precision: Precision, cpu_ops: CpuOps) -> Arc<Model> {
        let options = ModelOptions {
            precision,
            cpu_ops,
            ..ModelOptions::default()
        };
        Model::open(&self.directory, options)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }
}

/// Where fixtures drawn at random are, if these are to be tested.
fn drawn() -> Option<PathBuf> {
    env::var_os("UMRT_PARITY_FIXTURES").map(PathBuf::from)
}

fn rows(context: &Context) -> Vec<f32> {
    let row = |row| context.logits(row).expect("logits").iter().copied();
    (0..context.n_logits_rows()).flat_map(row).collect()
}

fn eval_all(context: &mut Context, tokens: &[i32]) -> Vec<f32> {
    let marks = vec![1; tokens.len()];
    let batch = Batch {
        want: Want::Marked(&marks),
        ..Batch::of(tokens)
    };
    context.eval(&batch, None).expect("an evaluation");
    rows(context)
}

/// The two ways to compute on a CPU; the stock one is what runs on GPUs.
const BOTH_WAYS: [CpuOps; 2] = [CpuOps::Kernels, CpuOps::Stock];

/// Prefill and token-by-token logits after one another.
fn logits_of(
    fixture: &Fixture,
    precision: Precision,
    cpu_ops: CpuOps,
    prefill_chunk: usize,
) -> Vec<f32> {
    let options = ContextOptions {
        prefill_chunk,
        ..fixture.options()
    };
    let mut context = Context::new(&fixture.open(precision, cpu_ops), &options).expect("a context");
    let mut logits = eval_all(&mut context, &fixture.ids("prompt_ids"));
    for id in fixture.ids("decode_ids") {
        logits.extend(eval_all(&mut context, &[id]));
    }
    logits
}

/// What was measured, by fixture and way to compute.
type Measured = BTreeMap<String, BTreeMap<String, f32>>;

/// The larger of what was there and `value`.
fn note(measured: &mut Measured, fixture: &Fixture, cpu_ops: CpuOps, value: f32) {
    let ways = measured.entry(fixture.name().to_owned()).or_default();
    let largest = ways.entry(format!("{cpu_ops:?}")).or_default();
    *largest = largest.max(value);
}

/// For `cargo xtask models`, if it is what runs the tests.
fn report(test: &str, measured: &Measured) {
    if let Some(folder) = env::var_os("UMRT_PARITY_REPORT") {
        let json = serde_json::to_vec(measured).expect("JSON");
        let path = Path::new(&folder).join(format!("{test}.json"));
        fs::write(path, json).expect("a report");
    }
}

fn range(values: &[f32]) -> f32 {
    let high = values.iter().copied().fold(f32::MIN, f32::max);
    high - values.iter().copied().fold(f32::MAX, f32::min)
}

/// Largest and mean absolute difference.
fn differences(found: &[f32], expected: &[f32]) -> (f32, f32) {
    assert_eq!(found.len(), expected.len());
    let differences = || found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let mean = differences().sum::<f32>() / found.len() as f32;
    assert!(mean.is_finite());
    (differences().fold(0.0, f32::max), mean)
}

fn argmax(logits: &[f32]) -> i32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("logits").0 as i32
}

#[test]
fn float32_computation_gives_the_reference_logits_for_all_weights() {
    let fixtures = Fixture::all();
    let n_fixtures = fixtures.len();
    assert!(n_fixtures >= 60 || drawn().is_some(), "found {n_fixtures}");
    let mut failures = Vec::new();
    let mut measured = Measured::new();
    for fixture in fixtures {
        let expected = fixture.reference("f32");
        // Also in chunks smaller than the prompt, so that steps meet the cache.
        for (cpu_ops, chunk) in [
            (CpuOps::Kernels, 512),
            (CpuOps::Kernels, 7),
            (CpuOps::Stock, 7),
        ] {
            let found = logits_of(&fixture, Precision::Float32, cpu_ops, chunk);
            let relative = differences(&found, &expected).0 / range(&expected);
            note(&mut measured, &fixture, cpu_ops, relative);
            println!(
                "{:32} {cpu_ops:?} chunk {chunk:3}: {relative:.1e}",
                fixture.name()
            );
            if relative > fixture.float32_bound() {
                failures.push(format!("{} {cpu_ops:?}: {relative:.1e}", fixture.name()));
            }
        }
    }
    report("float32", &measured);
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn half_precision_rounds_no_more_than_the_reference_does() {
    let mut compared = 0;
    let mut failures = Vec::new();
    let mut measured = Measured::new();
    for fixture in Fixture::all() {
        if fixture.facts["references"]["native"]["dtype"]
            .as_str()
            .is_none_or(|t| t == "float32")
        {
            continue;
        }
        let exact = fixture.reference("f32");
        let theirs = differences(&fixture.reference("native"), &exact);
        for cpu_ops in BOTH_WAYS {
            let found = logits_of(&fixture, Precision::Native, cpu_ops, 512);
            let ours = differences(&found, &exact);
            let (largest, mean) = (ours.0 / theirs.0, ours.1 / theirs.1);
            note(&mut measured, &fixture, cpu_ops, mean);
            let figures = format!("{cpu_ops:?} max {largest:.2}x mean {mean:.2}x");
            println!("{:32} {figures} of the reference", fixture.name());
            if largest > NATIVE_MAX_BOUND || mean > NATIVE_MEAN_BOUND {
                failures.push(format!("{}: {figures}", fixture.name()));
            }
        }
        compared += 1;
    }
    report("native", &measured);
    assert!(compared >= 27, "compared {compared}");
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn greedy_continuations_in_float32_are_the_references() {
    let mut compared = 0;
    for fixture in Fixture::all() {
        if fixture.facts["weights"] != "float32" && drawn().is_none() {
            continue;
        }
        let greedy = fixture.ids("greedy_ids");
        assert!(greedy.len() == 32 || drawn().is_some());
        for cpu_ops in BOTH_WAYS {
            let model = fixture.open(Precision::Float32, cpu_ops);
            let mut context = Context::new(&model, &fixture.options()).expect("one");
            let mut next = fixture.ids("prompt_ids");
            for (position, expected) in greedy.iter().enumerate() {
                context
                    .eval(&Batch::of(&next), None)
                    .expect("an evaluation");
                let found = argmax(context.logits(0).expect("logits"));
                assert_eq!(found, *expected, "{} at {position}", fixture.name());
                next = vec![found];
            }
        }
        compared += 1;
    }
    assert!(compared >= 25 || drawn().is_some(), "compared {compared}");
}

#[test]
fn every_family_has_a_fixture_and_a_place_in_the_documentation() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/models.md");
    let document = fs::read_to_string(document).expect("docs/models.md");
    let fixtures = Fixture::all();
    for fixture in &fixtures {
        let name = fixture.name();
        let is_listed = document.contains(&format!("| {name} |"));
        assert!(
            is_listed,
            "{name} is not in docs/models.md: run cargo xtask models"
        );
    }
    // Of the whole model, and of the text model in it.
    let model_types = |fixture: &Fixture| {
        let config = fs::read(fixture.directory.join("config.json")).expect("config.json");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        let thinker = &config["thinker_config"]["text_config"];
        let parts = [&config, &config["text_config"], thinker];
        let types = parts.map(|part| part["model_type"].clone());
        types
            .into_iter()
            .filter_map(|value| value.as_str().map(str::to_owned))
    };
    let compared: BTreeSet<_> = fixtures.iter().flat_map(model_types).collect();
    let known: BTreeSet<_> = umrt::decoder::model_types().map(str::to_owned).collect();
    assert_eq!(compared, known);
}
