//! `cargo xtask pictures`: what the command `umrt` shows in a terminal, as SVG.

use anyhow::{Result, bail};

use crate::library::{Library, bundled_model, standalone};
use crate::python;
use crate::util::{root, run};

const RUN: &str = "docs/images/run.svg";
/// What is typed into the conversation, one line after the other.
const LINES: &[&str] = &[
    "Tell me a story about a red kite.",
    "And now one about a duck.",
];

pub fn command(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask pictures");
    }
    let library = Library::build()?;
    let model = bundled_model()?;
    let shown = model.strip_prefix(root()).unwrap_or(&model);
    let mut draw = standalone(python::types_interpreter()?);
    draw.env("PYTHONPATH", root().join("bindings/python"))
        .env("UMRT_LIBRARY", library.file())
        .arg(root().join("tools/terminal_picture.py"))
        .arg(root().join(RUN));
    for line in LINES {
        draw.args(["--type", line]);
    }
    run(draw.args(["--", "run"]).arg(shown).args(["--seed", "2"]))?;
    println!("{RUN}");
    Ok(())
}
