//! `cargo xtask test`: all that has to hold before a change is merged.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail, ensure};

use crate::apple;
use crate::arm;
use crate::cache::Cache;
use crate::dist;
use crate::docs;
use crate::examples;
use crate::fuzz;
use crate::header;
use crate::installed;
use crate::library::{FOR_C, Library, bundled_model, c_compiler, standalone};
use crate::python;
use crate::reliability;
use crate::sanitize;
use crate::setup::setup;
use crate::soak;
use crate::supply_chain;
use crate::swift;
use crate::tests_run::{Tests, run_tests};
use crate::unsafe_code;
use crate::util::{cargo, files_ending_in, output, root, run};

pub enum Outcome {
    Passed,
    Skipped(String),
}

/// What became of a step.
struct Finished {
    name: &'static str,
    duration: Duration,
    outcome: Result<Outcome>,
}

struct Step {
    name: &'static str,
    headline: &'static str,
    run: fn(&[String]) -> Result<Outcome>,
}

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        headline: "formatting",
        run: fmt,
    },
    Step {
        name: "clippy",
        headline: "clippy",
        run: clippy,
    },
    Step {
        name: "header",
        headline: "umrt.h: up to date, valid C11 and C++17; unsafe.md and reliability.md: up to date",
        run: header,
    },
    Step {
        name: "docs",
        headline: "links and code in the documentation, reference of the C API",
        run: docs::check,
    },
    Step {
        name: "licenses",
        headline: "licenses, sources and hashes of what others have made",
        run: supply_chain::check,
    },
    Step {
        name: "rust",
        headline: "Rust tests",
        run: rust,
    },
    Step {
        name: "fuzz",
        headline: "hostile files and requests, some seconds of each",
        run: fuzz::check,
    },
    Step {
        name: "c",
        headline: "C tests and examples",
        run: c,
    },
    Step {
        name: "address",
        headline: "C tests under AddressSanitizer",
        run: sanitize::check,
    },
    Step {
        name: "soak",
        headline: "what is done very often leaves nothing behind",
        run: soak::check,
    },
    Step {
        name: "python",
        headline: "Python types and tests",
        run: python,
    },
    Step {
        name: "swift",
        headline: "Swift tests and example",
        run: swift,
    },
    Step {
        name: "symbols",
        headline: "exported symbols, and use from another place",
        run: symbols,
    },
    Step {
        name: "dist",
        headline: "packages, each used in a clean place",
        run: dist::check,
    },
    Step {
        name: "apple",
        headline: "clippy for macOS and iOS",
        run: apple,
    },
    Step {
        name: "arm",
        headline: "kernels on an emulated ARM processor",
        run: arm::check,
    },
];

/// Every step, also behind one that failed: all that is wrong is seen in one run.
pub fn command(args: &[String]) -> Result<()> {
    let (steps, filters) = parse(args)?;
    setup(None)?;
    let mut finished = Vec::new();
    for step in steps {
        println!("\n=== {}: {}", step.name, step.headline);
        let start = Instant::now();
        let outcome = (step.run)(filters);
        let duration = start.elapsed();
        match &outcome {
            Ok(Outcome::Passed) => {}
            Ok(Outcome::Skipped(reason)) => println!("skipped: {reason}"),
            Err(error) => println!("FAILED: {}", first_line(error)),
        }
        println!("=== {} took {:.1} s", step.name, duration.as_secs_f64());
        finished.push(Finished {
            name: step.name,
            duration,
            outcome,
        });
    }
    print_summary(&finished);
    let failed = finished.iter().filter(|step| step.outcome.is_err());
    let failed: Vec<_> = failed.map(|step| step.name).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn parse(args: &[String]) -> Result<(Vec<&'static Step>, &[String])> {
    let (names, filters) = match args {
        [flag, names, rest @ ..] if flag == "--only" => (names.as_str(), rest),
        _ => return Ok((STEPS.iter().collect(), args)),
    };
    let steps = names.split(',').map(|name| {
        let known = || {
            STEPS
                .iter()
                .map(|step| step.name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        STEPS
            .iter()
            .find(|step| step.name == name)
            .with_context(|| format!("there is no step `{name}`; there are {}", known()))
    });
    Ok((steps.collect::<Result<_>>()?, filters))
}

fn print_summary(finished: &[Finished]) {
    println!("\nstep      seconds  result");
    let print = |name, duration: Duration| print!("{name:<8} {:8.1}", duration.as_secs_f64());
    for step in finished {
        print(step.name, step.duration);
        match &step.outcome {
            Ok(Outcome::Passed) => println!("  passed"),
            Ok(Outcome::Skipped(reason)) => println!("  skipped: {reason}"),
            Err(error) => println!("  FAILED: {}", first_line(error)),
        }
    }
    print("total", finished.iter().map(|step| step.duration).sum());
    println!();
    for step in finished {
        if let Err(error) = &step.outcome {
            println!("\n=== {} failed: {error:#}", step.name);
        }
    }
}

fn first_line(error: &Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}

fn fmt(_: &[String]) -> Result<Outcome> {
    run(cargo().args(["fmt", "--all", "--check"])).context("`cargo fmt` repairs the formatting")?;
    Ok(Outcome::Passed)
}

fn clippy(_: &[String]) -> Result<Outcome> {
    run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok(Outcome::Passed)
}

fn header(_: &[String]) -> Result<Outcome> {
    header::check()?;
    unsafe_code::check()?;
    reliability::check()?;
    for (compiler, language, standard) in [("cc", "c", "c11"), ("c++", "c++", "c++17")] {
        run(c_compiler(compiler, standard).args([
            "-fsyntax-only",
            "-x",
            language,
            "-include",
            "umrt.h",
            "/dev/null",
        ]))?;
    }
    Ok(Outcome::Passed)
}

/// What property tests draw, so that a change fails for what it does, and not for what
/// somebody else's draw finds. `cargo test` alone draws anew.
const SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "20261121");

/// As the library for C, which is then built only once. In release mode: an optimized
/// kernel is what has to be right, and the numerical tests take minutes without
/// optimization.
fn rust(filters: &[String]) -> Result<Outcome> {
    run_tests(
        cargo()
            .args(["test", "--release", "--no-fail-fast"])
            .args(["--package=umrt", FOR_C, "--"])
            .args(filters)
            .env(SEED.0, env::var_os(SEED.0).unwrap_or(SEED.1.into())),
    )?;
    run_tests(
        cargo()
            .args(["test", "--package=xtask", "--"])
            .args(filters),
    )?;
    Ok(Outcome::Passed)
}

fn c(filters: &[String]) -> Result<Outcome> {
    let tests = c_sources("tests/c", filters)?;
    let examples = c_sources("examples/c", filters)?;
    if tests.is_empty() && examples.is_empty() {
        return Ok(Outcome::Skipped(
            "no C file in tests/c or examples/c".to_owned(),
        ));
    }
    let library = Library::build()?;
    let model = bundled_model()?;
    let mut failures = Vec::new();
    for source in tests.iter().chain(&examples) {
        let name = source.strip_prefix(root()).unwrap_or(source).display();
        match run_c(&library, &model, source) {
            Ok(()) => println!("ok      {name}"),
            Err(error) => {
                println!("FAILED  {name}");
                failures.push(format!("{name}: {error:#}"));
            }
        }
    }
    println!(
        "{} passed, {} failed",
        tests.len() + examples.len() - failures.len(),
        failures.len()
    );
    ensure!(
        failures.is_empty(),
        "{} C programs failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    Ok(Outcome::Passed)
}

/// Tests take a model folder, each example what its table says.
fn run_c(library: &Library, model: &Path, source: &Path) -> Result<()> {
    let mut program = standalone(library.compile_program(source)?);
    if source.starts_with(root().join("examples")) {
        let name = source.file_stem().unwrap_or_default().to_string_lossy();
        return examples::check(program, &name, model);
    }
    run(program.arg(model).stdin(Stdio::null()))
}

pub fn c_sources(folder: &str, filters: &[String]) -> Result<Vec<PathBuf>> {
    let folder = root().join(folder);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = files_ending_in(&folder, "c")?;
    files.retain(|file| {
        let name = file.to_string_lossy();
        filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
    });
    Ok(files)
}

/// What pytest says when a filter leaves no test.
const PYTEST_NOTHING_COLLECTED: i32 = 5;

fn python(filters: &[String]) -> Result<Outcome> {
    let folders = ["bindings/python", "tests/python"].map(|folder| root().join(folder));
    let folders: Vec<_> = folders.iter().filter(|folder| folder.is_dir()).collect();
    if folders.is_empty() {
        return Ok(Outcome::Skipped(
            "neither bindings/python nor tests/python exists".to_owned(),
        ));
    }
    if filters.is_empty() {
        python_types()?;
    }
    let library = Library::build()?;
    let mut pytest = standalone(python::test_interpreter()?);
    pytest
        .args(["-m", "pytest", "-q"])
        .args(folders)
        .env("PYTHONPATH", root().join("bindings/python"))
        .env("UMRT_LIBRARY", library.file());
    if !filters.is_empty() {
        pytest.args(["-k", &filters.join(" or ")]);
    }
    let tests = Tests::run(&mut pytest)?;
    match tests.status.code() {
        Some(PYTEST_NOTHING_COLLECTED) if !filters.is_empty() => {
            Ok(Outcome::Skipped("the filter leaves no test".to_owned()))
        }
        _ => tests.passed().map(|()| Outcome::Passed),
    }
}

/// The Python package, its tests and examples, by both checkers. basedpyright is
/// pyright in one package of PyPI, while pyright's own fetches what it runs from
/// elsewhere; the project's file asks for pyright's rules.
fn python_types() -> Result<()> {
    let interpreter = python::types_interpreter()?;
    let check = |checker: &[&str]| {
        let mut command = standalone(&interpreter);
        command.current_dir(root().join("bindings/python"));
        command.arg("-m").args(checker);
        command
    };
    run(&mut check(&["mypy"]))?;
    run(check(&["basedpyright", "--pythonpath"]).arg(&interpreter))
}

/// CI gets the compiler by itself.
fn swift(filters: &[String]) -> Result<Outcome> {
    if in_ci() && cfg!(target_os = "linux") {
        swift::install(&Cache::open()?)?;
    }
    swift::check(filters)
}

fn symbols(_: &[String]) -> Result<Outcome> {
    let library = Library::build()?;
    let (options, prefix): (&[&str], &str) = if cfg!(target_vendor = "apple") {
        (&["-gU"], "_umrt_")
    } else {
        (&["-D", "--defined-only"], "umrt_")
    };
    let listing = output(Command::new("nm").args(options).arg(library.file()))?;
    let names: Vec<_> = listing
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    let foreign: Vec<_> = names
        .iter()
        .filter(|name| !name.starts_with(prefix))
        .collect();
    if !foreign.is_empty() {
        bail!(
            "{} exports more than umrt_*: {foreign:?}",
            library.file().display()
        );
    }
    if names.is_empty() {
        bail!("{} exports nothing", library.file().display());
    }
    println!("{} functions, all named umrt_*", names.len());
    if cfg!(target_os = "linux") {
        installed::check(&library)?;
    }
    Ok(Outcome::Passed)
}

fn apple(_: &[String]) -> Result<Outcome> {
    match apple::check()? {
        Outcome::Skipped(reason) if in_ci() => bail!("{reason}"),
        outcome => Ok(outcome),
    }
}

fn in_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(args: &[&str]) -> Result<(Vec<&'static str>, Vec<String>)> {
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        let (steps, filters) = parse(&args)?;
        Ok((
            steps.iter().map(|step| step.name).collect(),
            filters.to_vec(),
        ))
    }

    #[test]
    fn only_picks_steps_in_the_order_given() -> Result<()> {
        let (steps, filters) = names(&["--only", "rust,fmt", "tokenizer"])?;
        assert_eq!(steps, ["rust", "fmt"]);
        assert_eq!(filters, ["tokenizer"]);
        Ok(())
    }

    #[test]
    fn an_unknown_step_is_named_together_with_the_known_ones() {
        let message = names(&["--only", "lint"]).unwrap_err().to_string();
        assert!(
            message.contains("`lint`") && message.contains("clippy"),
            "{message}"
        );
    }
}
