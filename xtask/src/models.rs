//! `cargo xtask models`: docs/models.md from the fixtures and what the parity
//! tests measure on them.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::parity::{FIXTURES, Measured, both_ways, described, measure};
use crate::util::root;

const DOCUMENT: &str = "docs/models.md";

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
    let document = document(&measure(None)?)?;
    fs::write(root().join(DOCUMENT), document)?;
    eprintln!("models: wrote {DOCUMENT}");
    Ok(())
}

fn document(measured: &Measured) -> Result<String> {
    let fixtures = described(&root().join(FIXTURES))?;
    let mut document = INTRODUCTION.to_owned();
    document.push_str("\n| model_type | checkpoint | weights | features | float32 | 16 bits |\n");
    document.push_str("|---|---|---|---|---|---|\n");
    let mut family_before = "";
    for fixture in &fixtures {
        let family = fixture["family"].as_str().context("no family")?;
        let shown = if family == family_before { "" } else { family };
        document.push_str(&row(shown, fixture, measured)?);
        family_before = family;
    }
    Ok(document)
}

fn row(family: &str, fixture: &Value, measured: &Measured) -> Result<String> {
    let text = |key: &str| fixture[key].as_str().with_context(|| format!("no {key}"));
    let name = text("name")?;
    let values = measured
        .get(name)
        .with_context(|| format!("{name} was not measured"))?;
    let features = fixture["features"].as_array().context("no features")?;
    let features: Vec<_> = features.iter().filter_map(Value::as_str).collect();
    let mut row = String::new();
    writeln!(
        row,
        "| {family} | {name} | {} | {} | {} | {} |",
        text("weights")?,
        features.join(", "),
        both_ways(values, "float32", |value| format!("{value:.0e}")),
        both_ways(values, "native", |value| format!("{value:.2}")),
    )?;
    Ok(row)
}
