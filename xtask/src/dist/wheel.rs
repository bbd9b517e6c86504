//! The wheel for Python: the package with the library in it; MLX is another wheel.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::tarball::{copy, copy_tree};
use super::{GLIBC, Ingredients, TOOLS, empty, licenses};
use crate::library::standalone;
use crate::python;
use crate::util::{output, root};
use crate::version::VERSION;

const PROJECT: &[&str] = &["pyproject.toml", "setup.py", "README.md"];

/// For any Python, on systems of this kind.
fn platform() -> String {
    let (major, minor) = GLIBC;
    format!("manylinux_{major}_{minor}_{}", env::consts::ARCH)
}

pub(super) fn make(from: &Ingredients, work: &Path, dist: &Path) -> Result<PathBuf> {
    let project = work.join("python");
    empty(&project)?;
    lay_out(from, &project).context("laying out the Python package")?;
    // From a place of its own, so that nothing of the source tree gets into it.
    output(
        standalone(python::interpreter(&TOOLS)?)
            .current_dir(&project)
            .env("SOURCE_DATE_EPOCH", &from.epoch)
            .args(["-m", "pip", "wheel", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--no-build-isolation"])
            .arg(format!(
                "--config-settings=--build-option=--plat-name={}",
                platform()
            ))
            .arg("--wheel-dir")
            .arg(dist)
            .arg("."),
    )?;
    let wheel = dist.join(format!("umrt-{VERSION}-py3-none-{}.whl", platform()));
    fs::metadata(&wheel).with_context(|| format!("pip made no {}", wheel.display()))?;
    Ok(wheel)
}

fn lay_out(from: &Ingredients, project: &Path) -> Result<()> {
    let source = root().join("bindings/python");
    for name in PROJECT {
        copy(&source.join(name), &project.join(name))?;
    }
    let package = project.join("umrt");
    copy_tree(&source.join("umrt"), &package)?;
    remove_caches(&package)?;
    let lib = package.join("lib");
    empty(&lib)?;
    copy(&from.shared, &lib.join("libumrt.so"))?;
    licenses::write(&from.mlx, project)
}

fn remove_caches(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == "__pycache__") {
            fs::remove_dir_all(&path)?;
        } else if path.is_dir() {
            remove_caches(&path)?;
        }
    }
    Ok(())
}
