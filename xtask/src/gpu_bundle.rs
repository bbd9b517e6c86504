//! `cargo xtask gpu-bundle`: a folder that is copied to a machine with an NVIDIA GPU,
//! which needs nothing but the driver, and compares and times umrt there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::bench::shape::{EIGHT_BILLION, Format, HOLLOW, ONE_BILLION, Shape};
use crate::cache::Cache;
use crate::cuda;
use crate::library::{Library, bundled_model};
use crate::mlx::{MLX_CPU, MLX_CUDA};
use crate::util::{output, root, run};

/// What umrt makes MLX call of NVIDIA's: the compiler of kernels and its headers, and
/// products and attention of many rows.
const PACKAGES: [&str; 4] = [
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime",
    "nvidia-cublas",
    "nvidia-cudnn-cu13",
];
const PIECE_BYTES: &str = "55000000";
const ARCHIVE: &str = "bundle.tar.xz";
const SUMS: &str = "SHA256SUMS";
const PROGRAMS: [&str; 3] = ["devices", "parity", "bench"];
const SCRIPTS: [&str; 3] = [
    "gpu/mlx_bench.py",
    "bench/random_checkpoint.py",
    "bench/tensor_file.py",
];
const SHAPES: [(&str, Shape, Format); 4] = [
    ("8b-4bit", EIGHT_BILLION, Format::FourBit),
    ("1b-4bit", ONE_BILLION, Format::FourBit),
    ("1b-bf16", ONE_BILLION, Format::Bfloat16),
    ("hollow", HOLLOW, Format::FourBit),
];

struct Options {
    /// Runs on any machine, to try the bundle itself.
    cpu: bool,
    packages: Vec<&'static str>,
    folder: PathBuf,
}

pub fn command(args: &[String]) -> Result<()> {
    let options = parse(args)?;
    let library = Library::build()?;
    if options.folder.exists() {
        fs::remove_dir_all(&options.folder)?;
    }
    let tree = options.folder.join("tree");
    fs::create_dir_all(&tree)?;
    add_mlx(&options, &tree)?;
    add_umrt(&library, &tree)?;
    add_models(&tree)?;
    pack(&options)?;
    println!("{}", options.folder.display());
    Ok(())
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options {
        cpu: false,
        packages: PACKAGES.to_vec(),
        folder: root().join("target/gpu-bundle"),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--cpu" => options.cpu = true,
            "--without" => {
                for name in args.next().context("--without what?")?.split(',') {
                    if !PACKAGES.contains(&name) {
                        bail!("{name} is none of {}", PACKAGES.join(", "));
                    }
                    options.packages.retain(|package| *package != name);
                }
            }
            flag if flag.starts_with('-') => {
                bail!("usage: cargo xtask gpu-bundle [--cpu] [--without PACKAGES] [FOLDER]")
            }
            folder => options.folder = std::path::absolute(folder)?,
        }
    }
    Ok(options)
}

/// As it lies in a Python environment, where its parts find each other.
fn add_mlx(options: &Options, tree: &Path) -> Result<()> {
    let cache = Cache::open()?;
    if options.cpu {
        let wheel = MLX_CPU.unpacked(&cache)?;
        copy(&wheel.join("mlx/lib"), &tree.join("mlx"))?;
        return copy(&wheel.join("mlx_cpu.libs"), tree);
    }
    let wheel = cuda::wheel(&cache)?;
    copy(&wheel.join("mlx/lib"), &tree.join("mlx"))?;
    copy(&wheel.join("mlx/include"), &tree.join("mlx"))?;
    copy(&wheel.join("mlx_cuda_13.libs"), tree)?;
    for package in &options.packages {
        let unpacked = MLX_CUDA.alone(package)?.unpacked(&cache)?;
        copy(&unpacked.join("nvidia"), tree)?;
    }
    let stand_ins = tree.join("stand-ins");
    cuda::stand_ins(&cuda::libmlx(&wheel), &stand_ins, &[cuda::DRIVER])
}

fn add_umrt(library: &Library, tree: &Path) -> Result<()> {
    let (bin, lib, tools) = (tree.join("bin"), tree.join("umrt/lib"), tree.join("tools"));
    for folder in [&bin, &lib, &tools] {
        fs::create_dir_all(folder)?;
    }
    fs::copy(library.file(), lib.join("libumrt.so.0"))?;
    for name in PROGRAMS {
        let source = root().join("tools/gpu").join(name).with_extension("c");
        fs::copy(library.compile_program(&source)?, bin.join(name))?;
    }
    for script in SCRIPTS {
        let script = root().join("tools").join(script);
        fs::copy(&script, tools.join(script.file_name().context("a file")?))?;
    }
    Ok(())
}

/// Fixtures to compare, the bundled model with its tokenizer, and shapes to time.
fn add_models(tree: &Path) -> Result<()> {
    copy(&root().join("tests/fixtures/models"), tree)?;
    copy(&bundled_model()?, &tree.join("bundled"))?;
    let shapes = tree.join("shapes");
    fs::create_dir_all(&shapes)?;
    for (name, shape, format) in SHAPES {
        let config = serde_json::to_string_pretty(&shape.config(format))?;
        fs::write(shapes.join(name).with_extension("json"), config)?;
    }
    Ok(())
}

/// Puts a copy of a folder, under its own name, into another.
fn copy(from: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    run(Command::new("cp").arg("-rL").arg(from).arg(into))
}

fn pack(options: &Options) -> Result<()> {
    let folder = &options.folder;
    let in_folder = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(folder);
        command
    };
    eprintln!("gpu-bundle: compressing");
    run(in_folder("tar")
        .env("XZ_OPT", "-6 -T2")
        .args(["-cJf", ARCHIVE, "-C", "tree", "."]))?;
    let prefix = format!("{ARCHIVE}.");
    run(in_folder("split")
        .args(["-d", "-a", "3", "-b", PIECE_BYTES])
        .args([ARCHIVE, &prefix]))?;
    fs::remove_file(folder.join(ARCHIVE))?;
    fs::remove_dir_all(folder.join("tree"))?;
    fs::copy(root().join("tools/gpu/run.sh"), folder.join("run.sh"))?;
    fs::write(
        folder.join("DEVICE"),
        if options.cpu { "stock\n" } else { "0\n" },
    )?;
    let mut names: Vec<String> = Vec::new();
    for file in fs::read_dir(folder)? {
        names.push(file?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let sums = output(in_folder("sha256sum").args(&names))?;
    fs::write(folder.join(SUMS), sums)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&args)
    }

    #[test]
    fn packages_that_are_there_already_may_stay_out() -> Result<()> {
        let options = parsed("--without nvidia-cublas,nvidia-cudnn-cu13 out")?;
        assert_eq!(
            options.packages,
            ["nvidia-cuda-nvrtc", "nvidia-cuda-runtime"]
        );
        assert!(options.folder.ends_with("out") && !options.cpu);
        assert!(parsed("--without mlx").is_err());
        assert!(parsed("--gpu").is_err());
        Ok(())
    }
}
