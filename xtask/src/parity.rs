//! `cargo xtask parity`: how exactly umrt agrees with transformers, on the fixtures
//! and on checkpoints drawn at random.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::python::{self, Requirements};
use crate::util::{cargo, root, run};

pub const FIXTURES: &str = "tests/fixtures/models";
const USAGE: &str = "usage: cargo xtask parity [--random N] [--seed S]";

/// By fixture and measure: what the tests wrote.
pub type Measured = BTreeMap<String, BTreeMap<String, f64>>;

pub fn command(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let Some(count) = options.random else {
        let fixtures = root().join(FIXTURES);
        let measured = measure(None)?;
        return print_table(&fixtures, &measured);
    };
    let drawn = tempfile::tempdir().context("making a temporary directory")?;
    draw(drawn.path(), count, options.seed)?;
    let outcome = measure(Some(drawn.path()));
    if outcome.is_err() {
        let kept = drawn.keep();
        eprintln!("parity: the checkpoints are kept in {}", kept.display());
        return outcome.map(drop);
    }
    print_table(drawn.path(), &outcome?)
}

struct Options {
    random: Option<usize>,
    seed: u64,
}

impl Options {
    fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options {
            random: None,
            seed: 0,
        };
        for pair in args.chunks(2) {
            match pair {
                [flag, count] if flag == "--random" => {
                    options.random = Some(count.parse().context(USAGE)?);
                }
                [flag, seed] if flag == "--seed" => options.seed = seed.parse().context(USAGE)?,
                _ => bail!(USAGE),
            }
        }
        Ok(options)
    }
}

const ORACLES: Requirements =
    Requirements::new("oracles", include_str!("../requirements/oracles.txt"));

/// Names a Python that has these packages already.
const INTERPRETER: &str = "UMRT_ORACLE_PYTHON";

fn draw(folder: &Path, count: usize, seed: u64) -> Result<()> {
    let python = match env::var_os(INTERPRETER) {
        Some(python) => PathBuf::from(python),
        None => python::interpreter(&ORACLES)?,
    };
    run(Command::new(python)
        .arg(root().join("tools/oracles/random_models.py"))
        .args(["--count", &count.to_string(), "--seed", &seed.to_string()])
        .arg("--out")
        .arg(folder))
    .context("drawing checkpoints")
}

/// Runs the tests on the fixtures, or on those in `drawn`.
pub fn measure(drawn: Option<&Path>) -> Result<Measured> {
    let report = root().join("target/parity");
    fs::create_dir_all(&report)?;
    let mut tests = cargo();
    tests
        .args(["test", "--package", "umrt", "--test", "parity", "--"])
        .env("UMRT_PARITY_REPORT", &report);
    match drawn {
        Some(folder) => tests
            .args(["float32_computation", "greedy_continuations"])
            .env("UMRT_PARITY_FIXTURES", folder),
        None => tests.args(["--skip", "documentation"]),
    };
    run(&mut tests)?;
    let names: &[&str] = match drawn {
        Some(_) => &["float32"],
        None => &["float32", "native"],
    };
    read_report(&report, names)
}

fn read_report(report: &Path, tests: &[&str]) -> Result<Measured> {
    let mut measured = Measured::new();
    for test in tests {
        let path = report.join(format!("{test}.json"));
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let by_fixture: Measured = serde_json::from_slice(&text)?;
        for (fixture, values) in by_fixture {
            let values = values.into_iter();
            let named = values.map(|(way, value)| (format!("{test} {way}"), value));
            measured.entry(fixture).or_default().extend(named);
        }
    }
    Ok(measured)
}

/// What the fixtures in a folder say of themselves, by family and name.
pub fn described(folder: &Path) -> Result<Vec<Value>> {
    let mut fixtures = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path: PathBuf = entry?.path().join("fixture.json");
        let fixture: Value = serde_json::from_slice(&fs::read(&path)?)
            .with_context(|| format!("reading {}", path.display()))?;
        fixtures.push(fixture);
    }
    fixtures.sort_by_key(|fixture| (fixture["family"].to_string(), fixture["name"].to_string()));
    Ok(fixtures)
}

/// Both ways to compute, as far as they were measured.
pub fn both_ways(values: &BTreeMap<String, f64>, test: &str, format: fn(f64) -> String) -> String {
    let ways = ["Kernels", "Stock"].map(|way| values.get(&format!("{test} {way}")));
    let shown: Vec<_> = ways
        .into_iter()
        .flatten()
        .map(|value| format(*value))
        .collect();
    shown.join(" / ")
}

fn print_table(folder: &Path, measured: &Measured) -> Result<()> {
    let fixtures = described(folder)?;
    println!(
        "\n{:<14} {:<30} {:<50} {:<15} {:<13} features",
        "family", "checkpoint", "weights", "float32", "16 bits"
    );
    for fixture in &fixtures {
        let text = |key: &str| fixture[key].as_str().with_context(|| format!("no {key}"));
        let values = measured
            .get(text("name")?)
            .with_context(|| format!("{fixture} was not measured"))?;
        let features = fixture["features"].as_array().context("no features")?;
        let features: Vec<_> = features.iter().filter_map(Value::as_str).collect();
        println!(
            "{:<14} {:<30} {:<50} {:<15} {:<13} {}",
            text("family")?,
            text("name")?,
            text("weights")?,
            both_ways(values, "float32", |value| format!("{value:.0e}")),
            both_ways(values, "native", |value| format!("{value:.2}")),
            features.join(", ")
        );
    }
    println!(
        "\n{} checkpoints, all within bounds; see docs/models.md for what is measured",
        fixtures.len()
    );
    Ok(())
}
