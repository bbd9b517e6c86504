//! Swift from Debian's packages, for systems that are older than it needs: they
//! are unpacked into a root of their own, which a wrapper enters. No script of a
//! package is run, nothing is installed, and no privileges are needed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::apt::{self, Apt, Pinned};
use crate::cache::{Cache, Key};
use crate::util::{find_program, output, require, root};

const SUITE: &str = "trixie";
const ARCHITECTURE: &str = "x86_64";
const LIST: &str = "xtask/requirements/swift-debian.txt";
const PACKAGES: &str = include_str!("../../requirements/swift-debian.txt");
const WRAPPER: &str = include_str!("../../swift/swift-exec");

/// What is asked for; the list holds these and all that they need.
const WANTED: &[&str] = &[
    "swiftlang",
    "libstdc++-14-dev",
    "libc6-dev",
    "libc-bin",
    "base-files",
    "bash",
    "ca-certificates",
    "coreutils",
    "dash",
    "grep",
    "sed",
];

/// Parts that compiling and testing do without; they are half of the size.
const LEFT_OUT: &[&str] = &[
    "./usr/share/doc",
    "./usr/share/info",
    "./usr/share/lintian",
    "./usr/share/locale",
    "./usr/share/man",
    "./usr/lib/python3*",
    "./usr/lib/x86_64-linux-gnu/perl*",
    "./usr/libexec/swift/bin/clangd",
    "./usr/libexec/swift/bin/lldb*",
    "./usr/libexec/swift/bin/repl_swift",
    "./usr/libexec/swift/bin/sourcekit-lsp",
    "./usr/libexec/swift/lib/libLTO*",
    "./usr/libexec/swift/lib/liblldb*",
    "./usr/libexec/swift/lib/libsourcekitd*",
    "./usr/libexec/swift/lib/swift/embedded",
    "./usr/libexec/swift/lib/swift_static/linux/*.a",
];

fn root_key() -> Key {
    // The number changes when the same packages are unpacked in another way.
    Key::default()
        .text("1")
        .text(PACKAGES)
        .text(&LEFT_OUT.join("\n"))
}

/// `swift`, if `install` was there before.
pub fn installed(cache: &Cache) -> Result<Option<PathBuf>> {
    if !cache.has("swift", root_key()) {
        return Ok(None);
    }
    install(cache).map(Some)
}

/// `swift`, fetched and unpacked if it is not there yet.
pub fn install(cache: &Cache) -> Result<PathBuf> {
    let swift = cache.entry("swift", root_key(), |dir| {
        fetch(dir).context("fetching Swift from Debian")
    })?;
    let key = Key::default()
        .text(WRAPPER)
        .text(&swift.display().to_string());
    let bin = cache.entry("swift-bin", key, |dir| write_wrappers(&swift, dir))?;
    Ok(bin.join("swift"))
}

fn fetch(dir: &Path) -> Result<()> {
    ensure!(
        std::env::consts::ARCH == ARCHITECTURE && cfg!(target_os = "linux"),
        "only versions for Linux on {ARCHITECTURE} are pinned: install Swift from swift.org"
    );
    require(missing_tools())?;
    let packages = Pinned::parse_all(PACKAGES).context(LIST)?;
    eprintln!("setup: fetching Swift, {} packages, 540 MB", packages.len());
    let download = dir.join("apt");
    let apt = Apt::new(&download, &apt::mirror()?, SUITE)?;
    apt.update()?;
    let files = apt.download(&packages).with_context(|| {
        format!(
            "set DEBIAN_MIRROR to an archive that keeps them \
             (https://snapshot.debian.org), or renew {LIST} by \
             `cargo xtask setup --renew-swift`"
        )
    })?;
    eprintln!("setup: unpacking Swift");
    for folder in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(dir.join("usr").join(folder))?;
        symlink(Path::new("usr").join(folder), dir.join(folder))?;
    }
    let excluded: Vec<_> = LEFT_OUT
        .iter()
        .map(|pattern| format!("--exclude={pattern}"))
        .collect();
    let mut tar_args = vec!["--keep-directory-symlink", "--no-same-owner"];
    tar_args.extend(excluded.iter().map(String::as_str));
    for file in files {
        apt::unpack(&file, &tar_args, dir)?;
    }
    fs::remove_dir_all(&download)?;
    finish(dir)
}

/// What maintainer scripts would have done, as far as a compiler cares.
fn finish(root: &Path) -> Result<()> {
    for folder in ["proc", "dev", "tmp", "root", "etc/ssl/certs"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    symlink("gcc", root.join("usr/bin/cc"))?;
    let etc = root.join("etc");
    fs::write(etc.join("passwd"), "root:x:0:0:root:/root:/bin/bash\n")?;
    fs::write(etc.join("group"), "root:x:0:\n")?;
    fs::write(etc.join("nsswitch.conf"), "passwd: files\ngroup: files\n")?;
    Ok(fs::write(etc.join("resolv.conf"), "")?)
}

fn write_wrappers(swift: &Path, dir: &Path) -> Result<()> {
    let wrapper = dir.join("swift-exec");
    fs::write(
        &wrapper,
        WRAPPER.replace("@ROOT@", &swift.display().to_string()),
    )?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    for tool in ["swift", "swiftc"] {
        symlink("swift-exec", dir.join(tool))?;
    }
    let version = output(
        std::process::Command::new(dir.join("swift"))
            .current_dir(dir)
            .env("SWIFT_PROJECT", dir)
            .arg("--version"),
    )
    .context("the unpacked Swift does not run")?;
    eprint!("setup: {version}");
    Ok(())
}

fn missing_tools() -> Vec<String> {
    ["dpkg-deb", "tar", "unshare"]
        .into_iter()
        .filter(|tool| find_program(tool).is_none())
        .map(|tool| format!("{tool} is missing: apt-get install dpkg tar util-linux"))
        .collect()
}

/// Writes the list anew, with what Debian has now.
pub fn renew() -> Result<()> {
    let dir = crate::util::metadata()?.target_dir.join("swift/apt");
    let apt = Apt::new(&dir, &apt::mirror()?, SUITE)?;
    apt.update()?;
    let packages = apt.resolve(WANTED)?;
    if packages.is_empty() {
        bail!("Debian {SUITE} has no swiftlang");
    }
    let lines: String = packages.iter().map(Pinned::line).collect();
    let text = format!(
        "# Swift and what it needs to run, from Debian {SUITE} for x86-64.\n\
         # Written by `cargo xtask setup --renew-swift`.\n{lines}"
    );
    fs::write(root().join(LIST), text)?;
    eprintln!("setup: wrote {LIST}, {} packages", packages.len());
    Ok(fs::remove_dir_all(&dir)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_pinned() -> Result<()> {
        let packages = Pinned::parse_all(PACKAGES)?;
        for wanted in WANTED {
            assert!(
                packages.iter().any(|package| package.name == *wanted),
                "{wanted} is not in {LIST}: run `cargo xtask setup --renew-swift`"
            );
        }
        assert!(packages.iter().all(|package| package.sha256.len() == 64));
        Ok(())
    }
}
