//! `cargo xtask demo`: text from the bundled model, through the C interface.

use anyhow::Result;

use crate::library::{Library, bundled_model, standalone};
use crate::util::{root, run};

const PROMPT: &str = "Once upon a time";

pub fn command(args: &[String]) -> Result<()> {
    let (prompt, program_args) = match args {
        [] => (PROMPT, args),
        [separator, rest @ ..] if separator == "--" => (PROMPT, rest),
        [prompt, separator, rest @ ..] if separator == "--" => (prompt.as_str(), rest),
        [prompt, rest @ ..] => (prompt.as_str(), rest),
    };
    let library = Library::build()?;
    let model = bundled_model()?;
    let program = library.compile_program(&root().join("examples/c/generate.c"))?;
    run(standalone(program)
        .arg(model)
        .arg(prompt)
        .args(program_args))
}
