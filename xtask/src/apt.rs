//! Debian packages, fetched without touching the system's apt: every folder and
//! list that apt uses here is a private one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cache::{Cache, Key};
use crate::util::{find_program, output, run, sha256};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What the system has installed.
const STATUS: &str = "/var/lib/dpkg/status";

/// One version of a package, by the hash of its file.
#[derive(Debug, PartialEq)]
pub struct Pinned {
    pub name: String,
    pub version: String,
    pub sha256: String,
}

impl Pinned {
    /// A line `name=version sha256:hash`.
    fn parse(line: &str) -> Option<Self> {
        let (name_and_version, hash) = line.split_once(' ')?;
        let (name, version) = name_and_version.split_once('=')?;
        Some(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            sha256: hash.trim().strip_prefix("sha256:")?.to_owned(),
        })
    }

    /// The lines of a file; those that begin with `#` are comments.
    pub fn parse_all(text: &str) -> Result<Vec<Self>> {
        text.lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| Self::parse(line).with_context(|| format!("not a pinned package: {line}")))
            .collect()
    }

    pub fn line(&self) -> String {
        format!("{}={} sha256:{}\n", self.name, self.version, self.sha256)
    }

    /// From what `apt-get --print-uris` says: `'URI' FILE SIZE SHA256:HASH`.
    fn from_uri_line(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let file = words.nth(1)?.replace("%3a", ":");
        let mut parts = file.split('_');
        Some(Self {
            name: parts.next()?.to_owned(),
            version: parts.next()?.to_owned(),
            sha256: words.nth(1)?.strip_prefix("SHA256:")?.to_owned(),
        })
    }
}

/// The Debian archive to fetch from: `DEBIAN_MIRROR`, or the one that this system
/// is configured to use.
pub fn mirror() -> Result<String> {
    if let Ok(mirror) = env::var("DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    if find_program("apt-get").is_none() || !Path::new(KEYRING).is_file() {
        bail!("this system is not a Debian");
    }
    let uris = output(Command::new("apt-get").args([
        "indextargets",
        "--format=$(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let mirror = uris.lines().find(|uri| uri.ends_with("/debian/"));
    Ok(mirror
        .context("apt's sources name no Debian archive: set DEBIAN_MIRROR")?
        .to_owned())
}

/// The root of a tree in which a package of this system's release is unpacked, and
/// what the system lacks for it.
pub fn unpacked(cache: &Cache, package: &str) -> Result<PathBuf> {
    let suite = own_suite()?;
    let entry = cache.entry(package, Key::default().text(&suite), |dir| {
        let apt_dir = dir.join("apt");
        let apt = Apt::new(&apt_dir, &mirror()?, &suite)?;
        fs::copy(STATUS, apt_dir.join("status")).context("copying dpkg's status")?;
        eprintln!("xtask: fetching {package} from Debian {suite}");
        apt.update()?;
        let root = dir.join("root");
        fs::create_dir_all(&root)?;
        for file in apt.download(&apt.resolve(&[package])?)? {
            unpack(&file, &[], &root)?;
        }
        Ok(fs::remove_dir_all(&apt_dir)?)
    })?;
    Ok(entry.join("root"))
}

/// The name of this system's release of Debian.
fn own_suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| release.lines().find_map(|line| line.strip_prefix(key));
    ensure!(
        value("ID=") == Some("debian"),
        "this system is not a Debian"
    );
    let suite = value("VERSION_CODENAME=").context("this Debian has no name")?;
    Ok(suite.to_owned())
}

/// An apt of its own that knows one suite.
pub struct Apt {
    dir: PathBuf,
    config: PathBuf,
}

impl Apt {
    pub fn new(dir: &Path, mirror: &str, suite: &str) -> Result<Self> {
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

    pub fn update(&self) -> Result<()> {
        run(self.command("apt-get").args(["--quiet=2", "update"]))
    }

    /// The package file of this upstream version, if the suite has it.
    pub fn download_upstream(&self, package: &str, version: &str) -> Result<Option<PathBuf>> {
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
        let file = self.package_files()?.into_iter().next();
        file.context("apt-get download left no file").map(Some)
    }

    /// The files of exactly these packages.
    pub fn download(&self, packages: &[Pinned]) -> Result<Vec<PathBuf>> {
        let wanted = packages
            .iter()
            .map(|package| format!("{}={}", package.name, package.version));
        run(self
            .command("apt-get")
            .args(["--quiet=2", "download"])
            .args(wanted))
        .context("Debian's archive may have newer versions by now")?;
        let files = self.package_files()?;
        for file in &files {
            let hash = sha256(file)?;
            ensure!(
                packages.iter().any(|package| package.sha256 == hash),
                "{} has the hash {hash}, which is none of those expected",
                file.display()
            );
        }
        ensure!(files.len() == packages.len(), "some packages are missing");
        Ok(files)
    }

    fn package_files(&self) -> Result<Vec<PathBuf>> {
        crate::util::files_ending_in(&self.dir, "deb")
    }

    /// These packages in the suite's versions, with all that they need.
    pub fn resolve(&self, packages: &[&str]) -> Result<Vec<Pinned>> {
        let uris = output(
            self.command("apt-get")
                .args(["--quiet=2", "--yes", "--no-install-recommends"])
                .args(["-o", "Acquire::ForceHash=SHA256"])
                .args(["--print-uris", "install"])
                .args(packages),
        )?;
        let mut pinned: Vec<_> = uris.lines().filter_map(Pinned::from_uri_line).collect();
        pinned.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pinned)
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

/// Unpacks a package's files as `tar` is told to; no script of it is run.
pub fn unpack(package: &Path, tar_args: &[&str], into: &Path) -> Result<()> {
    let mut content = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("dpkg-deb could not be started")?;
    let tar = run(Command::new("tar")
        .arg("-x")
        .arg("-C")
        .arg(into)
        .args(tar_args)
        .stdin(content.stdout.take().context("dpkg-deb has an output")?));
    let status = content.wait()?;
    tar?;
    ensure!(status.success(), "dpkg-deb failed: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_names_is_what_the_list_says() {
        let uri = "'http://a/pool/main/g/gcc/libgcc-s1_4%3a14.2.0-19_amd64.deb' \
                   libgcc-s1_4%3a14.2.0-19_amd64.deb 72 SHA256:ab01";
        let package = Pinned::from_uri_line(uri).expect("a package");
        assert_eq!(package.line(), "libgcc-s1=4:14.2.0-19 sha256:ab01\n");
        let list = format!("# comment\n\n{}", package.line());
        assert_eq!(Pinned::parse_all(&list).unwrap(), [package]);
    }

    #[test]
    fn a_line_without_a_hash_is_refused() {
        let error = Pinned::parse_all("swiftlang=6.0.3-2\n").unwrap_err();
        assert!(error.to_string().contains("swiftlang=6.0.3-2"), "{error}");
    }
}
