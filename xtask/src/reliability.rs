//! `cargo xtask reliability`: docs/reliability.md from what the runs that try to break
//! umrt have recorded, one file of docs/reliability/ for each kind of run.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bench::system::cpu_name;
use crate::util::{files_ending_in, output, root};

const DOCUMENT: &str = "docs/reliability.md";
const RECORDS: &str = "docs/reliability";

const INTRODUCTION: &str = "\
# Reliability

What was done to break umrt, how often, and what that found. Written by `cargo xtask reliability`
from the records in docs/reliability/, which the commands named here write; do not edit.
";

/// What one kind of run did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub title: String,
    /// What to run for the same table.
    pub command: String,
    /// What is done and what would count as a failure.
    pub about: String,
    /// Of the last run.
    pub run: Run,
    pub columns: Vec<String>,
    /// Texts and numbers.
    pub rows: Vec<Vec<Value>>,
    /// Written by hand, and kept when the run is repeated.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// When, where and of what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub date: String,
    /// The commit; what was changed since then is not known.
    pub revision: String,
    pub machine: String,
}

/// Something that was wrong, and is not any more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub what: String,
    /// The test that would fail if it came back.
    pub protected_by: String,
}

impl Run {
    pub fn now() -> Result<Run> {
        let line = |program: &str, args: &[&str]| -> Result<String> {
            let text = output(Command::new(program).current_dir(root()).args(args))?;
            Ok(text.trim().to_owned())
        };
        let n_cpus = std::thread::available_parallelism()?;
        Ok(Run {
            date: line("date", &["-u", "+%F"])?,
            revision: line("git", &["rev-parse", "--short", "HEAD"])?,
            machine: format!("{}, {n_cpus} logical CPUs", cpu_name()),
        })
    }
}

impl Record {
    /// What was recorded under a name, if anything was.
    pub fn read(name: &str) -> Result<Option<Record>> {
        let path = path_of(name);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let record = serde_json::from_slice(&text);
        record
            .map(Some)
            .with_context(|| format!("reading {}", path.display()))
    }

    /// Replaces what was recorded under that name, but for the findings, and writes the
    /// document.
    pub fn write(mut self, name: &str) -> Result<()> {
        if let Some(before) = Record::read(name)? {
            self.findings = before.findings;
        }
        let mut text = serde_json::to_string_pretty(&self)?;
        text.push('\n');
        fs::create_dir_all(root().join(RECORDS))?;
        fs::write(path_of(name), text).with_context(|| format!("writing the record {name}"))?;
        write_document()
    }
}

fn path_of(name: &str) -> PathBuf {
    root().join(RECORDS).join(name).with_extension("json")
}

pub fn command(args: &[String]) -> Result<()> {
    match args {
        [] => write_document(),
        [flag] if flag == "--check" => check(),
        _ => bail!("usage: cargo xtask reliability [--check]"),
    }
}

fn write_document() -> Result<()> {
    fs::write(root().join(DOCUMENT), document()?).with_context(|| format!("writing {DOCUMENT}"))?;
    eprintln!("reliability: wrote {DOCUMENT}");
    Ok(())
}

/// Fails when the committed document is not what the records give.
pub fn check() -> Result<()> {
    let committed = fs::read_to_string(root().join(DOCUMENT)).unwrap_or_default();
    ensure!(
        committed == document()?,
        "{DOCUMENT} is not what the records give: run `cargo xtask reliability` and commit the \
         result"
    );
    Ok(())
}

fn document() -> Result<String> {
    let mut text = INTRODUCTION.to_owned();
    let records = root().join(RECORDS);
    let files = match records.is_dir() {
        true => files_ending_in(&records, "json")?,
        false => Vec::new(),
    };
    for file in files {
        let name = file.file_stem().context("a file has a name")?;
        let record = Record::read(&name.to_string_lossy())?.context("the record is there")?;
        section(&mut text, &record).with_context(|| format!("in {}", file.display()))?;
    }
    Ok(text)
}

fn section(text: &mut String, record: &Record) -> Result<()> {
    let Run {
        date,
        revision,
        machine,
    } = &record.run;
    writeln!(text, "\n## {}\n\n{}\n", record.title, record.about)?;
    writeln!(
        text,
        "`{}`, {date}, revision {revision}, {machine}.\n",
        record.command
    )?;
    writeln!(text, "| {} |", record.columns.join(" | "))?;
    writeln!(text, "|{}", "---|".repeat(record.columns.len()))?;
    for row in &record.rows {
        ensure!(
            row.len() == record.columns.len(),
            "a row of {} cells for {} columns",
            row.len(),
            record.columns.len()
        );
        let cells: Vec<_> = row.iter().map(cell).collect();
        writeln!(text, "| {} |", cells.join(" | "))?;
    }
    if !record.findings.is_empty() {
        text.push_str("\n| found and repaired | protected by |\n|---|---|\n");
    }
    for Finding { what, protected_by } in &record.findings {
        writeln!(text, "| {what} | {protected_by} |")?;
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match (value.as_u64(), value) {
        (Some(whole), _) => grouped(whole),
        (_, Value::String(text)) => text.clone(),
        (_, other) => other.to_string(),
    }
}

/// With a comma in front of each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_becomes_a_section_with_its_tables() {
        let record = Record {
            title: "Faults".to_owned(),
            command: "cargo xtask faults".to_owned(),
            about: "Each call fails once.".to_owned(),
            run: Run {
                date: "2026-01-02".to_owned(),
                revision: "abc".to_owned(),
                machine: "a machine".to_owned(),
            },
            columns: vec!["call".to_owned(), "faults".to_owned()],
            rows: vec![vec![json!("open"), json!(1234)]],
            findings: vec![Finding {
                what: "a leak".to_owned(),
                protected_by: "tests/leak.rs".to_owned(),
            }],
        };
        let mut text = String::new();
        section(&mut text, &record).expect("a section");
        let expected = "
## Faults

Each call fails once.

`cargo xtask faults`, 2026-01-02, revision abc, a machine.

| call | faults |
|---|---|
| open | 1,234 |

| found and repaired | protected by |
|---|---|
| a leak | tests/leak.rs |
";
        assert_eq!(text, expected);
        let narrow = Record {
            columns: vec!["call".to_owned()],
            ..record
        };
        assert!(section(&mut text, &narrow).is_err());
    }

    #[test]
    fn large_numbers_are_grouped() {
        let shown = [0, 999, 1000, 1234567].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(cell(&json!(0.5)), "0.5");
    }
}
