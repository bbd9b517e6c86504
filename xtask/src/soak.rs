//! `cargo xtask soak`: whether anything is left behind by what is done very often, and
//! how fast an evaluation stops.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::library::{Library, bundled_model, standalone};
use crate::test::Outcome;
use crate::util::{root, run};

/// How often each is done.
struct Rounds {
    tokens: u32,
    contexts: u32,
    opens: u32,
    cancels: u32,
}

const FULL: Rounds = Rounds {
    tokens: 100_000,
    contexts: 10_000,
    opens: 1_000,
    cancels: 1_000,
};

const QUICK: Rounds = Rounds {
    tokens: 4_000,
    contexts: 400,
    opens: 60,
    cancels: 20,
};

/// `[--quick] [--model FOLDER]`: the model whose evaluation is cancelled, instead of the
/// bundled one.
pub fn command(args: &[String]) -> Result<()> {
    let (rounds, args) = match args {
        [flag, rest @ ..] if flag == "--quick" => (&QUICK, rest),
        args => (&FULL, args),
    };
    let large = match args {
        [] => bundled_model()?,
        [flag, folder] if flag == "--model" => PathBuf::from(folder),
        _ => bail!("usage: cargo xtask soak [--quick] [--model FOLDER]"),
    };
    soak(rounds, &large)
}

/// A few seconds of it.
pub fn check(_: &[String]) -> Result<Outcome> {
    soak(&QUICK, &bundled_model()?)?;
    Ok(Outcome::Passed)
}

fn soak(rounds: &Rounds, large: &Path) -> Result<()> {
    let library = Library::build()?;
    let program = library.compile_program(&root().join("tests/soak/soak.c"))?;
    let counts = [rounds.tokens, rounds.contexts, rounds.opens, rounds.cancels];
    run(standalone(program)
        .arg(bundled_model()?)
        .arg(large)
        .args(counts.map(|count| count.to_string())))
}
