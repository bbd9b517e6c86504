//! What comes from others: crates by their licenses and sources, as deny.toml says, and
//! Python packages by their hashes.

mod license;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::license::Policy;
use crate::test::Outcome;
use crate::util::{cargo, files_ending_in, find_program, output, root, run};

const POLICY: &str = "deny.toml";
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
const REQUIREMENTS: &str = "xtask/requirements";

pub fn check(_: &[String]) -> Result<Outcome> {
    check_requirements()?;
    check_crates()?;
    if find_program("cargo-deny").is_some() {
        // Advisories would be fetched.
        run(Command::new("cargo-deny").current_dir(root()).args([
            "--offline",
            "--workspace",
            "check",
            "bans",
            "licenses",
            "sources",
        ]))?;
    } else {
        println!("cargo-deny is not installed; licenses, sources and checksums were checked here");
    }
    println!(
        "not checked: advisories (`cargo deny --workspace check advisories`, needs the network)"
    );
    Ok(Outcome::Passed)
}

/// Licenses and sources of all crates for all platforms, and that the lock file has the
/// checksum of each.
fn check_crates() -> Result<()> {
    let policy = Policy::parse(&fs::read_to_string(root().join(POLICY))?)?;
    let metadata: Value = serde_json::from_str(&output(cargo().args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--all-features",
    ]))?)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut problems = Vec::new();
    let mut n_foreign = 0;
    for package in packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let name = text("name");
        if !package["source"].is_null() {
            n_foreign += 1;
            if text("source") != CRATES_IO {
                problems.push(format!("{name} comes from {}", text("source")));
            }
        }
        if !policy.accepts(name, text("license")) {
            problems.push(format!("{name} has the license {:?}", text("license")));
        }
    }
    let lock = fs::read_to_string(root().join("Cargo.lock"))?;
    let n_checksums = lock.matches("\nchecksum = \"").count();
    if n_checksums < n_foreign {
        problems.push(format!(
            "Cargo.lock has {n_checksums} checksums for {n_foreign} crates"
        ));
    }
    ensure!(problems.is_empty(), "{POLICY}: {}", problems.join("; "));
    println!("{n_foreign} crates from crates.io with checksums and accepted licenses");
    Ok(())
}

/// Each package is pinned, and has a hash.
fn check_requirements() -> Result<()> {
    let mut n_packages = 0;
    for file in files_ending_in(&root().join(REQUIREMENTS), "txt")? {
        let text = fs::read_to_string(&file)?;
        let packages = pinned(&text);
        let loose: Vec<_> = packages.iter().filter(|(_, has_hash)| !has_hash).collect();
        ensure!(
            loose.is_empty() && !packages.is_empty(),
            "{} has packages without a version or a hash: {loose:?}",
            file.display()
        );
        n_packages += packages.len();
    }
    println!("{n_packages} Python and Debian packages with versions and hashes");
    Ok(())
}

/// The packages of a list, and whether a hash follows each.
fn pinned(text: &str) -> Vec<(&str, bool)> {
    let mut packages: Vec<(&str, bool)> = Vec::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let has_hash = line.contains("sha256:");
        match packages.last_mut() {
            Some((_, hashed)) if line.starts_with(' ') => *hashed |= has_hash,
            _ => packages.push((line.split('=').next().unwrap_or(line), has_hash)),
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_without_a_hash_are_found() {
        let text = "# a list\na==1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\nb==2\n\n\
                    c=3 sha256:02\n";
        assert_eq!(pinned(text), [("a", true), ("b", false), ("c", true)]);
    }
}
