//! The step `swift`: the package's tests, and the example against the C one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Swift;
use crate::cache::{self, Cache};
use crate::library::{Library, bundled_model, standalone};
use crate::test::Outcome;
use crate::util::{output, root, run};

const PACKAGE: &str = "bindings/swift";
const EXAMPLE: &str = "examples/swift/generate";
/// What both examples are asked for.
const PROMPT: &str = "Once upon a time";
const MAX_TOKENS: &str = "120";

pub fn check(filters: &[String]) -> Result<Outcome> {
    let Some(swift) = Swift::find(&Cache::open()?)? else {
        return Ok(Outcome::Skipped(
            "there is no Swift 6 here: `cargo xtask setup --swift` fetches one".to_owned(),
        ));
    };
    let build = Build::new(swift, Library::build()?)?;
    let mut tests = build.command("test", PACKAGE)?;
    for filter in filters {
        tests.args(["--filter", filter]);
    }
    run(&mut tests)?;
    if filters.is_empty() {
        build.compare_examples()?;
    }
    Ok(Outcome::Passed)
}

/// Where packages are compiled, and with which library.
struct Build {
    swift: Swift,
    library: Library,
    folder: PathBuf,
    cache: PathBuf,
}

impl Build {
    fn new(swift: Swift, library: Library) -> Result<Self> {
        let build = Self {
            swift,
            folder: library.programs().with_file_name("swift"),
            library,
            cache: cache::location()?,
        };
        build.begin_anew_with_another_header()?;
        fs::write(build.folder.join("umrt.pc"), build.pkg_config())?;
        Ok(build)
    }

    /// SwiftPM does not notice that the header of a system library has changed.
    fn begin_anew_with_another_header(&self) -> Result<()> {
        let header = fs::read(root().join("include/umrt.h"))?;
        let compiled = self.folder.join("umrt.h");
        if fs::read(&compiled).is_ok_and(|compiled| compiled == header) {
            return Ok(());
        }
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        fs::create_dir_all(&self.folder)?;
        fs::write(compiled, header)?;
        Ok(())
    }

    /// The library where cargo built it, as an installed one would describe itself.
    fn pkg_config(&self) -> String {
        format!(
            "Name: umrt\n\
             Description: The unified-memory runtime\n\
             Version: {}\n\
             Cflags: -I{}\n\
             Libs: -L{} -lumrt\n",
            env!("CARGO_PKG_VERSION"),
            root().join("include").display(),
            self.library.dir().display(),
        )
    }

    /// `swift <tool>` for a package; no warning is let through.
    fn command(&self, tool: &str, package: &str) -> Result<Command> {
        let scratch = self.folder.join(package.replace('/', "-"));
        let library = self.library.dir();
        let mut command = self
            .swift
            .command(tool, &[&self.folder, library, &self.cache])?;
        command
            .env("UMRT_SWIFT_LIBRARY", "system")
            .env("PKG_CONFIG_PATH", &self.folder)
            .env_remove("LD_LIBRARY_PATH")
            .env_remove("DYLD_LIBRARY_PATH")
            .arg("--package-path")
            .arg(root().join(package))
            .arg("--scratch-path")
            .arg(scratch)
            .args(["-Xswiftc", "-warnings-as-errors"])
            .args(["-Xlinker", "-rpath", "-Xlinker"])
            .arg(library);
        Ok(command)
    }

    /// Greedy text is the same whichever language asks for it.
    fn compare_examples(&self) -> Result<()> {
        let model = bundled_model()?;
        let mut swift = self.command("run", EXAMPLE)?;
        swift.args(["--quiet", "generate"]);
        let from_swift = output(swift.arg(&model).args([PROMPT, MAX_TOKENS]))?;
        let c = self
            .library
            .compile_program(&root().join("examples/c/generate.c"))?;
        let from_c = output(
            standalone(c)
                .arg(&model)
                .args([PROMPT, "-n", MAX_TOKENS, "-t", "0"]),
        )?;
        let text = written_text(&from_swift)?;
        ensure!(
            text.len() > 100 && text == written_text(&from_c)?,
            "the examples differ\nSwift:\n{from_swift}\nC:\n{from_c}"
        );
        println!("the example writes the same {} bytes as in C", text.len());
        Ok(())
    }
}

/// What an example printed before its table of memory.
fn written_text(printed: &str) -> Result<&str> {
    let (text, _) = printed
        .split_once("\n\nMemory\n")
        .context("an example printed no table of memory")?;
    Ok(text)
}
