//! Whether libumrt works from any place: moved together with MLX, it has to
//! find the MLX beside it and not the one that it was built with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::library::{Library, standalone};
use crate::util::output;

/// Moves the library into an empty tree laid out like MLX's own wheel, and asks
/// the dynamic loader what it would load there.
pub fn check(library: &Library) -> Result<()> {
    let mlx = loaded_from(&library.file(), "libmlx.so")?;
    let mlx_lib = mlx.parent().context("libmlx.so lies in a folder")?;
    let wheel = mlx_lib.ancestors().nth(2).context("a wheel's folders")?;

    let tree = library.file().with_file_name("installed");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let lib = tree.join("umrt/lib");
    fs::create_dir_all(&lib)?;
    let installed = lib.join(library.file().file_name().context("a file")?);
    fs::copy(library.file(), &installed)?;
    fs::copy(&mlx, lib.join("libmlx.so"))?;
    copy_folder(&wheel.join("mlx_cpu.libs"), &tree.join("mlx_cpu.libs"))?;

    let found = loaded_from(&installed, "libmlx.so")?;
    if !found.starts_with(&lib) {
        bail!(
            "{} loads {}, not the libmlx.so beside it",
            installed.display(),
            found.display()
        );
    }
    println!("installed elsewhere it loads the libmlx.so beside it");
    fs::remove_dir_all(&tree).context("removing the installed tree")
}

/// Where the loader finds a library that `file` needs, by `ldd`.
fn loaded_from(file: &Path, name: &str) -> Result<PathBuf> {
    let listing = output(standalone("ldd").arg(file))?;
    if listing.contains("not found") {
        bail!("{} misses a library:\n{listing}", file.display());
    }
    let line = listing
        .lines()
        .find_map(|line| line.trim().strip_prefix(name)?.trim().strip_prefix("=>"))
        .with_context(|| format!("{} does not need {name}", file.display()))?;
    let path = line.split_whitespace().next().context("ldd gives a path")?;
    fs::canonicalize(path).with_context(|| format!("resolving {path}"))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
