//! The packages, used as their readers would use them: unpacked somewhere, with a
//! compiler or a Python and nothing of the source tree, and run without a single
//! environment variable.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Packages, TOOLS, clean_swift, tarball};
use crate::examples;
use crate::library::bundled_model;
use crate::python;
use crate::util::{files_ending_in, output, run};
use crate::version::{self, VERSION};

/// An empty folder outside of the source tree that goes when it is done with.
pub(super) struct Place(pub PathBuf);

impl Place {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("umrt-clean-place-{}", std::process::id()));
        super::empty(&folder)?;
        Ok(Self(folder))
    }

    pub fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left in the temporary folder is the system's to remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn check(packages: &Packages) -> Result<()> {
    let place = Place::new()?;
    let prefix = unpack(packages, &place).context("unpacking the archive for C")?;
    check_library(&prefix).context("the library of the archive")?;
    with_pkg_config(&prefix, &place).context("the archive with pkg-config")?;
    with_cmake(&prefix, &place).context("the archive with CMake")?;
    clean_swift::check(&prefix, &place).context("the archive's package for Swift")?;
    python(packages, &place).context("the wheel in a new virtual environment")
}

/// A program with no environment but the places of programs.
pub(super) fn bare(program: impl AsRef<std::ffi::OsStr>, place: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir(place);
    command
}

fn unpack(packages: &Packages, place: &Place) -> Result<PathBuf> {
    run(bare("tar", &place.0).arg("-xzf").arg(&packages.tarball))?;
    // Under another name than the one that it was packed with.
    let prefix = place.join("elsewhere");
    fs::rename(place.join(&tarball::name()), &prefix)?;
    Ok(prefix)
}

fn check_library(prefix: &Path) -> Result<()> {
    let library = prefix.join("lib/libumrt.so");
    let symbols = output(
        bare("nm", prefix)
            .args(["-D", "--defined-only"])
            .arg(&library),
    )?;
    let names: Vec<_> = symbols
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    let foreign = names.iter().find(|name| !name.starts_with("umrt_"));
    ensure!(foreign.is_none(), "it exports {foreign:?}");
    ensure!(!names.is_empty(), "it exports nothing");

    let dynamic = output(bare("readelf", prefix).arg("-d").arg(&library))?;
    let soname = version::soname()?;
    ensure!(
        dynamic.contains(&format!("Library soname: [{soname}]")),
        "its soname is not {soname}"
    );
    let loaded = output(bare("ldd", prefix).arg(&library))?;
    let mlx = fs::canonicalize(prefix)?.join("lib/mlx/lib/libmlx.so");
    ensure!(
        !loaded.contains("not found") && loaded.contains(&*prefix.to_string_lossy()),
        "it does not find what it needs in {}:\n{loaded}",
        mlx.display()
    );
    println!(
        "archive: {} functions, {soname}, MLX from beside it",
        names.len()
    );
    Ok(())
}

fn with_pkg_config(prefix: &Path, place: &Place) -> Result<()> {
    let model = model_in(prefix)?;
    let flags = |package: &str| -> Result<Vec<String>> {
        let printed = output(
            bare("pkg-config", &place.0)
                .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
                .args(["--cflags", "--libs", package]),
        )?;
        Ok(printed.split_whitespace().map(str::to_owned).collect())
    };
    let shared = flags("umrt")?;
    for source in files_ending_in(&prefix.join("examples"), "c")? {
        let name = stem(&source);
        let program = place.join(&name);
        run(bare("gcc", &place.0)
            .arg(&source)
            .args(&shared)
            .args(["-pthread", "-o"])
            .arg(&program))?;
        examples::check(bare(&program, &place.0), &name, &model)
            .with_context(|| format!("the example {name}"))?;
        println!("archive: {name} compiled with pkg-config and run");
    }
    examples::check_interrupt(bare(place.join("chat"), &place.0), &model)
        .context("Ctrl-C in the example chat")?;
    println!("archive: Ctrl-C cancels an answer of chat, not chat");

    let program = place.join("minimal-static");
    run(bare("gcc", &place.0)
        .arg(prefix.join("examples/minimal.c"))
        .args(flags("umrt-static")?)
        .arg("-o")
        .arg(&program))?;
    let loaded = output(bare("ldd", &place.0).arg(&program))?;
    ensure!(!loaded.contains("libumrt"), "it is not linked statically");
    examples::check(bare(&program, &place.0), "minimal", &model).context("linked statically")?;
    println!("archive: minimal linked with libumrt.a and run");
    Ok(())
}

fn with_cmake(prefix: &Path, place: &Place) -> Result<()> {
    let interpreter = python::interpreter(&TOOLS)?;
    let tools = interpreter.parent().context("a folder of programs")?;
    let build = place.join("build");
    let cmake = || {
        let mut cmake = bare(interpreter.clone(), &place.0);
        cmake.args(["-m", "cmake"]);
        cmake
    };
    output(
        cmake()
            .arg("-S")
            .arg(prefix.join("examples"))
            .arg("-B")
            .arg(&build)
            .args(["-G", "Ninja"])
            .arg(format!(
                "-DCMAKE_MAKE_PROGRAM={}",
                tools.join("ninja").display()
            ))
            .arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display())),
    )?;
    output(cmake().arg("--build").arg(&build))?;
    let model = model_in(prefix)?;
    for name in ["minimal", "minimal_static"] {
        examples::check(bare(build.join(name), &place.0), "minimal", &model)
            .with_context(|| format!("the example {name}"))?;
        println!("archive: {name} built with CMake and run");
    }
    Ok(())
}

/// What a newcomer types.
const THREE_LINES: &str = "
import umrt
model = umrt.Model.open(MODEL)
print(model.context().generate('Once upon a time', max_tokens=40).text())
";

fn python(packages: &Packages, place: &Place) -> Result<()> {
    let environment = place.join("venv");
    run(bare("python3", &place.0)
        .args(["-m", "venv"])
        .arg(&environment))?;
    let programs = environment.join("bin");
    let mut install = bare(programs.join("python"), &place.0);
    // Where packages come from may be configured in the environment.
    for (name, value) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["HOME", "PIP_", "SSL_", "HTTP", "http", "REQUESTS_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            install.env(name, value);
        }
    }
    run(install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .arg("--only-binary=:all:")
        .arg(&packages.wheel))?;

    let model = bundled_model()?;
    let code = THREE_LINES.replace("MODEL", &format!("{:?}", model.display().to_string()));
    let text = output(bare(programs.join("python"), &place.0).arg("-c").arg(code))?;
    ensure!(
        text.split_whitespace().count() > 10,
        "it wrote only {text:?}"
    );
    println!("wheel: three lines of Python wrote {:?}", text.trim());

    let umrt = || bare(programs.join("umrt"), &place.0);
    let printed = output(umrt().arg("--version"))?;
    ensure!(printed.trim() == format!("umrt {VERSION}"), "{printed}");
    for command in ["inspect", "plan"] {
        let printed = output(umrt().arg(command).arg("--json").arg(&model))?;
        serde_json::from_str::<serde_json::Value>(&printed)
            .with_context(|| format!("`umrt {command} --json` printed {printed}"))?;
    }
    let answer = output(umrt().arg("run").arg(&model).arg("Tell me a story."))?;
    ensure!(!answer.trim().is_empty(), "`umrt run` wrote nothing");
    println!("wheel: umrt run, plan and inspect");
    Ok(())
}

pub(super) fn model_in(prefix: &Path) -> Result<PathBuf> {
    let name = bundled_model()?;
    let name = name.file_name().context("a folder")?;
    Ok(prefix.join("examples/models").join(name))
}

fn stem(file: &Path) -> String {
    file.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
