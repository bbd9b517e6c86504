//! `cargo xtask check-apple`: clippy over the Apple-only code from Linux, with
//! the installed stable toolchain and without Apple's SDK.
//!
//! Where `rustup target add` has installed the targets, nothing is needed but
//! mlx-sys's bindings for them. Otherwise std is built once from the rust-src of
//! the same version, the toolchain's own or Debian's. C++ isn't compiled and
//! nothing is linked: that takes a Mac.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::bindings;
use crate::cache::Cache;
use crate::mlx::Source;
use crate::test::Outcome;
use crate::toolchain::{Toolchain, without_own_flags};
use crate::util::{self, cargo, quoted, run};

pub struct Target {
    pub triple: &'static str,
    /// mlx-c declares float16 and bfloat16 functions for these processors only.
    pub clang_args: &'static [&'static str],
}

pub const TARGETS: &[Target] = &[
    Target {
        triple: "aarch64-apple-darwin",
        clang_args: &["--target=arm64-apple-macosx14.0", "-march=armv8.6-a"],
    },
    Target {
        triple: "aarch64-apple-ios",
        clang_args: &["--target=arm64-apple-ios17.0", "-march=armv8.6-a"],
    },
];

pub fn command(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask check-apple");
    }
    match check()? {
        Outcome::Passed => Ok(()),
        Outcome::Skipped(reason) => bail!("{reason}"),
    }
}

pub fn check() -> Result<Outcome> {
    if cfg!(target_vendor = "apple") {
        return Ok(Outcome::Skipped(
            "this is a Mac: the other steps checked it".to_owned(),
        ));
    }
    let metadata = util::metadata()?;
    let toolchain = Toolchain::installed()?;
    let cache = Cache::open()?;
    let sysroot = match toolchain.sysroot_with_std(&cache, "apple-std", &triples()) {
        Ok(sysroot) => sysroot,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    let source = Source::of(&metadata.mlx_sys_dir)?;
    let folder = metadata.target_dir.join("apple");
    let config = write_config(&cache, &source, sysroot.as_deref(), &folder)?;
    drop(cache);
    for target in TARGETS {
        eprintln!("check-apple: clippy for {}", target.triple);
        run(without_own_flags(&mut cargo())
            .args([
                "clippy",
                "--package=umrt",
                "--all-targets",
                "--target",
                target.triple,
            ])
            .arg("--config")
            .arg(&config)
            .arg("--target-dir")
            .arg(&folder)
            .args(["--", "-D", "warnings"]))?;
    }
    Ok(Outcome::Passed)
}

pub fn triples() -> Vec<&'static str> {
    TARGETS.iter().map(|target| target.triple).collect()
}

/// A cargo configuration that knows std and mlx-sys's bindings for each target.
fn write_config(
    cache: &Cache,
    source: &Source,
    sysroot: Option<&Path>,
    folder: &Path,
) -> Result<PathBuf> {
    let mut config = String::new();
    for Target { triple, clang_args } in TARGETS {
        if let Some(sysroot) = sysroot {
            let flag = quoted(&format!("--sysroot={}", sysroot.display()));
            config += &format!("[target.{triple}]\nrustflags = [{flag}]\n");
        }
        let bindings = bindings::folder(cache, source, triple, clang_args)?;
        let out_dir = quoted(&bindings.display().to_string());
        config += &format!(
            "[target.{triple}.mlx]\nrustc-link-lib = []\nrustc-env = {{ OUT_DIR = {out_dir} }}\n"
        );
    }
    fs::create_dir_all(folder)?;
    let file = folder.join("config.toml");
    fs::write(&file, config).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}
