//! MLX on Linux: the shared library from PyPI, and mlx-c and its Rust bindings
//! made from the source that the mlx-sys crate carries.

use std::cmp::Reverse;
use std::env;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};

use crate::bindings;
use crate::cache::{Cache, Key};
use crate::python::{self, Requirements};
use crate::setup::Backend;
use crate::util::{files_ending_in, find_program, output, root, run};

pub const MLX_CPU: Requirements =
    Requirements::new("mlx-cpu", include_str!("../requirements/mlx-cpu.txt"));
pub const MLX_CUDA: Requirements =
    Requirements::new("mlx-cuda", include_str!("../requirements/mlx-cuda.txt"));

/// mlx-c uses `std::format`, which GCC 12 does not have.
const FORMAT_SHIM: &str = "xtask/include/format_shim.hpp";
const COMPILER: &str = "g++";
const CXX_FLAGS: &[&str] = &["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden"];

pub struct Installation {
    /// The folder of `bindings.rs`.
    pub bindings: PathBuf,
    /// The folder of `libmlxc.a`.
    pub mlxc_lib: PathBuf,
    pub include_dirs: Vec<PathBuf>,
    /// The `libmlx.so` to link with. Those of all backends have the same ABI and
    /// soname; the CPU's needs nothing else to be installed.
    pub link_lib: PathBuf,
    /// What `libmlx.so` needs itself, for linking executables.
    pub link_only_lib: PathBuf,
    /// The `libmlx.so` to run with.
    pub runtime_lib: PathBuf,
}

pub fn install(cache: &Cache, mlx_sys: &Path, backend: Backend) -> Result<Installation> {
    let mlx = MLX_CPU.unpacked(cache)?;
    let runtime = match backend {
        Backend::Cpu => mlx.clone(),
        Backend::Cuda => MLX_CUDA.unpacked(cache)?,
    };
    let source = Source::of(mlx_sys)?;
    let include_dirs = vec![mlx.join("mlx/include"), source.root.clone()];
    Ok(Installation {
        bindings: bindings::folder(cache, &source, env::consts::ARCH, &[])?,
        mlxc_lib: compiled_mlxc(cache, &source, &include_dirs)?,
        include_dirs,
        link_lib: mlx.join("mlx/lib"),
        link_only_lib: mlx.join("mlx_cpu.libs"),
        runtime_lib: runtime.join("mlx/lib"),
    })
}

/// The unpacked package of MLX for the CPU.
pub fn cpu_package(cache: &Cache) -> Result<PathBuf> {
    MLX_CPU.unpacked(cache)
}

/// What has to be installed before `install` can work.
pub fn missing_tools(cache: &Cache) -> Vec<String> {
    let mut missing = Vec::new();
    if find_program(COMPILER).is_none() {
        missing.push(format!("{COMPILER} is missing: apt-get install g++"));
    }
    if !MLX_CPU.is_unpacked(cache) {
        missing.extend(python::missing_tools());
    }
    missing
}

/// mlx-c's source inside the mlx-sys crate.
pub struct Source {
    pub root: PathBuf,
    pub headers: Vec<PathBuf>,
    private_headers: Vec<PathBuf>,
    cpp: Vec<PathBuf>,
}

impl Source {
    pub fn of(mlx_sys: &Path) -> Result<Self> {
        let root = mlx_sys.join("src/mlx-c");
        let public = root.join("mlx/c");
        Ok(Self {
            headers: files_ending_in(&public, "h")?,
            private_headers: files_ending_in(&public.join("private"), "h")?,
            cpp: files_ending_in(&public, "cpp")?,
            root,
        })
    }

    pub fn key(&self) -> Result<Key> {
        let files = [&self.headers, &self.private_headers, &self.cpp];
        files
            .into_iter()
            .flatten()
            .try_fold(Key::default(), |key, file| key.file(file))
    }
}

fn compiled_mlxc(cache: &Cache, source: &Source, include_dirs: &[PathBuf]) -> Result<PathBuf> {
    let compiler_version = output(Command::new(COMPILER).arg("--version"))?;
    let key = source
        .key()?
        .text(&MLX_CPU.text)
        .file(&root().join(FORMAT_SHIM))?
        .text(&CXX_FLAGS.join(" "))
        .text(env::consts::ARCH)
        .text(&compiler_version);
    cache.entry("mlx-c", key, |dir| {
        compile(source, include_dirs, dir).context("compiling mlx-c")
    })
}

/// Leaves `libmlxc.a` in `dir`.
fn compile(source: &Source, include_dirs: &[PathBuf], dir: &Path) -> Result<()> {
    let compiler = || {
        let mut compiler = Command::new(COMPILER);
        compiler
            .args(CXX_FLAGS)
            .arg("-include")
            .arg(root().join(FORMAT_SHIM));
        compiler
    };
    compile_archive(source, include_dirs, dir, &compiler, Command::new("ar"))
}

/// Leaves `libmlxc.a` in `dir`, made by this compiler and this archiver.
pub fn compile_archive(
    source: &Source,
    include_dirs: &[PathBuf],
    dir: &Path,
    compiler: &(dyn Fn() -> Command + Sync),
    mut archiver: Command,
) -> Result<()> {
    let objects = compile_objects(source, include_dirs, dir, compiler)?;
    let archive = dir.join("libmlxc.a");
    run(archiver.arg("crs").arg(archive).args(&objects))?;
    for object in &objects {
        fs::remove_file(object)?;
    }
    Ok(())
}

/// Compiles on all processors, the largest file first because it takes longest.
fn compile_objects(
    source: &Source,
    include_dirs: &[PathBuf],
    dir: &Path,
    compiler: &(dyn Fn() -> Command + Sync),
) -> Result<Vec<PathBuf>> {
    let mut files = source.cpp.clone();
    files.sort_by_key(|file| Reverse(fs::metadata(file).map_or(0, |metadata| metadata.len())));
    let n_started = AtomicUsize::new(0);
    let compile_next_ones = || {
        loop {
            let index = n_started.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(index) else {
                return Ok(());
            };
            let object = object_of(file, dir);
            let name = object.file_stem().unwrap_or_default().display();
            eprintln!("setup: mlx-c [{:2}/{}] {name}", index + 1, files.len());
            if let Err(error) = compile_object(compiler(), file, include_dirs, &object) {
                n_started.store(files.len(), Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    let n_threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(files.len());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..n_threads)
            .map(|_| scope.spawn(compile_next_ones))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok(files.iter().map(|file| object_of(file, dir)).collect())
}

fn object_of(file: &Path, dir: &Path) -> PathBuf {
    dir.join(file.file_name().unwrap_or_default())
        .with_extension("o")
}

fn compile_object(
    mut compiler: Command,
    file: &Path,
    include_dirs: &[PathBuf],
    object: &Path,
) -> Result<()> {
    for dir in include_dirs {
        compiler.arg("-I").arg(dir);
    }
    run(compiler.arg("-c").arg(file).arg("-o").arg(object))
}
