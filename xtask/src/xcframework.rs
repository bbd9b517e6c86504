//! `cargo xtask xcframework`: the library as Swift packages and Xcode take it, and
//! `check-xcframework`, which makes one with a Mach-O library linked on Linux.

mod archive;
mod build;
mod bundle;
mod cross;
mod inspect;
mod plist;
mod slice;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::cache::Cache;
use crate::swift::Swift;
use crate::util::{self, root, sha256, write_if_changed};
use slice::{SLICES, Slice};

/// The framework, its binary and its module.
pub const NAME: &str = "CUmrt";

const PACKAGE: &str = "bindings/swift";
const USAGE: &str = "usage: cargo xtask xcframework [--slices NAMES] [--url URL]";

pub fn command(args: &[String]) -> Result<()> {
    let (slices, url) = parse(args)?;
    if !cfg!(target_vendor = "apple") {
        bail!(
            "an XCFramework is built on a Mac (docs/apple.md); \
             `cargo xtask check-xcframework` makes and checks one on Linux"
        );
    }
    let mut parts = Vec::new();
    for slice in slices {
        parts.push(build::build(slice)?);
    }
    let folder = root().join(PACKAGE);
    let xcframework = bundle::assemble(&parts, &folder)?;
    build::sign(&xcframework, &parts)?;
    for part in &parts {
        inspect::check(part.slice, &part.slice.binary_in(&xcframework))?;
    }
    let zip = util::metadata()?
        .target_dir
        .join(format!("{NAME}.xcframework.zip"));
    archive::zip(&xcframework, &zip)?;
    let checksum = sha256(&zip)?;
    println!("{}", xcframework.display());
    println!("{}\nchecksum {checksum}", zip.display());
    if let Some(url) = url {
        write_release(&folder.join("Package.swift"), url, &checksum)?;
    }
    Ok(())
}

fn parse(args: &[String]) -> Result<(Vec<&'static Slice>, Option<&str>)> {
    let mut names = "macos";
    let mut url = None;
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let value = rest.next().context(USAGE)?;
        match flag.as_str() {
            "--slices" => names = value,
            "--url" => url = Some(value.as_str()),
            _ => bail!(USAGE),
        }
    }
    let slices = names.split(',').map(|name| {
        let known = SLICES.map(|slice| slice.name).join(", ");
        SLICES
            .iter()
            .find(|slice| slice.name == name)
            .with_context(|| format!("there is no slice `{name}`; there are {known}"))
    });
    Ok((slices.collect::<Result<_>>()?, url))
}

const RELEASE: &str = "let release: (url: String, checksum: String)? = ";

/// Tells the package where its XCFramework can be downloaded.
fn write_release(manifest: &Path, url: &str, checksum: &str) -> Result<()> {
    let text =
        fs::read_to_string(manifest).with_context(|| format!("reading {}", manifest.display()))?;
    write_if_changed(manifest, &with_release(&text, url, checksum)?)
}

fn with_release(manifest: &str, url: &str, checksum: &str) -> Result<String> {
    let (before, after) = manifest
        .split_once(RELEASE)
        .with_context(|| format!("Package.swift has no line `{RELEASE}`"))?;
    let (_, after) = after.split_once('\n').unwrap_or_default();
    let value = format!("({}, {})", util::quoted(url), util::quoted(checksum));
    Ok(format!("{before}{RELEASE}{value}\n{after}"))
}

pub fn check_command(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask check-xcframework");
    }
    if cfg!(target_vendor = "apple") {
        bail!("this is a Mac: `cargo xtask xcframework` makes a real one");
    }
    let slice = &SLICES[0];
    let part = cross::build(slice)?;
    let folder = util::metadata()?.target_dir.join("xcframework");
    let package = folder.join("package");
    copy_package(&package)?;
    let xcframework = bundle::assemble(&[part], &package)?;
    let binary = slice.binary_in(&xcframework);
    inspect::check(slice, &binary)?;
    let zip = folder.join(format!("{NAME}.xcframework.zip"));
    archive::zip(&xcframework, &zip)?;
    println!(
        "{} bytes, checksum {}",
        fs::metadata(&zip)?.len(),
        sha256(&zip)?
    );
    check_with_swift(&package, slice)
}

/// The Swift package, to put the XCFramework in.
fn copy_package(to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    copy_folder(&root().join(PACKAGE), to)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.path().extension() {
            Some(extension) if extension == "xcframework" => {}
            _ if entry.file_type()?.is_dir() => copy_folder(&entry.path(), &target)?,
            _ => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// SwiftPM reads the XCFramework's Info.plist and picks the slice for a Mac; then it
/// stops, because Linux has no Swift library for one.
fn check_with_swift(package: &Path, slice: &Slice) -> Result<()> {
    let Some(swift) = Swift::find(&Cache::open()?)? else {
        println!("not read by SwiftPM: there is no Swift here (`cargo xtask setup --swift`)");
        return Ok(());
    };
    let output = swift
        .command("build", &[package])?
        .env("UMRT_SWIFT_LIBRARY", "xcframework")
        // It is looked for, but not run.
        .env("LIBTOOL", "/usr/bin/ar")
        .arg("--package-path")
        .arg(package)
        .args(["--triple", "arm64-apple-macosx", "--verbose"])
        .output()
        .context("swift could not be started")?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let folder = format!("{NAME}.xcframework/{}", slice.identifier());
    ensure!(
        said.contains(&folder),
        "SwiftPM does not use {folder}:\n{said}"
    );
    println!("SwiftPM uses {folder}");
    Ok(())
}

/// A built library, ready to be put into a framework.
pub struct Part {
    pub slice: &'static Slice,
    pub library: PathBuf,
    /// MLX's compiled shaders.
    pub metallib: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| word.to_string()).collect()
    }

    #[test]
    fn slices_are_chosen_by_name() -> Result<()> {
        let given = args(&["--slices", "ios,macos", "--url", "https://a/b.zip"]);
        let (slices, url) = parse(&given)?;
        let names: Vec<_> = slices.iter().map(|slice| slice.name).collect();
        assert_eq!(
            (names.as_slice(), url),
            (&["ios", "macos"][..], Some("https://a/b.zip"))
        );
        let error = parse(&args(&["--slices", "tvos"])).unwrap_err().to_string();
        assert!(error.contains("ios-simulator"), "{error}");
        Ok(())
    }

    #[test]
    fn the_packages_manifest_takes_a_release() -> Result<()> {
        let manifest = fs::read_to_string(root().join(PACKAGE).join("Package.swift"))?;
        let released = with_release(&manifest, "https://a/b.zip", "0f")?;
        assert!(
            released.contains(r#"? = ("https://a/b.zip", "0f")"#),
            "{released}"
        );
        assert_eq!(released.lines().count(), manifest.lines().count());
        assert_eq!(with_release(&released, "https://a/b.zip", "0f")?, released);
        Ok(())
    }
}
