//! Debian's package of std's source.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::apt::{self, Apt};
use crate::cache::{Cache, Key};

const SUITES: &[&str] = &["trixie-backports", "testing", "sid", "trixie"];

/// The `library` folder of exactly this version of Rust.
pub fn std_source(cache: &Cache, version: &str) -> Result<PathBuf> {
    let entry = cache.entry("rust-src", Key::default().text(version), |dir| {
        let mirror = apt::mirror()?;
        eprintln!("xtask: looking for rust-src {version} in Debian");
        let apt_dir = dir.join("apt");
        for suite in SUITES {
            let apt = Apt::new(&apt_dir.join(suite), &mirror, suite)?;
            // A suite that cannot be read may not exist any more.
            if apt.update().is_err() {
                continue;
            }
            if let Some(package) = apt.download_upstream("rust-src", version)? {
                let library = format!("./usr/src/rustc-{version}/library");
                apt::unpack(&package, &["--strip-components=4", &library], dir)?;
                return Ok(fs::remove_dir_all(&apt_dir)?);
            }
        }
        bail!("Debian has no rust-src {version} in {}", SUITES.join(", "))
    })?;
    Ok(entry.join("library"))
}
