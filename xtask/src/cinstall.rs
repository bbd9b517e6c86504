//! `cargo xtask check-cinstall`: what `cargo cinstall` puts into a prefix is a library
//! that programs find by pkg-config. No step of `cargo xtask test`: cargo-c has all of
//! cargo in it, which takes minutes to compile, and wants OpenSSL's headers.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::examples;
use crate::library::{bundled_model, standalone};
use crate::setup::setup;
use crate::toolchain::without_own_flags;
use crate::util::{cargo, files_ending_in, output, root, run};
use crate::version::{self, VERSION};

const CARGO_C: &str = "0.10.24";

pub fn command(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask check-cinstall");
    }
    let target = setup(None)?.target_dir;
    let programs = cargo_c(&target.join("cargo-c"))?;
    let prefix = target.join("cinstall");
    if prefix.exists() {
        fs::remove_dir_all(&prefix)?;
    }
    install(&programs, &prefix)?;
    check_files(&prefix)?;
    check_program(&prefix)
}

/// The folder of its programs, compiled if they are not there yet.
fn cargo_c(folder: &Path) -> Result<PathBuf> {
    let build = folder.join("build");
    run(without_own_flags(&mut cargo())
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .args(["install", "cargo-c", "--locked", "--debug"])
        .args(["--version", CARGO_C, "--root"])
        .arg(folder)
        .arg("--target-dir")
        .arg(&build))
    .context("cargo-c is not compiled; it needs: apt-get install libssl-dev pkg-config")?;
    if build.exists() {
        fs::remove_dir_all(&build)?;
    }
    Ok(folder.join("bin"))
}

/// Without optimization, which changes nothing in what is installed where.
fn install(programs: &Path, prefix: &Path) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(programs.to_owned()).chain(env::split_paths(&path));
    run(cargo()
        .env("PATH", env::join_paths(path)?)
        .args(["cinstall", "--package=umrt", "--debug", "--locked"])
        .arg("--prefix")
        .arg(prefix)
        .arg("--libdir")
        .arg(prefix.join("lib")))
}

fn check_files(prefix: &Path) -> Result<()> {
    let lib = prefix.join("lib");
    ensure!(
        fs::read(prefix.join("include/umrt.h"))? == fs::read(root().join("include/umrt.h"))?,
        "it installs another umrt.h"
    );
    ensure!(lib.join("libumrt.a").is_file(), "there is no libumrt.a");
    let dynamic = output(
        Command::new("readelf")
            .arg("-d")
            .arg(lib.join("libumrt.so")),
    )?;
    let soname = version::soname()?;
    ensure!(
        dynamic.contains(&format!("Library soname: [{soname}]")),
        "its soname is not {soname}:\n{dynamic}"
    );
    ensure!(lib.join(&soname).is_file(), "there is no {soname}");
    let stated = output(pkg_config(prefix).arg("--modversion"))?;
    ensure!(stated.trim() == VERSION, "umrt.pc is of version {stated}");
    println!("installed: umrt.h, libumrt.a, {soname} and umrt.pc {VERSION}");
    Ok(())
}

/// Programs find a library in an unusual prefix by the place that the linker is told.
fn check_program(prefix: &Path) -> Result<()> {
    let flags = output(pkg_config(prefix).args(["--cflags", "--libs"]))?;
    for source in files_ending_in(&root().join("examples/c"), "c")? {
        let name = source.file_stem().context("a file")?.to_string_lossy();
        let program = prefix.join("bin").join(&*name);
        fs::create_dir_all(prefix.join("bin"))?;
        run(Command::new("gcc")
            .arg(&source)
            .args(flags.split_whitespace())
            .args(["-pthread", "-o"])
            .arg(&program)
            .arg(format!("-Wl,-rpath,{}", prefix.join("lib").display())))?;
        if name == "minimal" {
            examples::check(standalone(&program), &name, &bundled_model()?)
                .context("the example minimal")?;
        }
    }
    println!("installed: the examples compiled with pkg-config, minimal run");
    Ok(())
}

fn pkg_config(prefix: &Path) -> Command {
    let mut command = Command::new("pkg-config");
    command
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
        .arg("umrt");
    command
}
