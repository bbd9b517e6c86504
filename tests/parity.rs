//! The decoder against the reference implementations' logits, on the fixtures
//! that `tools/oracles` made of tiny random checkpoints.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use serde_json::Value;
use umrt::runtime::{Batch, Context, ContextOptions, Model, ModelOptions, Want};

/// Largest difference from a reference, relative to the range of its logits.
struct Bounds {
    reference: &'static str,
    relative: f32,
}

/// Float32 against float32; half precision and quantized weights against the
/// same weights computed in float32.
fn bounds(weights: &str) -> Bounds {
    let (reference, relative) = match weights {
        "float32" => ("f32", 1e-4),
        "float16" => ("f32", 3e-3),
        _ => ("f32", 2e-2),
    };
    Bounds {
        reference,
        relative,
    }
}

struct Fixture {
    directory: PathBuf,
    facts: Value,
    expected: Vec<u8>,
}

impl Fixture {
    fn all() -> Vec<Fixture> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
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

    fn name(&self) -> &str {
        self.facts["name"].as_str().expect("a name")
    }

    fn ids(&self, key: &str) -> Vec<i32> {
        let ids = self.facts[key].as_array().expect("token ids");
        ids.iter().map(|id| id.as_i64().expect("an id") as i32).collect()
    }

    /// f32 `[rows, vocab_size]`
    fn logits(&self, key: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.expected).expect("safetensors");
        let tensor = tensors.tensor(key).expect(key);
        let values = tensor.data().as_chunks::<4>().0;
        values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn open(&self) -> Arc<Model> {
        Model::open(&self.directory, ModelOptions::default())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }
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

fn relative_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let (low, high) = expected
        .iter()
        .fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let largest = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(!largest.is_nan() && high > low);
    largest / (high - low)
}

fn argmax(logits: &[f32]) -> i32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("logits").0 as i32
}

#[test]
fn prefill_and_decode_give_the_reference_logits() {
    let fixtures = Fixture::all();
    assert!(fixtures.len() >= 20, "found {} fixtures", fixtures.len());
    let mut failures = Vec::new();
    for fixture in fixtures {
        let Bounds {
            reference,
            relative,
        } = bounds(fixture.facts["weights"].as_str().expect("weights"));
        let model = fixture.open();
        // Chunks that are smaller than the prompt, so that steps meet the cache.
        for prefill_chunk in [512, 7] {
            let options = ContextOptions {
                prefill_chunk,
                ..ContextOptions::default()
            };
            let mut context = Context::new(&model, &options).expect("a context");
            let prefill = eval_all(&mut context, &fixture.ids("prompt_ids"));
            let decoded: Vec<f32> = fixture
                .ids("decode_ids")
                .iter()
                .flat_map(|id| eval_all(&mut context, &[*id]))
                .collect();
            let differences = [
                relative_difference(&prefill, &fixture.logits(&format!("{reference}.prefill"))),
                relative_difference(&decoded, &fixture.logits(&format!("{reference}.decode"))),
            ];
            println!(
                "{:32} chunk {prefill_chunk:3} prefill {:.1e} decode {:.1e} (bound {relative:.0e})",
                fixture.name(),
                differences[0],
                differences[1]
            );
            if differences.iter().any(|difference| *difference > relative) {
                failures.push(format!("{} {differences:?}", fixture.name()));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn greedy_continuations_in_float32_are_the_references() {
    let mut compared = 0;
    for fixture in Fixture::all() {
        if fixture.facts["weights"] != "float32" {
            continue;
        }
        let mut context = Context::new(&fixture.open(), &ContextOptions::default()).expect("one");
        let mut next = fixture.ids("prompt_ids");
        let greedy = fixture.ids("greedy_ids");
        assert_eq!(greedy.len(), 32);
        for (position, expected) in greedy.iter().enumerate() {
            context.eval(&Batch::of(&next), None).expect("an evaluation");
            let found = argmax(context.logits(0).expect("logits"));
            assert_eq!(found, *expected, "{} at {position}", fixture.name());
            next = vec![found];
        }
        compared += 1;
    }
    assert!(compared >= 5, "compared {compared}");
}
