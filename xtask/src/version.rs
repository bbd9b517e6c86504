//! The versions that packages, headers and libraries state. The version has its
//! source in Cargo.toml, the ABI's number in src/capi/library.rs.

use std::fs;

use anyhow::{Context, Result};

use crate::util::root;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The number that changes when programs have to be compiled anew.
pub fn abi() -> Result<u32> {
    let header = fs::read_to_string(root().join("include/umrt.h")).context("reading umrt.h")?;
    let number = header
        .lines()
        .find_map(|line| line.strip_prefix("#define UMRT_ABI_VERSION "))
        .context("umrt.h defines no UMRT_ABI_VERSION")?;
    number
        .trim()
        .parse()
        .context("UMRT_ABI_VERSION is no number")
}

/// The name under which the dynamic loader of Linux looks for the library.
pub fn soname() -> Result<String> {
    Ok(format!("libumrt.so.{}", abi()?))
}

/// A text in which `@VERSION@`, `@MAJOR@` and so on have their values.
pub fn filled_in(template: &str) -> String {
    template
        .replace("@VERSION@", VERSION)
        .replace("@MAJOR@", env!("CARGO_PKG_VERSION_MAJOR"))
        .replace("@MINOR@", env!("CARGO_PKG_VERSION_MINOR"))
        .replace("@PATCH@", env!("CARGO_PKG_VERSION_PATCH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Result<String> {
        fs::read_to_string(root().join(path)).with_context(|| format!("reading {path}"))
    }

    #[test]
    fn the_header_and_the_python_package_have_the_version_of_the_workspace() -> Result<()> {
        let header = read("include/umrt.h")?;
        assert!(header.contains(&format!("#define UMRT_VERSION \"{VERSION}\"\n")));
        let python = read("bindings/python/umrt/_version.py")?;
        assert!(python.contains(&format!("__version__ = \"{VERSION}\"\n")));
        let project = read("bindings/python/pyproject.toml")?;
        assert!(project.contains("version = { attr = \"umrt._version.__version__\" }"));
        Ok(())
    }

    #[test]
    fn the_abi_of_the_header_is_the_one_of_the_bindings() -> Result<()> {
        let python = read("bindings/python/umrt/_ffi/library.py")?;
        assert!(python.contains(&format!("ABI_VERSION = {}\n", abi()?)));
        Ok(())
    }

    #[test]
    fn no_placeholder_is_left() {
        let text = filled_in("@VERSION@ @MAJOR@.@MINOR@.@PATCH@");
        assert_eq!(text, format!("{VERSION} {VERSION}"));
    }
}
