//! `cargo xtask models`: docs/models.md from the fixtures and what the parity
//! tests measure on them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::util::{cargo, root, run};

const DOCUMENT: &str = "docs/models.md";
const FIXTURES: &str = "tests/fixtures/models";

const INTRODUCTION: &str = "\
# Models

What `model_type` in config.json may be, and the tiny random checkpoints that each family is
compared on with transformers. Written by `cargo xtask models`; do not edit.

- **float32**: the largest difference between a logit of umrt, computing in float32, and of
  transformers doing so, relative to the range of the logits; by our kernels and by MLX's
  operations, over a prompt in chunks and tokens one by one. The tests demand 1e-5.
- **16 bits**: the mean difference from those float32 logits when computing in the
  checkpoint's own type, relative to what the reference's computation in that type differs
  by (transformers, or mlx-lm for quantized weights). The tests demand 1.2.
";

pub fn command(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask models");
    }
    let report = root().join("target/parity");
    fs::create_dir_all(&report)?;
    run(cargo()
        .args(["test", "--package", "umrt", "--test", "parity"])
        .args(["--", "--skip", "documentation"])
        .env("UMRT_PARITY_REPORT", &report))?;
    let document = document(&measured(&report)?)?;
    fs::write(root().join(DOCUMENT), document)?;
    eprintln!("models: wrote {DOCUMENT}");
    Ok(())
}

/// By fixture and measure: what the tests wrote.
type Measured = BTreeMap<String, BTreeMap<String, f64>>;

fn measured(report: &Path) -> Result<Measured> {
    let mut measured = Measured::new();
    for test in ["float32", "native"] {
        let path = report.join(format!("{test}.json"));
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let by_fixture: BTreeMap<String, BTreeMap<String, f64>> = serde_json::from_slice(&text)?;
        for (fixture, values) in by_fixture {
            let values = values.into_iter();
            let named = values.map(|(way, value)| (format!("{test} {way}"), value));
            measured.entry(fixture).or_default().extend(named);
        }
    }
    Ok(measured)
}

fn document(measured: &Measured) -> Result<String> {
    let mut families: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in fs::read_dir(root().join(FIXTURES))? {
        let path = entry?.path().join("fixture.json");
        let fixture: Value = serde_json::from_slice(&fs::read(&path)?)
            .with_context(|| format!("reading {}", path.display()))?;
        let family = fixture["family"].as_str().context("no family")?.to_owned();
        families.entry(family).or_default().push(fixture);
    }
    let mut document = INTRODUCTION.to_owned();
    document.push_str("\n| model_type | checkpoint | weights | features | float32 | 16 bits |\n");
    document.push_str("|---|---|---|---|---|---|\n");
    for (family, mut fixtures) in families {
        fixtures.sort_by_key(|fixture| fixture["name"].to_string());
        for (index, fixture) in fixtures.iter().enumerate() {
            let family = if index == 0 { family.as_str() } else { "" };
            document.push_str(&row(family, fixture, measured)?);
        }
    }
    Ok(document)
}

fn row(family: &str, fixture: &Value, measured: &Measured) -> Result<String> {
    let text = |key: &str| fixture[key].as_str().with_context(|| format!("no {key}"));
    let name = text("name")?;
    let values = measured
        .get(name)
        .with_context(|| format!("{name} was not measured"))?;
    let both = |test: &str, format: fn(f64) -> String| {
        let ways = ["Kernels", "Stock"].map(|way| values.get(&format!("{test} {way}")));
        let shown: Vec<_> = ways
            .into_iter()
            .flatten()
            .map(|value| format(*value))
            .collect();
        shown.join(" / ")
    };
    let features = fixture["features"].as_array().context("no features")?;
    let features: Vec<_> = features.iter().filter_map(Value::as_str).collect();
    let mut row = String::new();
    writeln!(
        row,
        "| {family} | {name} | {} | {} | {} | {} |",
        text("weights")?,
        features.join(", "),
        both("float32", |value| format!("{value:.0e}")),
        both("native", |value| format!("{value:.2}")),
    )?;
    Ok(row)
}
