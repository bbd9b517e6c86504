//! `cargo xtask soak`: what is done very often, or all at once, or fails: whether anything
//! is left behind, how fast evaluations stop, whether texts stay what they are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::library::{FOR_C, Library, bundled_model, standalone};
use crate::reliability::{Record, Run};
use crate::test::Outcome;
use crate::util::{cargo, output, root};

/// How often each is done.
struct Rounds {
    tokens: u32,
    contexts: u32,
    opens: u32,
    stops: u32,
}

const FULL: Rounds = Rounds {
    tokens: 100_000,
    contexts: 10_000,
    opens: 1_000,
    stops: 200,
};
const QUICK: Rounds = Rounds {
    tokens: 4_000,
    contexts: 400,
    opens: 60,
    stops: 10,
};
const STRESS_SECONDS: u32 = 600;

/// What programs print as lines of this name and a JSON array.
struct Table {
    name: &'static str,
    title: &'static str,
    about: &'static str,
    columns: &'static [&'static str],
}

const LEFT: Table = Table {
    name: "left-behind",
    title: "What is left of what is done very often",
    about: "Private memory, open files and threads after a tenth of the rounds, for warming up, \
            and at the end. More than 1 MiB, or any file or thread, is a failure.",
    columns: &[
        "what",
        "rounds",
        "MiB after warming up",
        "KiB more at the end",
        "files more",
        "threads more",
    ],
};
const STOPS: Table = Table {
    name: "stopping",
    title: "How fast an evaluation stops",
    about: "Prompts of 4096 tokens on the CPU, stopped at times spread over the first two seconds. \
            The sequence is as before, and goes on.",
    columns: &[
        "model",
        "by",
        "tokens at once",
        "stopped",
        "median ms",
        "p99 ms",
        "longest ms",
    ],
};
const STRESS: Table = Table {
    name: "stress",
    title: "Many threads at once",
    about: "At random: contexts made and freed, shared ones, schedulers, callbacks that call back \
            in, cancellations, deadlines, models and contexts freed while they compute. Texts are \
            those of one thread alone; BUSY of what nobody else uses, a thread that hangs, or \
            anything left at the end is a failure.",
    columns: &[
        "seconds",
        "threads",
        "models",
        "rounds",
        "calls that were BUSY",
        "cancelled",
        "past their deadline",
    ],
};
const MLX_FAILURES: Table = Table {
    name: "mlx-failures",
    title: "Calls of MLX's that fail",
    about: "Each call once, in the middle of each operation. It is BACKEND, sequences are as before \
            or said to be lost, the ledger is back where it was, and the next try gives the same \
            bits.",
    columns: &["model", "computed by", "operation", "calls that failed"],
};
const SMALL_ALLOCATIONS: Table = Table {
    name: "small-allocations",
    title: "Small allocations that fail",
    about: "From opening a model to freeing it. It is OUT_OF_MEMORY or OVER_BUDGET, nothing is left, \
            and the next try works.",
    columns: &["which", "lives of a model", "allocations that failed"],
};

/// `[--quick] [--model FOLDER]`: the model whose evaluation is stopped, instead of the
/// bundled one.
pub fn command(args: &[String]) -> Result<()> {
    let (is_quick, args) = match args {
        [flag, rest @ ..] if flag == "--quick" => (true, rest),
        args => (false, args),
    };
    let large = match args {
        [] => bundled_model()?,
        [flag, folder] if flag == "--model" => PathBuf::from(folder),
        _ => bail!("usage: cargo xtask soak [--quick] [--model FOLDER]"),
    };
    let library = Library::build()?;
    match is_quick {
        true => soak(&library, &QUICK, &large).map(drop),
        false => everything(&library, &large),
    }
}

/// A few seconds of it.
pub fn check(_: &[String]) -> Result<Outcome> {
    soak(&Library::build()?, &QUICK, &bundled_model()?)?;
    Ok(Outcome::Passed)
}

fn everything(library: &Library, large: &Path) -> Result<()> {
    let printed = soak(library, &FULL, large)?;
    LEFT.record(&printed, "cargo xtask soak")?;
    STOPS.record(&printed, "cargo xtask soak --model FOLDER")?;
    let stress = run_program(library, "tests/c/stress.c", &[STRESS_SECONDS.to_string()])?;
    STRESS.record(&stress, "cargo xtask soak")?;
    let allocations = run_program(library, "tests/c/small_allocations.c", &[])?;
    SMALL_ALLOCATIONS.record(&allocations, "cargo xtask soak")?;
    let mut failures = cargo();
    failures
        .args(["test", "--release", "--package=umrt", FOR_C, "--lib"])
        .args(["--", "runtime::failure_tests", "--show-output"]);
    MLX_FAILURES.record(&printing(&mut failures)?, "cargo xtask soak")
}

fn soak(library: &Library, rounds: &Rounds, large: &Path) -> Result<String> {
    let counts = [rounds.tokens, rounds.contexts, rounds.opens, rounds.stops];
    let large = large.display().to_string();
    let arguments: Vec<_> = std::iter::once(large)
        .chain(counts.map(|count| count.to_string()))
        .collect();
    run_program(library, "tests/soak/soak.c", &arguments)
}

/// With the bundled model as its first argument.
fn run_program(library: &Library, source: &str, arguments: &[String]) -> Result<String> {
    let program = library.compile_program(&root().join(source))?;
    printing(standalone(program).arg(bundled_model()?).args(arguments))
}

fn printing(command: &mut Command) -> Result<String> {
    let printed = output(command)?;
    print!("{printed}");
    Ok(printed)
}

impl Table {
    fn record(&self, printed: &str, command: &str) -> Result<()> {
        Record {
            title: self.title.to_owned(),
            command: command.to_owned(),
            about: self.about.to_owned(),
            run: Run::now()?,
            columns: self
                .columns
                .iter()
                .map(|column| column.to_string())
                .collect(),
            rows: self.rows(printed)?,
            findings: Vec::new(),
        }
        .write(self.name)
    }

    fn rows(&self, printed: &str) -> Result<Vec<Vec<Value>>> {
        let prefix = format!("{} ", self.name);
        let lines = printed
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix));
        let rows = lines.map(|line| serde_json::from_str(line).context("reading a row"));
        let rows: Vec<Vec<Value>> = rows.collect::<Result<_>>()?;
        match rows.is_empty() || rows.iter().any(|row| row.len() != self.columns.len()) {
            true => bail!(
                "there are no rows of {}, or they have other columns",
                self.name
            ),
            false => Ok(rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_lines_of_their_table() -> Result<()> {
        let printed = "stress [1, 16, 4, 9, 3, 2, 1]\nstress.c: 9 passed, 0 failed\nmlx-failures [\"a\", \"b\", \"c\", 4]\n";
        assert_eq!(STRESS.rows(printed)?.len(), 1);
        assert_eq!(MLX_FAILURES.rows(printed)?[0][3], 4);
        assert!(LEFT.rows(printed).is_err());
        Ok(())
    }
}
