//! Python packages as a source of pinned binaries.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, Key};
use crate::util::{find_program, output, require, run};

/// A pip requirements file that pins every wheel by its hash.
pub struct Requirements {
    pub name: &'static str,
    pub text: Cow<'static, str>,
}

impl Requirements {
    pub const fn new(name: &'static str, text: &'static str) -> Requirements {
        Requirements {
            name,
            text: Cow::Borrowed(text),
        }
    }

    /// One package of the file.
    pub fn alone(&self, package: &'static str) -> Result<Requirements> {
        let begins = format!("{package}==");
        let lines = self.text.lines();
        let mut rest = lines.skip_while(|line| !line.starts_with(&begins));
        let first = rest
            .next()
            .with_context(|| format!("{} does not pin {package}", self.name))?;
        let hashes = rest.take_while(|line| line.starts_with(' '));
        let text: Vec<_> = std::iter::once(first).chain(hashes).collect();
        Ok(Requirements {
            name: package,
            text: Cow::Owned(text.join("\n") + "\n"),
        })
    }

    fn key(&self) -> Key {
        Key::default().text(&self.text).text(std::env::consts::ARCH)
    }

    pub fn is_unpacked(&self, cache: &Cache) -> bool {
        cache.has(self.name, self.key())
    }

    /// The folder into which all wheels of the file are unpacked side by side.
    pub fn unpacked(&self, cache: &Cache) -> Result<PathBuf> {
        self.unpacked_for(cache, None)
    }

    /// The same, with wheels for another platform, by its tag.
    pub fn unpacked_for(&self, cache: &Cache, platform: Option<&str>) -> Result<PathBuf> {
        cache.entry(self.name, self.key(), |dir| {
            self.unpack(dir, platform)
                .with_context(|| format!("fetching {} from PyPI", self.name))
        })
    }

    fn unpack(&self, dir: &Path, platform: Option<&str>) -> Result<()> {
        require(missing_tools())?;
        eprintln!("setup: fetching {}", self.name);
        let list = dir.join("requirements.txt");
        fs::write(&list, &*self.text)?;
        let wheels = dir.join("wheels");
        let verbosity = (!io::stdout().is_terminal()).then_some("--quiet");
        run(python()
            .args(["-m", "pip", "download", "--disable-pip-version-check"])
            .args(["--no-deps", "--only-binary=:all:", "--require-hashes"])
            .args(verbosity)
            .args(platform.map(|tag| format!("--platform={tag}")))
            .arg("--dest")
            .arg(&wheels)
            .arg("--requirement")
            .arg(&list))?;
        for file in fs::read_dir(&wheels)? {
            run(python()
                .args(["-m", "zipfile", "-e"])
                .arg(file?.path())
                .arg(dir))?;
        }
        fs::remove_dir_all(&wheels)?;
        Ok(())
    }
}

pub fn python() -> Command {
    Command::new("python3")
}

/// What has to be installed before anything can be fetched from PyPI.
pub fn missing_tools() -> Vec<String> {
    let missing = if find_program("python3").is_none() {
        Some("python3 is missing: apt-get install python3 python3-pip")
    } else if !has_module("pip") {
        Some("python3 has no pip: apt-get install python3-pip")
    } else {
        None
    };
    missing.into_iter().map(str::to_owned).collect()
}

fn has_module(module: impl AsRef<OsStr>) -> bool {
    let find =
        "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]) is not None)";
    output(python().arg("-c").arg(find).arg(module)).is_ok_and(|answer| answer.trim() == "True")
}

const TEST: Requirements =
    Requirements::new("python-test", include_str!("../requirements/test.txt"));

/// The interpreter of a virtual environment with what the Python tests need.
pub fn test_interpreter() -> Result<PathBuf> {
    interpreter(&TEST)
}

const TYPES: Requirements =
    Requirements::new("python-types", include_str!("../requirements/types.txt"));

/// The interpreter of a virtual environment that checks types, and draws with rich.
pub fn types_interpreter() -> Result<PathBuf> {
    interpreter(&TYPES)
}

/// The interpreter of a virtual environment with these packages.
pub fn interpreter(packages: &Requirements) -> Result<PathBuf> {
    let mut missing = missing_tools();
    if missing.is_empty() && !has_module("ensurepip") {
        missing.push("python3 has no venv: apt-get install python3-venv".to_owned());
    }
    require(missing)?;
    let version = output(python().args(["-c", "import sys; print(sys.version, sys.prefix)"]))?;
    let key = packages.key().text(&version);
    let environment = Cache::open()?.entry(packages.name, key, |dir| {
        eprintln!("setup: making the virtual environment {}", packages.name);
        let list = dir.join("requirements.txt");
        fs::write(&list, &*packages.text)?;
        run(python().args(["-m", "venv"]).arg(dir))?;
        run(Command::new(dir.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(["--only-binary=:all:", "--require-hashes", "--requirement"])
            .arg(&list))
    })?;
    Ok(environment.join("bin/python"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_package_is_taken_with_its_hashes() -> Result<()> {
        let all = Requirements::new(
            "all",
            "# why\na==1 \\\n    --hash=x\nab==2 \\\n    --hash=y \\\n    --hash=z\nc==3\n",
        );
        assert_eq!(all.alone("a")?.text, "a==1 \\\n    --hash=x\n");
        let second = "ab==2 \\\n    --hash=y \\\n    --hash=z\n";
        assert_eq!(all.alone("ab")?.text, second);
        assert!(all.alone("b").is_err());
        Ok(())
    }
}
