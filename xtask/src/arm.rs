//! `cargo xtask check-arm`: the tests of the kernels on an emulated ARM processor.
//!
//! The kernels know nothing of MLX, so that a crate of them alone can be compiled
//! for AArch64, linked by a cross compiler and run by QEMU.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::test::Outcome;
use crate::toolchain::{Toolchain, without_own_flags};
use crate::util::{self, Metadata, cargo, find_program, quoted, root, run, write_if_changed};

const TRIPLE: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATORS: [&str; 2] = ["qemu-aarch64", "qemu-aarch64-static"];
const INSTALL: &str = "apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross";
/// What the kernels use, and their tests.
const DEPENDENCIES: [&str; 6] = [
    "half",
    "libc",
    "memmap2",
    "proptest",
    "safetensors",
    "thiserror",
];

pub fn command(args: &[String]) -> Result<()> {
    match check(args)? {
        Outcome::Passed => Ok(()),
        Outcome::Skipped(reason) => bail!("{reason}"),
    }
}

pub fn check(filters: &[String]) -> Result<Outcome> {
    if cfg!(target_arch = "aarch64") {
        println!("this is an ARM processor: the Rust tests ran its kernels");
        return Ok(Outcome::Passed);
    }
    let emulator = EMULATORS.into_iter().find_map(find_program);
    let (Some(emulator), Some(_)) = (emulator, find_program(LINKER)) else {
        return Ok(Outcome::Skipped(format!(
            "{} or {LINKER} is missing: {INSTALL}",
            EMULATORS[0]
        )));
    };
    let metadata = util::metadata()?;
    let cache = Cache::open()?;
    let sysroot = Toolchain::installed()?.sysroot_with_std(&cache, "arm-std", &[TRIPLE]);
    drop(cache);
    let sysroot = match sysroot {
        Ok(sysroot) => sysroot,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    let folder = metadata.target_dir.join("arm");
    write_crate(&metadata, &folder)?;
    let config = folder.join("config.toml");
    write_if_changed(&config, &configuration(&emulator, sysroot.as_deref()))?;
    run(without_own_flags(&mut cargo())
        .current_dir(&folder)
        .args(["test", "--quiet", "--lib", "--target", TRIPLE, "--config"])
        .arg(&config)
        .arg("--target-dir")
        .arg(folder.join("target"))
        .arg("--")
        .args(filters))?;
    Ok(Outcome::Passed)
}

/// The kernels and what they use of the crate, as a crate of its own.
fn write_crate(metadata: &Metadata, folder: &Path) -> Result<()> {
    let source = |file: &str| quoted(&root().join("src").join(file).display().to_string());
    let library = format!(
        "#![allow(dead_code)]\n\
         #[path = {error}]\npub mod error;\n\
         #[path = {host}]\nmod host;\n\
         #[path = {kernels}]\npub mod kernels;\n\
         #[path = {ledger}]\npub mod memory;\n\
         #[test]\n\
         fn the_emulated_processor_has_all_levels() {{\n\
             assert_eq!(kernels::Level::detect(), kernels::Level::NeonDot);\n\
         }}\n",
        error = source("error.rs"),
        host = source("host.rs"),
        kernels = source("kernels/mod.rs"),
        ledger = source("memory/ledger.rs"),
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

/// Programs are linked statically, so that QEMU needs no libraries.
fn configuration(emulator: &Path, sysroot: Option<&Path>) -> String {
    let sysroot = sysroot.map(|sysroot| format!("--sysroot={}", sysroot.display()));
    let flags: Vec<_> = ["-Ctarget-feature=+crt-static".to_owned()]
        .into_iter()
        .chain(sysroot)
        .map(|flag| quoted(&flag))
        .collect();
    format!(
        "[target.{TRIPLE}]\n\
         linker = {linker}\n\
         runner = [{emulator}, \"-cpu\", \"max\"]\n\
         rustflags = [{flags}]\n",
        linker = quoted(LINKER),
        emulator = quoted(&emulator.display().to_string()),
        flags = flags.join(", "),
    )
}
