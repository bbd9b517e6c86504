//! `cargo xtask header`: `include/umrt.h` from the Rust source.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::util::root;
use crate::version;

const HEADER: &str = "include/umrt.h";
const CONFIG: &str = "cbindgen.toml";

/// The files of src/capi that make up the header, in its order.
const TOPICS: &[&str] = &[
    "guard",
    "library",
    "memory",
    "cancel",
    "model",
    "text",
    "context",
    "evaluation",
    "saving",
    "prefix",
    "adapter",
    "residency",
    "estimate",
    "quantize",
    "constraint",
    "sampler",
    "generate",
    "schedule",
    "embedding",
    "scoring",
];

pub fn command(args: &[String]) -> Result<()> {
    match args {
        [] => {
            let path = root().join(HEADER);
            fs::create_dir_all(root().join("include"))?;
            fs::write(&path, generate()?).with_context(|| format!("writing {}", path.display()))?;
            eprintln!("header: wrote {HEADER}");
            Ok(())
        }
        [flag] if flag == "--check" => check(),
        _ => bail!("usage: cargo xtask header [--check]"),
    }
}

/// Fails, and shows what differs, when the committed header is not the one that
/// the source gives.
pub fn check() -> Result<()> {
    let generated = generate()?;
    let committed = fs::read(root().join(HEADER)).unwrap_or_default();
    if committed == generated {
        return Ok(());
    }
    let mut diff = Command::new("diff")
        .current_dir(root())
        .args([
            "-u",
            "--new-file",
            "--label",
            HEADER,
            "--label",
            "from the source",
            HEADER,
            "-",
        ])
        .stdin(Stdio::piped())
        .spawn()
        .context("running diff")?;
    diff.stdin
        .take()
        .context("diff has no input")?
        .write_all(&generated)?;
    diff.wait()?;
    bail!("{HEADER} is not what the source gives: run `cargo xtask header` and commit the result")
}

fn generate() -> Result<Vec<u8>> {
    let config_file = root().join(CONFIG);
    if !config_file.is_file() {
        bail!("{CONFIG} is missing in {}", root().display());
    }
    let config = cbindgen::Config::from_file(&config_file)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("reading {CONFIG}"))?;
    let capi = root().join("src/capi");
    let bindings = TOPICS
        .iter()
        .fold(cbindgen::Builder::new(), |builder, topic| {
            builder.with_src(capi.join(topic).with_extension("rs"))
        })
        .with_config(config)
        .generate()
        .context("generating the header")?;
    let mut header = Vec::new();
    bindings.write(&mut header);
    let header = String::from_utf8(header).context("the header is not UTF-8")?;
    let header = without_safety_sections(&header);
    Ok(version::filled_in(&header).into_bytes())
}

/// Rust's "# Safety" sections repeat for the compiler what C programmers take
/// for granted: that pointers point to something.
fn without_safety_sections(header: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut in_safety = false;
    for line in header.lines() {
        if line.trim() == "* # Safety" {
            in_safety = true;
            while kept.last().is_some_and(|line| line.trim() == "*") {
                kept.pop();
            }
        }
        in_safety &= line.trim() != "*/";
        if !in_safety {
            kept.push(line);
        }
    }
    kept.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_safety_section_is_left_out() {
        let header = "/**\n * Frees.\n *\n * # Safety\n * A live handle.\n */\nvoid f(void);\n";
        let expected = "/**\n * Frees.\n */\nvoid f(void);\n";
        assert_eq!(without_safety_sections(header), expected);
    }
}
