//! Debian's package of std's source, fetched without touching the system's apt:
//! every folder and list that apt uses here is a private one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key};
use crate::util::{find_program, output, run};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SUITES: &[&str] = &["trixie-backports", "testing", "sid", "trixie"];

/// The `library` folder of exactly this version of Rust.
pub fn std_source(cache: &Cache, version: &str) -> Result<PathBuf> {
    let entry = cache.entry("rust-src", Key::default().text(version), |dir| {
        if find_program("apt-get").is_none() || !Path::new(KEYRING).is_file() {
            bail!("this system is not a Debian");
        }
        eprintln!("xtask: looking for rust-src {version} in Debian");
        let mirror = mirror()?;
        let apt_dir = dir.join("apt");
        for suite in SUITES {
            let apt = Apt::new(&apt_dir.join(suite), &mirror, suite)?;
            if let Some(package) = apt.download("rust-src", version)? {
                unpack(&package, version, dir)?;
                return Ok(fs::remove_dir_all(&apt_dir)?);
            }
        }
        bail!("Debian has no rust-src {version} in {}", SUITES.join(", "))
    })?;
    Ok(entry.join("library"))
}

/// The Debian archive that this system is configured to use.
fn mirror() -> Result<String> {
    let uris = output(Command::new("apt-get").args([
        "indextargets",
        "--format=$(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let mirror = uris.lines().find(|uri| uri.ends_with("/debian/"));
    Ok(mirror
        .context("apt's sources name no Debian archive")?
        .to_owned())
}

/// An apt of its own that knows one suite.
struct Apt {
    dir: PathBuf,
    config: PathBuf,
}

impl Apt {
    fn new(dir: &Path, mirror: &str, suite: &str) -> Result<Self> {
        for folder in ["lists/partial", "cache/archives/partial", "parts", "state"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        fs::write(dir.join("status"), "")?;
        let source = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(dir.join("sources.list"), source)?;
        let config = dir.join("apt.conf");
        fs::write(&config, configuration(dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            config,
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", &self.config)
            .current_dir(&self.dir);
        command
    }

    /// The package file of this upstream version, if the suite can be read and
    /// has it.
    fn download(&self, package: &str, version: &str) -> Result<Option<PathBuf>> {
        if run(self.command("apt-get").args(["--quiet=2", "update"])).is_err() {
            return Ok(None);
        }
        let versions = output(self.command("apt-cache").args(["madison", package]))?;
        let debian_version = versions
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(str::trim)
            .find(|found| found.split(['+', '-', '~']).next() == Some(version));
        let Some(debian_version) = debian_version else {
            return Ok(None);
        };
        let wanted = format!("{package}={debian_version}");
        run(self
            .command("apt-get")
            .args(["--quiet=2", "download", &wanted]))?;
        let file = fs::read_dir(&self.dir)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        file.context("apt-get download left no file").map(Some)
    }
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"Dir::Etc::sourcelist "{dir}/sources.list";
Dir::Etc::sourceparts "{dir}/parts";
Dir::Etc::preferences "{dir}/none";
Dir::Etc::preferencesparts "{dir}/parts";
Dir::State "{dir}/state";
Dir::State::lists "{dir}/lists";
Dir::State::status "{dir}/status";
Dir::Cache "{dir}/cache";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"#
    )
}

/// `dpkg-deb` writes a tar of the package; only std's source is taken from it.
fn unpack(package: &Path, version: &str, dir: &Path) -> Result<()> {
    let tar = dir.join("apt/content.tar");
    let content = fs::File::create(&tar)?;
    run(Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(content))?;
    run(Command::new("tar")
        .arg("-xf")
        .arg(&tar)
        .arg("-C")
        .arg(dir)
        .arg("--strip-components=4")
        .arg(format!("./usr/src/rustc-{version}/library")))
}
