//! The archive for C: a prefix that works wherever it is unpacked, with MLX in it.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Ingredients, empty, licenses};
use crate::docs;
use crate::library::bundled_model;
use crate::util::{files_ending_in, output, root, run};
use crate::version::{self, VERSION};

/// Files that are written with the version filled in, and where they go.
const TEMPLATES: &[(&str, &str)] = &[
    (
        "lib/pkgconfig/umrt.pc",
        include_str!("../../templates/umrt.pc"),
    ),
    (
        "lib/pkgconfig/umrt-static.pc",
        include_str!("../../templates/umrt-static.pc"),
    ),
    (
        "swift/pkgconfig/umrt.pc",
        include_str!("../../templates/umrt-swift.pc"),
    ),
    (
        "lib/cmake/umrt/umrtConfig.cmake",
        include_str!("../../templates/umrtConfig.cmake"),
    ),
    (
        "lib/cmake/umrt/umrtConfigVersion.cmake",
        include_str!("../../templates/umrtConfigVersion.cmake"),
    ),
    (
        "examples/CMakeLists.txt",
        include_str!("../../templates/CMakeLists.txt"),
    ),
    ("README.md", include_str!("../../templates/README.md")),
];

/// Swift's package has tests, which need the fixtures of the source tree.
const SWIFT_TESTS: &str = "        .testTarget(name: \"UmrtTests\", dependencies: [\"Umrt\"]),\n";

pub fn name() -> String {
    format!("umrt-{VERSION}-linux-{}", env::consts::ARCH)
}

pub(super) fn make(from: &Ingredients, work: &Path, dist: &Path) -> Result<PathBuf> {
    let name = name();
    let tree = work.join(&name);
    empty(&tree)?;
    lay_out(from, &tree).context("laying out the archive for C")?;
    let archive = dist.join(format!("{name}.tar.gz"));
    // In one order, of one owner and one time: the same input gives the same archive.
    run(Command::new("tar")
        .current_dir(work)
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mode=go=rX,u+rw,a-s", &format!("--mtime=@{}", from.epoch)])
        .args(["--use-compress-program=gzip -9n", "-cf"])
        .arg(&archive)
        .arg(&name))?;
    Ok(archive)
}

fn lay_out(from: &Ingredients, tree: &Path) -> Result<()> {
    for folder in [
        "include",
        "lib/mlx/lib",
        "lib/pkgconfig",
        "lib/cmake/umrt",
        "swift/pkgconfig",
    ] {
        fs::create_dir_all(tree.join(folder))?;
    }
    copy(&root().join("include/umrt.h"), &tree.join("include/umrt.h"))?;
    add_libraries(from, &tree.join("lib"))?;
    add_examples(&tree.join("examples"))?;
    add_swift(&tree.join("swift"))?;
    for (path, template) in TEMPLATES {
        let text = version::filled_in(template).replace("@SONAME@", &version::soname()?);
        fs::write(tree.join(path), text).with_context(|| format!("writing {path}"))?;
    }
    licenses::write(&from.mlx, tree)?;
    if let Some(reference) = docs::reference()? {
        copy_tree(&reference, &tree.join("docs"))?;
    }
    Ok(())
}

fn add_libraries(from: &Ingredients, lib: &Path) -> Result<()> {
    let file = format!("libumrt.so.{VERSION}");
    copy(&from.shared, &lib.join(&file))?;
    let soname = version::soname()?;
    symlink(&file, lib.join(&soname))?;
    symlink(&soname, lib.join("libumrt.so"))?;
    output(
        Command::new("strip")
            .args(["--strip-debug", "-o"])
            .arg(lib.join("libumrt.a"))
            .arg(from.library.file().with_file_name("libumrt.a")),
    )?;
    // MLX finds its own libraries by this arrangement.
    copy(
        &from.mlx.join("mlx/lib/libmlx.so"),
        &lib.join("mlx/lib/libmlx.so"),
    )?;
    copy_tree(&from.mlx.join("mlx_cpu.libs"), &lib.join("mlx_cpu.libs"))
}

fn add_examples(examples: &Path) -> Result<()> {
    fs::create_dir_all(examples)?;
    for source in files_ending_in(&root().join("examples/c"), "c")? {
        copy(
            &source,
            &examples.join(source.file_name().context("a file")?),
        )?;
    }
    let model = bundled_model()?;
    copy_tree(
        &model,
        &examples
            .join("models")
            .join(model.file_name().context("a folder")?),
    )
}

fn add_swift(folder: &Path) -> Result<()> {
    let package = root().join("bindings/swift");
    copy_tree(&package.join("Sources"), &folder.join("Sources"))?;
    let manifest = fs::read_to_string(package.join("Package.swift"))?;
    ensure!(
        manifest.contains(SWIFT_TESTS),
        "bindings/swift/Package.swift has no line `{}`",
        SWIFT_TESTS.trim()
    );
    let manifest = manifest.replace(SWIFT_TESTS, "");
    fs::write(folder.join("Package.swift"), manifest).context("writing Package.swift")
}

pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            copy(&entry.path(), &target)?;
        }
    }
    Ok(())
}
