//! Long-lived processes that each hold one model of one library and compute
//! when they are asked: see `tools/bench/worker.h`.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, bail};

use super::system;
use crate::library::standalone;

/// A library and the model that it is to run.
#[derive(Clone)]
pub struct Engine {
    pub name: String,
    /// A program and its arguments.
    pub program: Vec<PathBuf>,
    pub model: PathBuf,
}

pub struct Worker {
    name: String,
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Engine {
    /// The process without the model.
    pub fn start(&self) -> Result<Worker> {
        let (program, arguments) = self.program.split_first().context("a program")?;
        let mut child = standalone(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} could not be started", program.display()))?;
        Ok(Worker {
            name: self.name.clone(),
            commands: child.stdin.take().context("a pipe")?,
            answers: BufReader::new(child.stdout.take().context("a pipe")?),
            child,
        })
    }

    /// The process with the model open and a context.
    pub fn open(&self, n_ctx: u32, n_seq: u32, n_threads: usize) -> Result<Worker> {
        let mut worker = self.start()?;
        worker.ask(&format!("open {}", self.model.display()))?;
        worker.ask(&format!("context {n_ctx} {n_seq} {n_threads}"))?;
        Ok(worker)
    }
}

impl Worker {
    /// What the command answers: the seconds it took, mostly.
    pub fn ask(&mut self, command: &str) -> Result<f64> {
        self.ask_in_full(command)
            .with_context(|| format!("{}: `{command}`", self.name))
    }

    fn ask_in_full(&mut self, command: &str) -> Result<f64> {
        writeln!(self.commands, "{command}").context("the process has ended")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        parse_answer(&answer)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        system::end(&mut self.child);
    }
}

fn parse_answer(answer: &str) -> Result<f64> {
    match answer.trim_end().split_once(' ') {
        Some(("ok", value)) => value
            .parse()
            .with_context(|| format!("not a number: {value}")),
        Some(("error", message)) => bail!("{message}"),
        _ if answer.is_empty() => bail!("the process ended without an answer"),
        _ => bail!("not an answer: {answer}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(script: &str) -> Engine {
        Engine {
            name: "echo".into(),
            program: vec!["sh".into(), "-c".into(), script.into()],
            model: "model".into(),
        }
    }

    #[test]
    fn a_command_gets_its_answer() -> Result<()> {
        let mut worker = echo("while read line; do echo ok ${#line}; done").start()?;
        assert_eq!(worker.ask("trim 1 0")?, 8.0);
        assert_eq!(worker.ask("decode 1 10")?, 11.0);
        Ok(())
    }

    #[test]
    fn an_error_names_the_worker_the_command_and_the_reason() -> Result<()> {
        let mut worker = echo("read line; echo error no such file").start()?;
        let error = format!("{:#}", worker.ask("open x").unwrap_err());
        assert_eq!(error, "echo: `open x`: no such file");
        Ok(())
    }

    #[test]
    fn a_worker_that_dies_is_an_error() -> Result<()> {
        let mut worker = echo("read line; exit 3").start()?;
        let error = format!("{:#}", worker.ask("open x").unwrap_err());
        assert!(
            error.ends_with("the process ended without an answer"),
            "{error}"
        );
        Ok(())
    }
}
