//! The examples in C as tests: how each is called, and what it has to print.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::util::run;

/// Stands for the model's folder among the arguments.
const MODEL: &str = "MODEL";

struct Usage {
    name: &'static str,
    arguments: &'static [&'static str],
    input: &'static str,
    prints: &'static str,
}

const USAGES: &[Usage] = &[
    Usage {
        name: "minimal",
        arguments: &[MODEL],
        input: "",
        prints: "MB of weights mapped",
    },
    Usage {
        name: "chat",
        arguments: &[MODEL, "You tell stories."],
        input: "Tell me a story.\nAnd now about a \"duck\".\n",
        prints: "> ",
    },
    Usage {
        name: "constraint",
        arguments: &[MODEL],
        input: "",
        prints: "\"legs\"",
    },
    Usage {
        name: "plan",
        arguments: &[MODEL, "2"],
        input: "",
        prints: "fits",
    },
    Usage {
        name: "memory_top",
        arguments: &[MODEL, "Once upon a time", "-n", "100"],
        input: "",
        prints: "KV cache",
    },
    Usage {
        name: "two_models",
        arguments: &[MODEL, MODEL],
        input: "",
        prints: "first text after",
    },
];

/// How an example is called that is not in the table.
const PROMPTED: Usage = Usage {
    name: "",
    arguments: &[MODEL, "Once upon a time"],
    input: "",
    prints: "",
};

/// Runs the program of the example `name`; what it prints has to be right.
pub fn check(mut program: Command, name: &str, model: &Path) -> Result<()> {
    let usage = USAGES
        .iter()
        .find(|usage| usage.name == name)
        .unwrap_or(&PROMPTED);
    for &argument in usage.arguments {
        match argument {
            MODEL => program.arg(model),
            argument => program.arg(argument),
        };
    }
    let mut running = start(&mut program)?;
    let mut input = running.stdin.take().context("a pipe")?;
    input.write_all(usage.input.as_bytes())?;
    drop(input);
    let output = running.wait_with_output()?;
    ensure_success(output.status)?;
    let printed = String::from_utf8(output.stdout).context("it printed no UTF-8")?;
    ensure!(
        printed.contains(usage.prints) && !printed.trim().is_empty(),
        "it did not print {:?} but: {printed}",
        usage.prints
    );
    Ok(())
}

/// How many answers may come to their end before the signal reaches them.
const MAX_ANSWERS: usize = 20;

/// Ctrl-C has to end an answer of `chat`, and not the program.
pub fn check_interrupt(mut program: Command, model: &Path) -> Result<()> {
    let mut running = start(program.arg(model))?;
    let pid = running.id().to_string();
    let mut input = running.stdin.take().context("a pipe")?;
    let mut output = running.stdout.take().context("a pipe")?;
    let mut is_cancelled = false;
    read_to(&mut output, "> ")?;
    for _ in 0..MAX_ANSWERS {
        input.write_all(b"Tell me a long story.\n")?;
        output.read_exact(&mut [0])?;
        run(Command::new("kill").args(["-INT", &pid]))?;
        is_cancelled = read_to(&mut output, "\n> ")?.contains("(cancelled)");
        if is_cancelled {
            break;
        }
    }
    input.write_all(b"Go on.\n")?;
    read_to(&mut output, "\n> ").context("it did not answer after Ctrl-C")?;
    drop(input);
    ensure_success(running.wait()?)?;
    ensure!(is_cancelled, "Ctrl-C cancelled no answer");
    Ok(())
}

fn start(program: &mut Command) -> Result<Child> {
    program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("it did not start")
}

fn ensure_success(status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    bail!("it ended with {status}")
}

fn read_to(output: &mut impl Read, end: &str) -> Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        output
            .read_exact(&mut byte)
            .with_context(|| format!("{:?} ended", String::from_utf8_lossy(&bytes)))?;
        bytes.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
