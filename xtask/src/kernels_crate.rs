//! The kernels and what they use of umrt, as a crate of their own: they know nothing of
//! MLX, so it can be compiled for what MLX is not there for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::util::{Metadata, quoted, root, write_if_changed};

/// What the kernels use, and their tests.
const DEPENDENCIES: [&str; 6] = [
    "half",
    "libc",
    "memmap2",
    "proptest",
    "safetensors",
    "thiserror",
];

/// Writes it to a folder, with one more test.
pub fn write(metadata: &Metadata, folder: &Path, test: &str) -> Result<()> {
    let source = |file: &str| quoted(&root().join("src").join(file).display().to_string());
    let library = format!(
        "#![allow(dead_code)]\n\
         #[path = {error}]\npub mod error;\n\
         #[path = {host}]\nmod host;\n\
         #[path = {kernels}]\npub mod kernels;\n\
         #[path = {panics}]\nmod panics;\n\
         pub mod memory {{\n\
             #[path = {ledger}]\nmod ledger;\n\
             #[path = {probe}]\nmod probe;\n\
             pub use ledger::*;\npub use probe::probe;\n\
         }}\n\
         {test}",
        error = source("error.rs"),
        host = source("host.rs"),
        kernels = source("kernels/mod.rs"),
        panics = source("panics.rs"),
        ledger = source("memory/ledger.rs"),
        probe = source("memory/probe.rs"),
    );
    fs::create_dir_all(folder)?;
    write_if_changed(&folder.join("lib.rs"), &library)?;
    write_if_changed(&folder.join("Cargo.toml"), &manifest(metadata)?)?;
    let lock = folder.join("Cargo.lock");
    fs::copy(root().join("Cargo.lock"), &lock)
        .with_context(|| format!("writing {}", lock.display()))?;
    Ok(())
}

fn manifest(metadata: &Metadata) -> Result<String> {
    let mut manifest = format!(
        "[package]\n\
         name = \"umrt-kernels\"\n\
         version = \"0.0.0\"\n\
         edition = {edition}\n\
         \n\
         [lib]\n\
         path = \"lib.rs\"\n\
         \n\
         [profile.test]\n\
         opt-level = 2\n\
         debug = \"line-tables-only\"\n\
         \n\
         [workspace]\n\
         \n\
         [dependencies]\n",
        edition = quoted(&metadata.edition),
    );
    for name in DEPENDENCIES {
        let requirement = metadata
            .requirements
            .get(name)
            .with_context(|| format!("umrt does not depend on {name}"))?;
        manifest += &format!("{name} = {}\n", quoted(requirement));
    }
    Ok(manifest)
}
