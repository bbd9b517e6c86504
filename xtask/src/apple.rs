//! `cargo xtask check-apple`: clippy over the Apple-only code from Linux, with
//! the installed stable toolchain and without Apple's SDK.
//!
//! Where `rustup target add` has installed the targets, nothing is needed but
//! mlx-sys's bindings for them. Otherwise std is built once from the rust-src of
//! the same version, the toolchain's own or Debian's. C++ isn't compiled and
//! nothing is linked: that takes a Mac.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::bindings;
use crate::cache::{Cache, Key};
use crate::debian;
use crate::mlx::Source;
use crate::test::Outcome;
use crate::util::{self, cargo, output, quoted, run};

struct Target {
    triple: &'static str,
    /// mlx-c declares float16 and bfloat16 functions for these processors only.
    clang_args: &'static [&'static str],
}

const TARGETS: &[Target] = &[
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
    let sysroot = if TARGETS.iter().all(|target| toolchain.has_std(target)) {
        None
    } else {
        match toolchain.std_source(&cache) {
            Ok(library) => Some(built_std(&cache, &toolchain, &library)?),
            Err(error) => return Ok(Outcome::Skipped(without_std(&error))),
        }
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

fn without_std(error: &anyhow::Error) -> String {
    let triples = triples().join(" ");
    format!("std for Apple is missing (`rustup target add {triples}` installs it): {error:#}")
}

fn triples() -> Vec<&'static str> {
    TARGETS.iter().map(|target| target.triple).collect()
}

/// Flags of the caller would apply to the Apple targets, too.
fn without_own_flags(command: &mut Command) -> &mut Command {
    for variable in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(variable);
    }
    command
}

struct Toolchain {
    sysroot: PathBuf,
    host: String,
    version: String,
    commit: String,
}

impl Toolchain {
    fn installed() -> Result<Self> {
        let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let verbose = output(Command::new("rustc").arg("-vV"))?;
        let field = |name: &str| {
            let value = verbose.lines().find_map(|line| line.strip_prefix(name));
            value
                .map(str::to_owned)
                .with_context(|| format!("`rustc -vV` has no line {name}"))
        };
        Ok(Self {
            sysroot: sysroot.trim().into(),
            host: field("host: ")?,
            version: field("release: ")?,
            commit: field("commit-hash: ")?,
        })
    }

    fn has_std(&self, target: &Target) -> bool {
        self.sysroot
            .join("lib/rustlib")
            .join(target.triple)
            .join("lib")
            .is_dir()
    }

    /// The `library` folder of exactly this version of Rust.
    fn std_source(&self, cache: &Cache) -> Result<PathBuf> {
        let own = self.sysroot.join("lib/rustlib/src/rust/library");
        if own.join("Cargo.lock").is_file() {
            return Ok(own);
        }
        debian::std_source(cache, &self.version)
    }

    fn key(&self) -> Key {
        Key::default()
            .text(&self.sysroot.display().to_string())
            .text(&self.commit)
            .text(&triples().join(" "))
    }
}

/// A sysroot with std for all targets. Only this step uses unstable options.
fn built_std(cache: &Cache, toolchain: &Toolchain, library: &Path) -> Result<PathBuf> {
    cache.entry("apple-std", toolchain.key(), |dir| {
        eprintln!("check-apple: building std for {}", triples().join(" and "));
        let rustlib = dir.join("lib/rustlib");
        fs::create_dir_all(rustlib.join("src/rust"))?;
        let own_rustlib = toolchain.sysroot.join("lib/rustlib");
        symlink(
            &own_rustlib.join(&toolchain.host),
            &rustlib.join(&toolchain.host),
        )?;
        symlink(library, &rustlib.join("src/rust/library"))?;

        let work = dir.join("work");
        write_empty_crate(&work)?;
        let rustc = write_rustc_wrapper(&work, dir, toolchain)?;
        let mut build = cargo();
        without_own_flags(&mut build)
            .current_dir(&work)
            .env("RUSTC", rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .args(["build", "--quiet", "--target-dir", "target"])
            .arg("-Zbuild-std=std,panic_unwind,panic_abort,proc_macro,test");
        for triple in triples() {
            build.args(["--target", triple]);
        }
        run(&mut build)?;
        for triple in triples() {
            let lib = rustlib.join(triple).join("lib");
            fs::create_dir_all(&lib)?;
            for rlib in
                util::files_ending_in(&work.join("target").join(triple).join("debug/deps"), "rlib")?
            {
                let name = rlib.file_name().context("a file has a name")?;
                fs::copy(&rlib, lib.join(name))?;
            }
        }
        Ok(fs::remove_dir_all(&work)?)
    })
}

fn write_empty_crate(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("src"))?;
    let manifest =
        "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
    fs::write(dir.join("Cargo.toml"), manifest)?;
    Ok(fs::write(dir.join("src/lib.rs"), "#![no_std]\n")?)
}

/// Cargo looks for std's source in the sysroot that rustc names.
fn write_rustc_wrapper(work: &Path, sysroot: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let wrapper = work.join("rustc");
    let rustc = toolchain.sysroot.join("bin/rustc");
    let script = format!(
        "#!/bin/sh\nexec '{}' --sysroot '{}' \"$@\"\n",
        rustc.display(),
        sysroot.display()
    );
    fs::write(&wrapper, script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    Ok(wrapper)
}

fn symlink(original: &Path, link: &Path) -> Result<()> {
    std::os::unix::fs::symlink(original, link)
        .with_context(|| format!("linking {}", link.display()))
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
