//! Paths of the workspace and running other programs.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The folder that holds the workspace's `Cargo.toml`.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace's root")
}

pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// What xtask has to know from `cargo metadata`.
pub struct Metadata {
    pub target_dir: PathBuf,
    pub mlx_sys_dir: PathBuf,
    /// The edition of Rust that umrt is written in.
    pub edition: String,
    /// The versions that umrt accepts of what it depends on, by name.
    pub requirements: BTreeMap<String, String>,
}

pub fn metadata() -> Result<Metadata> {
    let json = output(cargo().args([
        "metadata",
        "--format-version=1",
        "--filter-platform",
        &host_triple()?,
    ]))?;
    let json: serde_json::Value = serde_json::from_str(&json).context("reading cargo metadata")?;
    let packages = json["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let package = |name: &str| {
        let named = packages.iter().find(|package| package["name"] == name);
        named.with_context(|| format!("cargo metadata lists no {name}"))
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (umrt, mlx_sys) = (package("umrt")?, package("mlx-sys")?);
    let target_dir = json["target_directory"]
        .as_str()
        .context("no target_directory")?;
    Ok(Metadata {
        target_dir: target_dir.into(),
        mlx_sys_dir: Path::new(&text(&mlx_sys["manifest_path"]))
            .parent()
            .context("mlx-sys has no folder")?
            .into(),
        edition: text(&umrt["edition"]),
        requirements: umrt["dependencies"]
            .as_array()
            .context("cargo metadata lists no dependencies")?
            .iter()
            .map(|dependency| (text(&dependency["name"]), text(&dependency["req"])))
            .collect(),
    })
}

/// The target triple for which cargo builds when none is named.
pub fn host_triple() -> Result<String> {
    let version = output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// The first executable file of this name in `PATH`.
pub fn find_program(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name.as_ref()))
        .find(|file| file.is_file())
}

/// The files of a folder that have this extension, sorted by name.
pub fn files_ending_in(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    Ok(files)
}

/// As `files_ending_in`, those in folders below too.
pub fn files_below(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = files_ending_in(dir, extension)?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path, extension)?);
        }
    }
    files.sort();
    Ok(files)
}

/// The hash of a file, in hexadecimal digits.
pub fn sha256(file: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut content =
        fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
    io::copy(&mut content, &mut hasher).with_context(|| format!("reading {}", file.display()))?;
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Leaves a file alone that has this content, so that nothing is built anew.
pub fn write_if_changed(path: &Path, content: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    // Renamed into place: another cargo may be reading it.
    let unfinished = path.with_extension("toml.new");
    fs::write(&unfinished, content).with_context(|| format!("writing {}", unfinished.display()))?;
    fs::rename(&unfinished, path).with_context(|| format!("writing {}", path.display()))
}

/// Runs a program whose output goes to the terminal.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{} could not be started", name_of(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line_of(command));
    }
    Ok(())
}

/// Runs a program and returns what it printed; its errors go to the terminal.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} could not be started", name_of(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line_of(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} printed something else than UTF-8", name_of(command)))
}

fn name_of(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

pub fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A TOML basic string; JSON's escapes are a part of TOML's.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Fails with one line for each thing that is missing.
pub fn require(missing: Vec<String>) -> Result<()> {
    if missing.is_empty() {
        Ok(())
    } else {
        bail!(missing.join("\nerror: "))
    }
}
