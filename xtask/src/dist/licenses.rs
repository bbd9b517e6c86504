//! The terms of what is inside of the packages.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::tarball::copy;
use crate::util::{cargo, output, root};

const OWN: &[&str] = &["LICENSE-APACHE", "LICENSE-MIT"];
const NOTICE: &str = "THIRD_PARTY.md";

pub fn write(mlx: &Path, folder: &Path) -> Result<()> {
    for name in OWN {
        copy(&root().join(name), &folder.join(name))?;
    }
    fs::write(folder.join(NOTICE), notice(mlx)?).context("writing the third parties' terms")
}

fn notice(mlx: &Path) -> Result<String> {
    let mut text = String::from(
        "# What is inside of umrt besides its own code\n\n\
         Rust crates, linked into the library, with their licenses:\n\n\
         | crate | version | license | source |\n|---|---|---|---|\n",
    );
    for [name, version, license, source] in crates()? {
        writeln!(text, "| {name} | {version} | {license} | {source} |")?;
    }
    let license = mlx_license(mlx).context("reading MLX's license")?;
    write!(
        text,
        "\nMLX and its C interface mlx-c, by Apple, under this license:\n\n```\n{}\n```\n\n\
         Beside MLX lie the libraries that its Python package brings: LAPACK and BLAS of \
         Netlib (BSD), libgfortran and libquadmath of GCC (GPL with the runtime library \
         exception, LGPL).\n",
        license.trim()
    )?;
    Ok(text)
}

fn mlx_license(mlx: &Path) -> Result<String> {
    let info = fs::read_dir(mlx)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|ext| ext == "dist-info"))
        .context("MLX's package has no dist-info")?;
    Ok(fs::read_to_string(info.join("licenses/LICENSE"))?)
}

/// Name, version, license and source of every crate that is linked in.
fn crates() -> Result<Vec<[String; 4]>> {
    let listing = output(cargo().args([
        "tree",
        "--package=umrt",
        "--edges=normal",
        "--prefix=none",
        "--no-dedupe",
        "--format={p}\t{l}\t{r}",
    ]))?;
    let mut found: Vec<[String; 4]> = Vec::new();
    for line in listing.lines() {
        let mut fields = line.split('\t');
        let package = fields.next().unwrap_or_default();
        let mut words = package.split_whitespace();
        let name = words.next().context("a crate has a name")?.to_owned();
        let version = words.next().context("a crate has a version")?;
        let version = version.trim_start_matches('v').to_owned();
        let license = fields.next().unwrap_or_default().to_owned();
        let source = fields.next().unwrap_or_default().to_owned();
        if name != "umrt" {
            found.push([name, version, license, source]);
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}
