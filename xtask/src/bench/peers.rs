//! The libraries that umrt is compared with, and the programs that drive them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::system::cpu_name;
use crate::cache::{Cache, Key};
use crate::library::{Library, c_compiler};
use crate::python::{self, Requirements};
use crate::util::{output, require, root, run};

const PYTHON: Requirements = Requirements::new(
    "bench-python",
    include_str!("../../../tools/bench/requirements.txt"),
);

const LLAMA_CPP: &str = include_str!("../../../tools/bench/llama-cpp.txt");
const LLAMA_CPP_OPTIONS: &str = "-DGGML_NATIVE=ON";

/// Programs that drive the libraries, ready to run.
pub struct Peers {
    pub umrt: PathBuf,
    pub llama_cpp: PathBuf,
    /// An interpreter with mlx-lm and what makes the models.
    pub python: PathBuf,
    pub read_bandwidth: PathBuf,
}

impl Peers {
    pub fn prepare() -> Result<Self> {
        require(missing_tools())?;
        let library = Library::build()?;
        let python = python::interpreter(&PYTHON)?;
        let llama_cpp = llama_cpp()?;
        let programs = library.programs().join("tools/bench");
        fs::create_dir_all(&programs)?;
        Ok(Self {
            umrt: library.compile_program(&tool("umrt_worker.c"))?,
            llama_cpp: compile_llama_worker(&llama_cpp, &programs)?,
            python,
            read_bandwidth: compile_read_bandwidth(&programs)?,
        })
    }

    pub fn versions(&self) -> Result<BTreeMap<String, String>> {
        let ask =
            "import importlib.metadata as m\nfor p in ('mlx', 'mlx-lm'): print(p, m.version(p))";
        let answer = output(Command::new(&self.python).args(["-c", ask]))?;
        let mut versions: BTreeMap<String, String> = answer
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .collect();
        versions.insert("umrt".into(), env!("CARGO_PKG_VERSION").into());
        versions.insert("llama-cpp-python".into(), llama_cpp_version().into());
        Ok(versions)
    }
}

/// A file of `tools/bench`.
pub fn tool(name: &str) -> PathBuf {
    root().join("tools/bench").join(name)
}

fn missing_tools() -> Vec<String> {
    let compilers = [("cc", "gcc"), ("c++", "g++")];
    compilers
        .iter()
        .filter(|(program, _)| crate::util::find_program(program).is_none())
        .map(|(program, package)| format!("{program} is missing: apt-get install {package}"))
        .collect()
}

fn llama_cpp_version() -> &'static str {
    let pin = LLAMA_CPP.lines().find(|line| !line.starts_with('#'));
    let version = pin.and_then(|pin| pin.split("==").nth(1));
    version.map_or("", |version| version.trim_end_matches(['\\', ' ']))
}

/// The folder with llama.cpp's headers and libraries, compiled for this machine.
fn llama_cpp() -> Result<PathBuf> {
    let version = output(python::python().arg("--version"))?;
    let key = Key::default()
        .text(LLAMA_CPP)
        .text(LLAMA_CPP_OPTIONS)
        .text(&version)
        .text(&cpu_name());
    Cache::open()?.entry("bench-llama-cpp", key, |dir| {
        eprintln!("bench: compiling llama.cpp for this machine, once; this can take 20 minutes");
        build_llama_cpp(dir).context(
            "building llama.cpp from its source package, which takes PyPI, a C++ compiler and \
             1 GB of disk space",
        )
    })
}

fn build_llama_cpp(dir: &Path) -> Result<()> {
    let list = dir.join("requirements.txt");
    fs::write(&list, LLAMA_CPP)?;
    let wheels = dir.join("wheels");
    let n_jobs = std::thread::available_parallelism()?.to_string();
    run(python::python()
        .args(["-m", "pip", "wheel", "--disable-pip-version-check"])
        // A wheel in pip's cache may have been compiled with other options.
        .args(["--no-cache-dir", "--no-deps", "--require-hashes"])
        .arg("--wheel-dir")
        .arg(&wheels)
        .arg("--requirement")
        .arg(&list)
        .env("CMAKE_ARGS", LLAMA_CPP_OPTIONS)
        .env("CMAKE_BUILD_PARALLEL_LEVEL", n_jobs))?;
    for file in fs::read_dir(&wheels)? {
        let wheel = file?.path();
        run(python::python()
            .args(["-m", "zipfile", "-e"])
            .arg(wheel)
            .arg(dir))?;
    }
    fs::remove_dir_all(&wheels).context("removing the wheel")
}

fn compile_llama_worker(llama_cpp: &Path, programs: &Path) -> Result<PathBuf> {
    let program = programs.join("llama_worker");
    let lib = llama_cpp.join("lib");
    run(c_compiler("cc", "c11")
        .arg("-O2")
        .arg("-isystem")
        .arg(llama_cpp.join("include"))
        .arg(tool("llama_worker.c"))
        .arg("-o")
        .arg(&program)
        .arg(format!("-L{}", lib.display()))
        .arg("-lllama")
        .arg(format!("-Wl,-rpath,{}", lib.display())))?;
    Ok(program)
}

fn compile_read_bandwidth(programs: &Path) -> Result<PathBuf> {
    let program = programs.join("read_bandwidth");
    run(c_compiler("cc", "c11")
        .args(["-O3", "-march=native", "-pthread"])
        .arg(tool("read_bandwidth.c"))
        .arg("-o")
        .arg(&program))?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_version_is_found() {
        let version = llama_cpp_version();
        assert!(version.split('.').count() == 3, "{version}");
        assert!(
            version.chars().all(|c| c.is_ascii_digit() || c == '.'),
            "{version}"
        );
    }
}
