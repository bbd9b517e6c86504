//! Building a slice on a Mac, where mlx-sys compiles MLX.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::slice::Slice;
use super::{NAME, Part};
use crate::library::FOR_C;
use crate::setup::setup;
use crate::util::{cargo, run};

pub fn build(slice: &'static Slice) -> Result<Part> {
    let metadata = setup(None)?;
    let folder = metadata.target_dir.join("xcframework").join(slice.name);
    let shaders = folder.join("metal");
    fs::create_dir_all(&shaders)?;
    // MLX is compiled for the version that the bundle names, and leaves its shaders
    // in a folder of this slice.
    run(cargo()
        .args([
            "build",
            "--release",
            "--package=umrt",
            FOR_C,
            "--target",
            slice.triple,
        ])
        .arg("--target-dir")
        .arg(&folder)
        .env(slice.deployment_target, slice.minimum_os_text())
        .env("UMRT_INSTALL_NAME", slice.install_name())
        .env("MLX_RS_METAL_PATH", &shaders))?;
    let metallib = shaders.join("mlx.metallib");
    ensure!(metallib.is_file(), "mlx-sys left no {}", metallib.display());
    let library = folder.join(slice.triple).join("release/libumrt.dylib");
    run(xcrun("strip").arg("-x").arg(&library))?;
    Ok(Part {
        slice,
        library,
        metallib,
    })
}

/// Signs the frameworks and what holds them: with the identity in
/// `CODESIGN_IDENTITY`, or ad hoc, which is enough to run on this Mac.
pub fn sign(xcframework: &Path, parts: &[Part]) -> Result<()> {
    let identity = env::var("CODESIGN_IDENTITY").unwrap_or_else(|_| "-".to_owned());
    let frameworks = parts.iter().map(|part| {
        xcframework
            .join(part.slice.identifier())
            .join(format!("{NAME}.framework"))
    });
    for bundle in frameworks.chain([xcframework.to_owned()]) {
        run(xcrun("codesign")
            .args(["--force", "--timestamp=none", "--sign", &identity])
            .arg(bundle))?;
    }
    Ok(())
}

fn xcrun(tool: &str) -> Command {
    let mut command = Command::new("xcrun");
    command.arg(tool);
    command
}
