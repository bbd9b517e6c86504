//! `bindings.rs` of mlx-sys, for the machine this runs on or for any other.
//!
//! mlx-c's headers want little of a C library, and `xtask/include/libc` is all
//! they get: the result depends on no system header.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, Key};
use crate::clang;
use crate::mlx::Source;
use crate::util::{files_ending_in, root};

/// The folder that holds `bindings.rs` for a target, given clang's options for it.
pub fn folder(
    cache: &Cache,
    source: &Source,
    target: &str,
    clang_args: &[&str],
) -> Result<PathBuf> {
    let libc = root().join("xtask/include/libc");
    let mut key = Key::default()
        .text(include_str!("bindings.rs"))
        .text(&clang_args.join(" "));
    for header in source.headers.iter().chain(&files_ending_in(&libc, "h")?) {
        key = key.file(header)?;
    }
    cache.entry(&format!("mlx-bindings-{target}"), key, |dir| {
        clang::load(cache)?;
        eprintln!("setup: generating the Rust bindings of mlx-c for {target}");
        generate(source, &libc, clang_args, &dir.join("bindings.rs"))
            .with_context(|| format!("generating the Rust bindings of mlx-c for {target}"))
    })
}

/// Makes the same choices as the build script of mlx-sys.
fn generate(source: &Source, libc: &Path, clang_args: &[&str], file: &Path) -> Result<()> {
    let builder = bindgen::Builder::default()
        .rust_target("1.73.0".parse().expect("a Rust version"))
        .clang_args(clang_args)
        .clang_args(["-ffreestanding", "-nostdinc"])
        .clang_arg(format!("-isystem{}", libc.display()))
        .clang_arg(format!("-I{}", source.root.display()));
    let builder = source.headers.iter().fold(builder, |builder, header| {
        builder.header(header.to_string_lossy())
    });
    Ok(builder.generate()?.write_to_file(file)?)
}
