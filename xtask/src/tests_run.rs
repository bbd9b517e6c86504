//! Running test programs, and what they say of the tests that failed: that is told once
//! more at the end of everything, where it is looked for.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use crate::util::line_of;

/// The last lines are those with the names.
const MAX_LINES: usize = 300;

/// A test program that has ended.
pub struct Tests {
    pub status: ExitStatus,
    command: String,
    failures: Vec<String>,
}

impl Tests {
    /// What it prints goes to the terminal.
    pub fn run(command: &mut Command) -> Result<Tests> {
        let line = line_of(command);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("`{line}` could not be started"))?;
        let printed = child.stdout.take().context("stdout is piped")?;
        let mut failures = Failures::default();
        for text in BufReader::new(printed).split(b'\n') {
            let text = String::from_utf8_lossy(&text?).into_owned();
            println!("{text}");
            failures.read(text);
        }
        Ok(Tests {
            status: child.wait()?,
            command: line,
            failures: failures.lines,
        })
    }

    /// The error has what there is to know of the tests that failed.
    pub fn passed(self) -> Result<()> {
        if self.status.success() {
            return Ok(());
        }
        let first = self.failures.len().saturating_sub(MAX_LINES);
        bail!(
            "`{}` failed: {}\n{}",
            self.command,
            self.status,
            self.failures[first..].join("\n")
        )
    }
}

pub fn run_tests(command: &mut Command) -> Result<()> {
    Tests::run(command)?.passed()
}

/// The sections of failures in what cargo's test runner and pytest print.
#[derive(Default)]
struct Failures {
    is_inside: bool,
    lines: Vec<String>,
}

impl Failures {
    fn read(&mut self, line: String) {
        let of_pytest = ["= FAILURES =", "= ERRORS ="];
        if line == "failures:" || of_pytest.iter().any(|title| line.contains(title)) {
            self.is_inside = true;
        }
        let is_end = line.starts_with("test result: ");
        if self.is_inside || line.starts_with("test result: FAILED") {
            self.lines.push(line);
        }
        self.is_inside &= !is_end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(printed: &str) -> Vec<String> {
        let mut failures = Failures::default();
        for line in printed.lines() {
            failures.read(line.to_owned());
        }
        failures.lines
    }

    #[test]
    fn what_tests_say_that_failed_is_kept() {
        let of_cargo = "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nfailures:\n\n\
            ---- b stdout ----\nit is 1\n\nfailures:\n    b\n\n\
            test result: FAILED. 1 passed; 1 failed\n\nrunning 1 test\ntest c ... ok\n\n\
            test result: ok. 1 passed; 0 failed";
        let kept = failures(of_cargo);
        assert_eq!(kept[0], "failures:");
        assert!(kept.contains(&"it is 1".to_owned()), "{kept:?}");
        assert!(
            kept.last().is_some_and(|line| line.contains("FAILED")),
            "{kept:?}"
        );
        assert!(!kept.iter().any(|line| line.contains("test c")), "{kept:?}");

        let of_pytest = "..F\n=== FAILURES ===\n___ test_a ___\n>  assert 1 == 2\n1 failed in 1s";
        assert_eq!(failures(of_pytest).len(), 4);
        assert!(failures("...\n3 passed in 1s").is_empty());
    }

    #[test]
    fn a_program_that_fails_is_told_with_what_it_said() {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "echo test a ... ok; echo failures:; echo a is wrong; exit 3",
        ]);
        let error = run_tests(&mut shell).expect_err("fails").to_string();
        assert!(
            error.contains("exit status: 3\nfailures:\na is wrong"),
            "{error}"
        );
        run_tests(Command::new("sh").args(["-c", "echo failures: none"])).expect("passes");
    }
}
