//! `cargo xtask check-cuda`: what can be known without a GPU of the same libumrt on
//! MLX for NVIDIA's GPUs: that it was made from the same headers, that it has all
//! functions, and what is said where there is no driver.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::library::{Library, standalone};
use crate::mlx::{MLX_CPU, MLX_CUDA};
use crate::util::{output, root, run};

/// Where mangled names of MLX's functions begin to differ from others'.
const MLX_NAMESPACE: &str = "3mlx4core";
/// Libraries of NVIDIA's that MLX is linked to: how their names, and those of their
/// functions, begin.
const NVIDIA: [(&str, &str); 6] = [
    ("libcuda.so", "cu"),
    ("libnccl.so", "nccl"),
    ("libcublas", "cublas"),
    ("libcufft.so", "cufft"),
    ("libcudnn.so", "cudnn"),
    ("libnvrtc.so", "nvrtc"),
];
pub const DRIVER: &str = "libcuda.so.1";

pub fn command(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask check-cuda");
    }
    let library = Library::build()?;
    let (cpu, cuda) = {
        let cache = Cache::open()?;
        (MLX_CPU.unpacked(&cache)?, wheel(&cache)?)
    };
    check_headers(&cpu, &cuda)?;
    check_symbols(&library.file(), &libmlx(&cuda))?;
    check_messages(&library, &cuda)
}

/// MLX for CUDA without the libraries that it needs.
pub fn wheel(cache: &Cache) -> Result<PathBuf> {
    MLX_CUDA.alone("mlx-cuda-13")?.unpacked(cache)
}

pub fn libmlx(wheel: &Path) -> PathBuf {
    wheel.join("mlx/lib/libmlx.so")
}

/// What is compiled against one is right for the other.
fn check_headers(cpu: &Path, cuda: &Path) -> Result<()> {
    let headers = |wheel: &Path| wheel.join("mlx/include/mlx");
    run(Command::new("diff")
        .args(["--recursive", "--brief"])
        .args([headers(cpu), headers(cuda)]))
    .context("the headers of MLX for the CPU and for CUDA differ")?;
    println!("the headers are those of MLX for the CPU");
    Ok(())
}

fn check_symbols(libumrt: &Path, libmlx: &Path) -> Result<()> {
    let needed = symbols(libumrt, "--undefined-only")?;
    let needed: BTreeSet<_> = needed
        .into_keys()
        .filter(|name| name.contains(MLX_NAMESPACE))
        .collect();
    let there = symbols(libmlx, "--defined-only")?;
    let missing: Vec<_> = needed
        .iter()
        .filter(|name| !there.contains_key(*name))
        .collect();
    if needed.is_empty() || !missing.is_empty() {
        bail!("{} lacks {missing:?}", libmlx.display());
    }
    println!("{} functions of MLX are needed, all there", needed.len());
    Ok(())
}

/// By name: its version, or nothing.
fn symbols(library: &Path, which: &str) -> Result<BTreeMap<String, String>> {
    let listing = output(Command::new("nm").args(["-D", which]).arg(library))?;
    let names = listing
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    Ok(names
        .map(|name| name.split_once('@').unwrap_or((name, "")))
        .map(|(name, version)| (name.to_owned(), version.trim_matches('@').to_owned()))
        .collect())
}

/// The libraries that a library is linked to.
fn needed_libraries(library: &Path) -> Result<Vec<String>> {
    let listing = output(Command::new("readelf").arg("-d").arg(library))?;
    let names = listing.lines().filter(|line| line.contains("(NEEDED)"));
    let between = |line: &str| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned());
    Ok(names.filter_map(between).collect())
}

/// Makes a library in the place of each of NVIDIA's that `libmlx` is linked to, but
/// for those in `except`: with the same functions, which fail. What umrt does not call
/// may as well be missing.
pub fn stand_ins(libmlx: &Path, folder: &Path, except: &[&str]) -> Result<()> {
    fs::create_dir_all(folder)?;
    let undefined = symbols(libmlx, "--undefined-only")?;
    for name in needed_libraries(libmlx)? {
        let prefix = NVIDIA.iter().find(|(library, _)| name.starts_with(library));
        let Some((_, prefix)) = prefix.filter(|_| !except.contains(&name.as_str())) else {
            continue;
        };
        let is_function = |function: &str| {
            let rest = function.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
        };
        let versioned: Vec<_> = undefined
            .iter()
            .filter(|(_, version)| **version == name)
            .map(|(function, _)| function.as_str())
            .collect();
        let (functions, version) = match versioned.is_empty() {
            true => {
                let unversioned = undefined.iter().filter(|(_, version)| version.is_empty());
                let functions = unversioned.map(|(function, _)| function.as_str());
                (functions.filter(|f| is_function(f)).collect(), None)
            }
            false => (versioned, Some(name.as_str())),
        };
        compile_stand_in(folder, &name, &functions, version)?;
    }
    Ok(())
}

fn compile_stand_in(
    folder: &Path,
    name: &str,
    functions: &[&str],
    version: Option<&str>,
) -> Result<()> {
    let function = |function: &&str| match function.ends_with("String") {
        true => format!("const char *{function}(void) {{ return \"{name} is not installed\"; }}\n"),
        false => format!("int {function}(void) {{ return 1; }}\n"),
    };
    let code: String = functions.iter().map(function).collect();
    let script = version.map(|version| format!("{version} {{ global: *; }};\n"));
    compile_library(folder, name, &code, script.as_deref())
}

fn compile_library(folder: &Path, name: &str, code: &str, script: Option<&str>) -> Result<()> {
    let source = folder.join("stand-in.c");
    fs::write(&source, code)?;
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-O1"])
        .arg(&source)
        .arg("-o")
        .arg(folder.join(name))
        .arg(format!("-Wl,-soname,{name}"));
    let versions = folder.join("stand-in.map");
    if let Some(script) = script {
        fs::write(&versions, script)?;
        compiler.arg(format!("-Wl,--version-script={}", versions.display()));
        run(&mut compiler)?;
        fs::remove_file(&versions)?;
    } else {
        run(&mut compiler)?;
    }
    fs::remove_file(&source).context("removing the source of a stand-in")
}

/// Loads MLX for CUDA beside drivers that cannot be used.
fn check_messages(library: &Library, cuda: &Path) -> Result<()> {
    let devices = library.compile_program(&root().join("tools/gpu/devices.c"))?;
    let folder = library.programs().join("stand-ins");
    stand_ins(&libmlx(cuda), &folder, &[])?;
    let linked: String = symbols(&libmlx(cuda), "--undefined-only")?
        .into_keys()
        .filter(|name| {
            name.strip_prefix("cu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
        })
        .map(|name| format!("int {name}(void) {{ return 1; }}\n"))
        .collect();
    let driver = |cuda: u32, init: u32| {
        format!(
            "{linked}int cuDriverGetVersion(int *v) {{ *v = {cuda}; return 0; }}\n\
             int cuInit(unsigned f) {{ (void)f; return {init}; }}\n"
        )
    };
    for (code, expected) in [
        (linked.clone(), "is not installed"),
        (driver(12_040, 0), "is for CUDA 12.4"),
        (driver(13_000, 100), "sees none"),
        (driver(13_000, 999), "error 999"),
    ] {
        compile_library(&folder, DRIVER, &code, None)?;
        let paths = std::env::join_paths([cuda.join("mlx/lib"), folder.clone()])?;
        let answer = standalone(&devices)
            .env("LD_LIBRARY_PATH", paths)
            .output()?;
        let said = String::from_utf8_lossy(&answer.stderr);
        if answer.status.success() || !said.contains(expected) {
            bail!("instead of {expected:?}, without a usable driver is said: {said:?}");
        }
        print!("{said}");
    }
    fs::remove_dir_all(&folder).context("removing the stand-ins")
}
