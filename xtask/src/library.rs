//! The release build of umrt and C programs that use it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::setup;
use crate::util::{cargo, root, run};
use crate::version;

const FILE_NAME: &str = if cfg!(target_vendor = "apple") {
    "libumrt.dylib"
} else {
    "libumrt.so"
};

/// Builds what C links with.
pub const FOR_C: &str = "--features=capi";

pub struct Library {
    dir: PathBuf,
    programs: PathBuf,
}

pub fn command(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask build");
    }
    println!("{}", Library::build()?.file().display());
    Ok(())
}

impl Library {
    /// Sets up, builds, and makes the result usable in its place.
    pub fn build() -> Result<Self> {
        let metadata = setup(None)?;
        run(cargo().args(["build", "--release", "--package=umrt", FOR_C]))?;
        let dir = metadata.target_dir.join("release");
        if !cfg!(target_vendor = "apple") {
            link_soname(&dir)?;
        }
        Ok(Self {
            dir,
            programs: metadata.target_dir.join("programs"),
        })
    }

    pub fn file(&self) -> PathBuf {
        self.dir.join(FILE_NAME)
    }

    /// The folder of the library.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of the programs that are compiled with the library.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Compiles a C source file of the workspace to a program that finds the
    /// library by itself.
    pub fn compile_program(&self, source: &Path) -> Result<PathBuf> {
        self.compile_program_with(source, &self.programs, &[])
    }

    /// As `compile_program`, into another folder, with more arguments.
    pub fn compile_program_with(
        &self,
        source: &Path,
        folder: &Path,
        arguments: &[&str],
    ) -> Result<PathBuf> {
        let name = source
            .strip_prefix(root())
            .context("a C source file of the workspace")?;
        let program = folder.join(name.with_extension(""));
        fs::create_dir_all(program.parent().context("a program lies in a folder")?)?;
        let mut compiler = c_compiler("cc", "c11");
        if !cfg!(target_vendor = "apple") {
            // A program that opens the library itself must not be linked to it.
            compiler.arg("-Wl,--as-needed");
        }
        compiler
            .args(["-g", "-O1"])
            .arg(name)
            .arg("-o")
            .arg(&program)
            .arg(format!("-L{}", self.dir.display()))
            .args(["-lumrt", "-lm"])
            .args(arguments)
            .arg(format!("-Wl,-rpath,{}", self.dir.display()));
        if !cfg!(target_vendor = "apple") {
            // MLX for CUDA refers to NVIDIA's driver, which need not be here.
            compiler.arg("-Wl,--allow-shlib-undefined");
        }
        run(&mut compiler)?;
        Ok(program)
    }
}

/// A compiler that accepts nothing doubtful and finds `umrt.h`.
pub fn c_compiler(compiler: &str, standard: &str) -> Command {
    let mut command = Command::new(compiler);
    command
        .current_dir(root())
        .arg(format!("-std={standard}"))
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic"])
        .arg("-Iinclude");
    command
}

/// A program that runs as its user would run it: without the library paths that
/// cargo adds for its children.
pub fn standalone(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(root())
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("DYLD_LIBRARY_PATH");
    command
}

/// The model folder that the demo, the examples and the C tests run on.
pub fn bundled_model() -> Result<PathBuf> {
    let models = root().join("examples/models");
    let entries = fs::read_dir(&models).with_context(|| format!("reading {}", models.display()))?;
    let mut folders = Vec::new();
    for entry in entries {
        let folder = entry?.path();
        if folder.join("config.json").is_file() {
            folders.push(folder);
        }
    }
    folders.sort();
    folders
        .into_iter()
        .next()
        .with_context(|| format!("no folder in {} has a config.json", models.display()))
}

/// The smaller model that guesses the bundled one's tokens.
pub fn bundled_draft() -> PathBuf {
    root().join("examples/models/umrt-tales-draft-4bit")
}

fn link_soname(dir: &Path) -> Result<()> {
    let link = dir.join(version::soname()?);
    if fs::read_link(&link).is_ok_and(|target| target == Path::new(FILE_NAME)) {
        return Ok(());
    }
    std::os::unix::fs::symlink(FILE_NAME, &link)
        .with_context(|| format!("linking {}", link.display()))
}
