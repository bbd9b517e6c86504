//! The documentation: the reference of the C API as HTML, and whether what the
//! documents say can be followed.

mod markdown;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::apt;
use crate::cache::Cache;
use crate::library::c_compiler;
use crate::test::Outcome;
use crate::util::{self, find_program, output, root, run};
use crate::version;
use markdown::Document;

const DOXYFILE: &str = "docs/Doxyfile";
/// What fragments of C in the documents may use without saying so.
const C_PRELUDE: &str = include_str!("../templates/prelude.c");

pub fn command(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask docs");
    }
    let doxygen = doxygen().context("Doxygen makes the reference: apt-get install doxygen")?;
    println!("{}", make(&doxygen)?.join("index.html").display());
    Ok(())
}

/// The folder of the reference; none where there is no Doxygen.
pub fn reference() -> Result<Option<PathBuf>> {
    match doxygen() {
        Ok(doxygen) => make(&doxygen).map(Some),
        Err(error) => {
            eprintln!("docs: no reference without Doxygen: {error:#}");
            Ok(None)
        }
    }
}

pub fn check(_: &[String]) -> Result<Outcome> {
    let documents = markdown::all(root())?;
    check_links(&documents)?;
    check_c(&documents)?;
    match doxygen() {
        Ok(doxygen) => {
            make(&doxygen)?;
            println!("the reference of the C API without a warning");
            Ok(Outcome::Passed)
        }
        Err(error) => Ok(Outcome::Skipped(format!(
            "links and C are right; the reference of the C API was not made: {error:#}"
        ))),
    }
}

fn check_links(documents: &[Document]) -> Result<()> {
    let mut n_links = 0;
    let mut broken = Vec::new();
    for document in documents {
        for link in document.links() {
            n_links += 1;
            if let Err(error) = document.follow(link) {
                broken.push(format!("{}: {link}: {error}", document.path.display()));
            }
        }
    }
    ensure!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
    println!(
        "{n_links} links in {} documents lead somewhere",
        documents.len()
    );
    Ok(())
}

/// Every piece of C in the documents has to compile.
fn check_c(documents: &[Document]) -> Result<()> {
    let file = util::metadata()?.target_dir.join("document.c");
    let mut n_blocks = 0;
    for document in documents {
        for block in document.code("c") {
            fs::write(&file, whole_program(&block.text))?;
            run(c_compiler("cc", "c11").arg("-fsyntax-only").arg(&file))
                .with_context(|| format!("{}:{}", document.path.display(), block.line))?;
            n_blocks += 1;
        }
    }
    println!("{n_blocks} pieces of C in them compile");
    Ok(())
}

fn whole_program(code: &str) -> String {
    if code.contains("#include") {
        return code.to_owned();
    }
    format!("{C_PRELUDE}\nint main(void) {{\n{code}\nreturn 0;\n}}\n")
}

/// Doxygen, as it is run.
struct Doxygen {
    program: PathBuf,
    libraries: Vec<PathBuf>,
}

/// The system's, or Debian's package of it, unpacked into the cache.
fn doxygen() -> Result<Doxygen> {
    if let Some(program) = find_program("doxygen") {
        return Ok(Doxygen {
            program,
            libraries: Vec::new(),
        });
    }
    let tree = apt::unpacked(&Cache::open()?, "doxygen")?;
    let lib = tree.join("usr/lib");
    let mut libraries = Vec::new();
    for entry in fs::read_dir(&lib).with_context(|| format!("reading {}", lib.display()))? {
        let folder = entry?.path();
        libraries.extend([folder.join("lib"), folder]);
    }
    Ok(Doxygen {
        program: tree.join("usr/bin/doxygen"),
        libraries,
    })
}

/// Fails at the first warning.
fn make(doxygen: &Doxygen) -> Result<PathBuf> {
    let folder = util::metadata()?.target_dir.join("docs");
    fs::create_dir_all(&folder)?;
    let settings = fs::read_to_string(root().join(DOXYFILE)).context("reading the Doxyfile")?;
    let settings = format!(
        "{}\nOUTPUT_DIRECTORY = {}\n",
        version::filled_in(&settings),
        util::quoted(&folder.display().to_string())
    );
    let file = folder.join("Doxyfile");
    fs::write(&file, settings)?;
    let mut program = Command::new(&doxygen.program);
    program.current_dir(root()).arg(&file);
    if !doxygen.libraries.is_empty() {
        program.env("LD_LIBRARY_PATH", std::env::join_paths(&doxygen.libraries)?);
    }
    output(&mut program).context("comments in src/capi that Doxygen does not understand")?;
    Ok(folder.join("html"))
}

/// A path of the documents, shorter to read.
fn relative(path: &Path) -> PathBuf {
    path.strip_prefix(root()).unwrap_or(path).to_owned()
}
