//! `cargo xtask check-arm`: the tests of the kernels on an emulated ARM processor.
//!
//! The kernels know nothing of MLX, so that a crate of them alone can be compiled
//! for AArch64, linked by a cross compiler and run by QEMU.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cache::Cache;
use crate::kernels_crate;
use crate::test::Outcome;
use crate::tests_run::run_tests;
use crate::toolchain::{Toolchain, without_own_flags};
use crate::util::{self, cargo, find_program, quoted, write_if_changed};

const TRIPLE: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATORS: [&str; 2] = ["qemu-aarch64", "qemu-aarch64-static"];
const INSTALL: &str = "apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross";
/// Otherwise nothing of the processor would have been tested.
const TEST: &str = "\
#[test]
fn the_emulated_processor_has_all_levels() {
    assert_eq!(kernels::Level::detect(), kernels::Level::NeonDot);
}
";

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
    kernels_crate::write(&metadata, &folder, TEST)?;
    let config = folder.join("config.toml");
    write_if_changed(&config, &configuration(&emulator, sysroot.as_deref()))?;
    run_tests(
        without_own_flags(&mut cargo())
            .current_dir(&folder)
            .args(["test", "--quiet", "--lib", "--target", TRIPLE, "--config"])
            .arg(&config)
            .arg("--target-dir")
            .arg(folder.join("target"))
            .arg("--")
            .args(filters),
    )?;
    Ok(Outcome::Passed)
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
