//! `cargo xtask setup`: everything that has to exist before plain `cargo build`
//! works. On Apple platforms mlx-sys builds MLX itself, so only its tools are
//! checked. Elsewhere MLX comes from PyPI, mlx-c is compiled from the source
//! inside mlx-sys, and `.cargo/mlx.toml` tells cargo where both are.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::mlx::{self, Installation};
use crate::swift;
use crate::util::{self, Metadata, output, quoted, require, root, write_if_changed};

const CONFIG: &str = ".cargo/mlx.toml";

#[derive(Clone, Copy, PartialEq)]
pub enum Backend {
    Cpu,
    Cuda,
}

pub fn command(args: &[String]) -> Result<()> {
    let backend = match args {
        [] => None,
        [flag] if flag == "--cpu" => Some(Backend::Cpu),
        [flag] if flag == "--cuda" => Some(Backend::Cuda),
        [flag] if flag == "--swift" => return setup_swift(),
        [flag] if flag == "--renew-swift" => return swift::renew(),
        _ => bail!("usage: cargo xtask setup [--cuda | --cpu | --swift]"),
    };
    setup(backend)?;
    eprintln!("setup: ready, `cargo build` works now");
    Ok(())
}

fn setup_swift() -> Result<()> {
    if cfg!(target_vendor = "apple") {
        bail!("Swift comes with Xcode: xcode-select --install");
    }
    let swift = swift::install(&Cache::open()?)?;
    let folder = swift.parent().context("a program lies in a folder")?;
    eprintln!("setup: Swift is in {}", folder.display());
    Ok(())
}

/// Makes what is missing. Without a backend the one chosen last time is kept.
pub fn setup(backend: Option<Backend>) -> Result<Metadata> {
    let metadata = util::metadata()?;
    if cfg!(target_vendor = "apple") {
        require(missing_apple_tools())?;
    } else {
        check_glibc()?;
        let backend = backend.unwrap_or_else(configured_backend);
        let cache = Cache::open()?;
        require(mlx::missing_tools(&cache))?;
        let installation = mlx::install(&cache, &metadata.mlx_sys_dir, backend)?;
        configure_cargo(&installation, backend)?;
    }
    Ok(metadata)
}

fn missing_apple_tools() -> Vec<String> {
    let has_xcode_tool = |tool| output(Command::new("xcrun").args(["--find", tool])).is_ok();
    let mut missing = Vec::new();
    if !has_xcode_tool("clang") {
        missing.push("clang is missing: xcode-select --install".to_owned());
    }
    if !has_xcode_tool("metal") {
        missing.push(
            "metal is missing: install Xcode, then xcodebuild -downloadComponent MetalToolchain"
                .to_owned(),
        );
    }
    if util::find_program("cmake").is_none() {
        missing.push("cmake is missing: brew install cmake".to_owned());
    }
    missing
}

/// MLX's wheels are built against this version of glibc.
const GLIBC: (u32, u32) = (2, 35);

fn check_glibc() -> Result<()> {
    let needed = format!("MLX's binaries need glibc {}.{} or later", GLIBC.0, GLIBC.1);
    let answer = output(Command::new("getconf").arg("GNU_LIBC_VERSION")).context(needed.clone())?;
    let version = answer.trim().strip_prefix("glibc ").and_then(|version| {
        let (major, minor) = version.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    match version {
        Some(version) if version >= GLIBC => Ok(()),
        _ => bail!("{needed}; this system has {}", answer.trim()),
    }
}

fn configured_backend() -> Backend {
    let config = fs::read_to_string(root().join(CONFIG)).unwrap_or_default();
    if config.contains(marker(Backend::Cuda)) {
        Backend::Cuda
    } else {
        Backend::Cpu
    }
}

fn marker(backend: Backend) -> &'static str {
    match backend {
        Backend::Cpu => "# backend: cpu",
        Backend::Cuda => "# backend: cuda",
    }
}

/// Replaces the build script of mlx-sys, as Cargo allows for a package that has
/// a `links` key.
fn configure_cargo(mlx: &Installation, backend: Backend) -> Result<()> {
    let target = util::host_triple()?;
    let rpath = format!("link-arg=-Wl,-rpath,{}", mlx.runtime_lib.display());
    let rpath_link = format!("link-arg=-Wl,-rpath-link,{}", mlx.link_only_lib.display());
    let include = std::env::join_paths(&mlx.include_dirs)?;
    let config = format!(
        "# Written by `cargo xtask setup`; not for editing.\n\
         {marker}\n\
         \n\
         [target.{target}]\n\
         rustdocflags = [\"-C\", {rpath}, \"-C\", {rpath_link}]\n\
         \n\
         [target.{target}.mlx]\n\
         rustc-link-search = [{mlxc_search}, {mlx_search}]\n\
         rustc-link-lib = [\"static=mlxc\", \"dylib=mlx\", \"dylib=stdc++\"]\n\
         rustc-env = {{ OUT_DIR = {out_dir} }}\n\
         include = {include}\n\
         lib = {lib}\n\
         rpath_link = {rpath_link_dir}\n",
        marker = marker(backend),
        rpath = quoted(&rpath),
        rpath_link = quoted(&rpath_link),
        mlxc_search = quoted(&format!("native={}", mlx.mlxc_lib.display())),
        mlx_search = quoted(&format!("native={}", mlx.link_lib.display())),
        out_dir = quoted(&mlx.bindings.display().to_string()),
        include = quoted(&include.to_string_lossy()),
        lib = quoted(&mlx.runtime_lib.display().to_string()),
        rpath_link_dir = quoted(&mlx.link_only_lib.display().to_string()),
    );
    write_if_changed(&root().join(CONFIG), &config)
}
