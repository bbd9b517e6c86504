//! The installed Rust toolchain, and std for other targets: as `rustup target
//! add` installed it, or built once from the rust-src of the same version, the
//! toolchain's own or Debian's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, Key};
use crate::debian;
use crate::util::{self, cargo, output, run};

/// Flags of the caller would apply to other targets, too.
pub fn without_own_flags(command: &mut Command) -> &mut Command {
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

/// A sanitizer of rustc's.
pub struct Sanitizer {
    pub name: &'static str,
    /// The archive with its runtime, where std has to be compiled with it too.
    runtime: Option<&'static str>,
}

pub const ADDRESS: Sanitizer = Sanitizer {
    name: "address",
    runtime: None,
};

pub const THREAD: Sanitizer = Sanitizer {
    name: "thread",
    runtime: Some("librustc-stable_rt.tsan.a"),
};

impl Sanitizer {
    /// It is an unstable option: RUSTC_BOOTSTRAP=1.
    pub fn flag(&self) -> String {
        format!("-Zsanitizer={}", self.name)
    }
}

pub struct Toolchain {
    sysroot: PathBuf,
    host: String,
    version: String,
    commit: String,
}

impl Toolchain {
    pub fn installed() -> Result<Self> {
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

    /// A sysroot with std for all these targets, unless the toolchain's own has
    /// it: built once, and kept under that name.
    pub fn sysroot_with_std(
        &self,
        cache: &Cache,
        name: &str,
        triples: &[&str],
    ) -> Result<Option<PathBuf>> {
        if triples.iter().all(|triple| self.has_std(triple)) {
            return Ok(None);
        }
        let library = self.std_source(cache).with_context(|| {
            let triples = triples.join(" ");
            format!("std is missing (`rustup target add {triples}` installs it)")
        })?;
        let std = Std {
            triples,
            flags: "",
            runtime: None,
        };
        built_std(cache, name, &std, self, &library).map(Some)
    }

    /// A sysroot for this machine whose std is compiled with a sanitizer, if it has to be.
    /// Programs take its flag.
    pub fn sanitized_sysroot(
        &self,
        cache: &Cache,
        sanitizer: &Sanitizer,
    ) -> Result<Option<PathBuf>> {
        let Some(runtime) = sanitizer.runtime else {
            return Ok(None);
        };
        let library = self.std_source(cache)?;
        let std = Std {
            triples: &[&self.host],
            flags: &sanitizer.flag(),
            runtime: Some(runtime),
        };
        built_std(
            cache,
            &format!("{}-std", sanitizer.name),
            &std,
            self,
            &library,
        )
        .map(Some)
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// LLVM's linker, which comes with the toolchain.
    pub fn linker(&self) -> PathBuf {
        self.sysroot
            .join("lib/rustlib")
            .join(&self.host)
            .join("bin/rust-lld")
    }

    fn has_std(&self, triple: &str) -> bool {
        self.sysroot
            .join("lib/rustlib")
            .join(triple)
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

    fn key(&self, triples: &[&str]) -> Key {
        Key::default()
            .text(&self.sysroot.display().to_string())
            .text(&self.commit)
            .text(&triples.join(" "))
    }
}

/// What std is built for, and how.
struct Std<'a> {
    triples: &'a [&'a str],
    flags: &'a str,
    /// A file of the toolchain's own std that belongs beside it.
    runtime: Option<&'static str>,
}

/// A sysroot with std for all targets.
fn built_std(
    cache: &Cache,
    name: &str,
    std: &Std<'_>,
    toolchain: &Toolchain,
    library: &Path,
) -> Result<PathBuf> {
    let Std { triples, .. } = *std;
    cache.entry(name, toolchain.key(triples), |dir| {
        eprintln!("xtask: building std for {}", triples.join(" and "));
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
            .env("RUSTFLAGS", std.flags)
            .args(["build", "--quiet", "--target-dir", "target"])
            .arg("-Zbuild-std=std,panic_unwind,panic_abort,proc_macro,test");
        for triple in triples {
            build.args(["--target", triple]);
        }
        run(&mut build)?;
        for triple in triples {
            if *triple == toolchain.host {
                fs::remove_file(rustlib.join(triple))?;
            }
            let lib = rustlib.join(triple).join("lib");
            fs::create_dir_all(&lib)?;
            if let Some(runtime) = std.runtime {
                symlink(
                    &own_rustlib.join(triple).join("lib").join(runtime),
                    &lib.join(runtime),
                )?;
            }
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
