//! `cargo xtask demo`: text from the bundled model, through the C interface.

use anyhow::{Result, bail};

use crate::library::{Library, bundled_model, standalone};
use crate::util::{root, run};

const PROMPT: &str = "Tell me a story about a brave fox who lost a red kite.";
const SETTINGS: &[&str] = &["--chat", "-t", "0.7", "--seed", "1", "-n", "400"];

/// `[PROMPT] [-- ARGS]`: the arguments of `generate` instead of the settings.
pub fn command(args: &[String]) -> Result<()> {
    let (prompt, settings) = match args.iter().position(|arg| arg == "--") {
        Some(separator) => (&args[..separator], &args[separator + 1..]),
        None => (args, &[][..]),
    };
    let prompt = match prompt {
        [] => PROMPT,
        [prompt] => prompt,
        _ => bail!("usage: cargo xtask demo [PROMPT] [-- ARGS]"),
    };
    let library = Library::build()?;
    let model = bundled_model()?;
    let program = library.compile_program(&root().join("examples/c/generate.c"))?;
    let mut demo = standalone(program);
    demo.arg(model).arg(prompt);
    match settings {
        [] => demo.args(SETTINGS),
        settings => demo.args(settings),
    };
    run(&mut demo)
}
