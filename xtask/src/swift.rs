//! Swift: the compiler to use, and the step of `cargo xtask test` that runs the
//! package and its example.

mod debian;
mod step;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cache::Cache;
use crate::util::{find_program, output, root};

pub use debian::{install, renew};
pub use step::check;

/// The oldest Swift that understands the package.
const OLDEST: (u32, u32) = (6, 0);

/// A Swift that can be called.
pub struct Swift {
    program: PathBuf,
}

impl Swift {
    /// The one in `PATH` if it is new enough, or else what `setup --swift` left.
    pub fn find(cache: &Cache) -> Result<Option<Self>> {
        let in_path = find_program("swift").map(|program| Self { program });
        if let Some(swift) = in_path
            && swift.version().is_some_and(|version| version >= OLDEST)
        {
            return Ok(Some(swift));
        }
        Ok(debian::installed(cache)?.map(|program| Self { program }))
    }

    /// None where `swift` is another program of that name.
    fn version(&self) -> Option<(u32, u32)> {
        let answer = output(Command::new(&self.program).arg("--version")).ok()?;
        version_in(&answer)
    }

    /// A command that sees the workspace and these folders.
    pub fn command(&self, tool: &str, folders: &[&Path]) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command
            .current_dir(root())
            .arg(tool)
            .env("SWIFT_PROJECT", root())
            .env("SWIFT_BIND", env::join_paths(folders)?);
        Ok(command)
    }
}

/// From "Swift version 6.0.3 (...)" or "Apple Swift version 6.1 (...)".
fn version_in(answer: &str) -> Option<(u32, u32)> {
    let (_, version) = answer.split_once("Swift version ")?;
    let mut parts = version.split(['.', ' ', '-']).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_compilers_say() {
        let debian = "Swift version 6.0.3 (swift-6.0.3-RELEASE)\nTarget: x86_64";
        let apple = "swift-driver version: 1.115 Apple Swift version 6.1-dev (swiftlang)";
        assert_eq!(version_in(debian), Some((6, 0)));
        assert_eq!(version_in(apple), Some((6, 1)));
        assert_eq!(version_in("clang version 19"), None);
    }
}
