//! `cargo xtask dist`: the packages for C and Python, in `dist/`.

mod clean_place;
mod clean_swift;
mod licenses;
mod runpath;
mod tarball;
mod wheel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::library::Library;
use crate::mlx;
use crate::python::Requirements;
use crate::test::Outcome;
use crate::util::{find_program, output, root};

const CHECKSUMS: &str = "SHA256SUMS";
const TOOLS: Requirements =
    Requirements::new("python-dist", include_str!("../requirements/dist.txt"));
/// The oldest glibc that both MLX and the packages run with.
const GLIBC: (u32, u32) = (2, 35);

/// The files of `dist/`, but for their checksums.
struct Packages {
    tarball: PathBuf,
    wheel: PathBuf,
}

/// What packages are made from.
struct Ingredients {
    library: Library,
    /// MLX's wheel, unpacked.
    mlx: PathBuf,
    /// `libumrt.so` without what only the machine that built it has.
    shared: PathBuf,
    /// The time of every file, in seconds since 1970: that of the last commit.
    epoch: String,
}

pub fn command(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask dist");
    }
    let packages = build()?;
    for file in [&packages.tarball, &packages.wheel] {
        let size = fs::metadata(file)?.len() as f64 / 1e6;
        println!("{} ({size:.1} MB)", file.display());
    }
    Ok(())
}

/// Makes the packages and uses each as somebody who has nothing else.
pub fn check(_: &[String]) -> Result<Outcome> {
    if !cfg!(target_os = "linux") {
        return Ok(Outcome::Skipped("packages are made on Linux".to_owned()));
    }
    let packages = build()?;
    clean_place::check(&packages)?;
    Ok(Outcome::Passed)
}

fn build() -> Result<Packages> {
    if !cfg!(target_os = "linux") {
        bail!("packages for C and Python are made on Linux");
    }
    let library = Library::build()?;
    let work = library.programs().with_file_name("dist");
    let ingredients = Ingredients {
        mlx: mlx::cpu_package(&Cache::open()?)?,
        shared: portable(&library.file(), &work)?,
        epoch: epoch()?,
        library,
    };
    let dist = root().join("dist");
    empty(&dist)?;
    let packages = Packages {
        tarball: tarball::make(&ingredients, &work, &dist)?,
        wheel: wheel::make(&ingredients, &work, &dist)?,
    };
    write_checksums(&dist)?;
    Ok(packages)
}

/// A copy that other machines can use.
fn portable(library: &Path, work: &Path) -> Result<PathBuf> {
    fs::create_dir_all(work)?;
    let copy = work.join("libumrt.so");
    output(
        Command::new("strip")
            .args(["--strip-debug", "-o"])
            .arg(&copy)
            .arg(library),
    )?;
    let mut bytes = fs::read(&copy)?;
    runpath::keep_relative(&mut bytes).with_context(|| format!("{}", library.display()))?;
    fs::write(&copy, bytes)?;
    ensure_old_glibc_suffices(&copy)?;
    Ok(copy)
}

/// Fails if the library needs a symbol that a newer glibc introduced.
fn ensure_old_glibc_suffices(library: &Path) -> Result<()> {
    let symbols = output(Command::new("objdump").arg("-T").arg(library))?;
    let newest = symbols
        .split(|c: char| c.is_whitespace() || c == '(' || c == ')')
        .filter_map(|word| version_of(word.strip_prefix("GLIBC_")?))
        .max()
        .context("it needs no glibc")?;
    if newest > GLIBC {
        let ((major, minor), (oldest_major, oldest_minor)) = (newest, GLIBC);
        bail!(
            "libumrt.so needs glibc {major}.{minor}, but its packages promise \
             {oldest_major}.{oldest_minor}: build them on a system with an older glibc"
        );
    }
    Ok(())
}

fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn epoch() -> Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    if find_program("git").is_none() || !root().join(".git").exists() {
        return Ok("0".to_owned());
    }
    let time = output(
        Command::new("git")
            .current_dir(root())
            .args(["log", "-1", "--format=%ct"]),
    )?;
    Ok(time.trim().to_owned())
}

fn write_checksums(dist: &Path) -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(dist)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    names.sort();
    let sums = output(Command::new("sha256sum").current_dir(dist).args(&names))?;
    fs::write(dist.join(CHECKSUMS), sums).context("writing the checksums")
}

fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("emptying {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_glibc_are_compared_as_numbers() {
        assert!(version_of("2.4") < version_of("2.35"));
        assert!(version_of("2.36") > Some(GLIBC));
        assert_eq!(version_of("2.2.5"), Some((2, 2)));
        assert_eq!(version_of("PRIVATE"), None);
    }
}
