//! `cargo xtask fuzz`: hostile input, guided by what it reaches. The targets are those
//! of `tests/hostile`, `tests/fuzz` puts them under libFuzzer.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::cache::Cache;
use crate::library::FOR_C;
use crate::mlx;
use crate::reliability::{Record, Run};
use crate::setup::{Backend, setup};
use crate::test::Outcome;
use crate::tests_run::run_tests;
use crate::util::{Metadata, cargo, host_triple, root, run};

const USAGE: &str = "usage: cargo xtask fuzz [TARGET] [--seconds N] [--record]";
const PACKAGE: &str = "umrt-fuzz";
const TARGETS_SOURCE: &str = "tests/hostile/targets/mod.rs";
const REGRESSIONS: &str = "tests/hostile/regressions";
const RECORD: &str = "fuzz";
const DEFAULT_SECONDS: u64 = 10;
/// For each target.
const CHECK_SECONDS: &str = "20";

/// Counts edges and shows comparisons, through LLVM's own passes, which need no other
/// compiler than the one that is there.
const INSTRUMENTATION: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Longer than any input that succeeds, many times.
const SLOW_INPUT_SECONDS: u32 = 20;
const MEMORY_LIMIT_MIB: u32 = 4096;
const LIMIT_INPUT_BYTES: u32 = 64 << 10;

const ABOUT: &str = "\
libFuzzer changes valid input for each kind of file and request, guided by the branches and \
comparisons that it reaches, and one time in two by its structure. Harm is a panic that is not \
caught, a signal, a status that damaged input cannot have, a tensor outside of its file, more than \
4 GiB of memory or 20 seconds. Runs add up.";

struct Options {
    target: Option<String>,
    seconds: u64,
    record: bool,
}

/// What fuzzing one target did.
struct Done {
    target: String,
    cpu_seconds: f64,
    inputs: u64,
    /// Inputs that are kept because they reach something that no other does.
    corpus: usize,
    crashes: Vec<PathBuf>,
}

pub fn command(args: &[String]) -> Result<()> {
    let options = parse(args)?;
    let names = match &options.target {
        Some(name) => vec![name.clone()],
        None => target_names()?,
    };
    let metadata = setup(None)?;
    let fuzzer = Fuzzer::build(&metadata)?;
    let mut all = Vec::new();
    for name in &names {
        let done = fuzzer.run(name, options.seconds)?;
        println!(
            "{name}: {} inputs in {:.0} CPU seconds, {} kept, {} crashes",
            done.inputs,
            done.cpu_seconds,
            done.corpus,
            done.crashes.len()
        );
        all.push(done);
    }
    if options.record {
        record(&all)?;
    }
    let crashes: Vec<_> = all.iter().flat_map(|done| &done.crashes).collect();
    ensure!(
        crashes.is_empty(),
        "{} inputs do harm: {crashes:?}; move them to {REGRESSIONS}/TARGET when the cause is \
         repaired",
        crashes.len()
    );
    Ok(())
}

/// Some seconds of the same targets without coverage, in the build that the Rust tests
/// have made already.
pub fn check(_: &[String]) -> Result<Outcome> {
    run_tests(
        cargo()
            .args(["test", "--release", "--package=umrt", FOR_C])
            .args(["--test=hostile", "--", "--nocapture", "damaged_"])
            .env("UMRT_HOSTILE_SECONDS", CHECK_SECONDS),
    )?;
    Ok(Outcome::Passed)
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options {
        target: None,
        seconds: DEFAULT_SECONDS,
        record: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => options.seconds = args.next().context(USAGE)?.parse().context(USAGE)?,
            "--record" => options.record = true,
            name if !name.starts_with('-') && options.target.is_none() => {
                options.target = Some(name.to_owned());
            }
            _ => bail!(USAGE),
        }
    }
    Ok(options)
}

/// As the table of targets has them.
fn target_names() -> Result<Vec<String>> {
    let source = fs::read_to_string(root().join(TARGETS_SOURCE))?;
    let names = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("name: \"")?.strip_suffix("\","));
    Ok(names.map(str::to_owned).collect())
}

struct Fuzzer {
    program: PathBuf,
    /// Corpora, crashes and logs, by target.
    folder: PathBuf,
}

impl Fuzzer {
    fn build(metadata: &Metadata) -> Result<Fuzzer> {
        let host = host_triple()?;
        // With a target of its own, build scripts are not instrumented.
        run(cargo()
            .args(["build", "--profile=fuzz", "--package", PACKAGE])
            .args(["--target", &host])
            .env("CARGO_ENCODED_RUSTFLAGS", flags(metadata)?.join("\x1f")))?;
        let target_dir = &metadata.target_dir;
        Ok(Fuzzer {
            program: target_dir.join(host).join("fuzz").join(PACKAGE),
            folder: target_dir.join("fuzzing"),
        })
    }

    fn run(&self, target: &str, seconds: u64) -> Result<Done> {
        let folder = self.folder.join(target);
        let [seeds, corpus, crashes] = ["seeds", "corpus", "crashes"].map(|name| folder.join(name));
        for folder in [&seeds, &corpus, &crashes] {
            fs::create_dir_all(folder)?;
        }
        let log = folder.join("log");
        // In memory, and gone afterwards whatever happened.
        let scratch = tempfile::Builder::new().tempdir_in(scratch_place())?;
        let before = cpu_seconds_of_children()?;
        let mut fuzzer = Command::new(&self.program);
        fuzzer
            .env("UMRT_FUZZ_TARGET", target)
            .env("UMRT_FUZZ_SEEDS", &seeds)
            .env("TMPDIR", scratch.path())
            .args([&corpus, &seeds])
            .args(regressions(target))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={SLOW_INPUT_SECONDS}"))
            // What is slow but no harm.
            .arg(format!("-report_slow_units={SLOW_INPUT_SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
            .arg(format!("-max_len={LIMIT_INPUT_BYTES}"))
            .args(["-print_final_stats=1", "-reload=0"])
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let status = fuzzer.status().context("starting the fuzzer")?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let crashes = files_in(&crashes)?;
        if !status.success() && crashes.is_empty() {
            bail!("the fuzzer ended with {status}: see {}", log.display());
        }
        Ok(Done {
            target: target.to_owned(),
            cpu_seconds: cpu_seconds_of_children()? - before,
            inputs: statistic(&text, "number_of_executed_units").unwrap_or(0),
            corpus: files_in(&corpus)?.len(),
            crashes,
        })
    }
}

/// The program finds MLX where it was found for building.
fn flags(metadata: &Metadata) -> Result<Vec<String>> {
    let mut flags = INSTRUMENTATION.map(str::to_owned).to_vec();
    let mlx = mlx::install(&Cache::open()?, &metadata.mlx_sys_dir, Backend::Cpu)?;
    for (option, folder) in [
        ("rpath", mlx.runtime_lib),
        ("rpath-link", mlx.link_only_lib),
    ] {
        flags.push(format!("-Clink-arg=-Wl,-{option},{}", folder.display()));
    }
    Ok(flags)
}

/// Inputs that once did harm, which are good to begin with.
fn regressions(target: &str) -> Option<PathBuf> {
    let folder = root().join(REGRESSIONS).join(target);
    folder.is_dir().then_some(folder)
}

/// Files are made for every input, so they should not reach a disk.
fn scratch_place() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    match memory.is_dir() {
        true => memory,
        false => std::env::temp_dir(),
    }
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// A number of those that libFuzzer prints at its end.
fn statistic(log: &str, name: &str) -> Option<u64> {
    let prefix = format!("stat::{name}:");
    let line = log.lines().find_map(|line| line.strip_prefix(&prefix))?;
    line.trim().parse().ok()
}

/// Of all children that have ended.
fn cpu_seconds_of_children() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("reading /proc/self/stat")?;
    children_seconds(&stat).context("/proc/self/stat has another form")
}

/// The fields behind the name, which is in parentheses, are separated by spaces; time is
/// in hundredths of a second.
fn children_seconds(stat: &str) -> Option<f64> {
    const CHILDREN_USER: usize = 13;
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = fields.split(' ').collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(CHILDREN_USER)? + ticks(CHILDREN_USER + 1)?) / 100.0)
}

/// Adds to what was recorded, target by target.
fn record(all: &[Done]) -> Result<()> {
    let before = Record::read(RECORD)?.unwrap_or_default();
    let mut rows = before.rows;
    for done in all {
        let row = match rows.iter_mut().find(|row| row[0] == json!(done.target)) {
            Some(row) => row,
            None => {
                rows.push(vec![json!(done.target), json!(0), json!(0), json!(0)]);
                rows.last_mut().context("a row was added")?
            }
        };
        let more = [
            done.cpu_seconds.round() as u64,
            done.inputs,
            done.crashes.len() as u64,
        ];
        for (cell, more) in row[1..].iter_mut().zip(more) {
            *cell = json!(cell.as_u64().unwrap_or(0) + more);
        }
    }
    let columns = [
        "input",
        "CPU seconds",
        "inputs tried",
        "inputs that did harm",
    ];
    Record {
        title: "Hostile input".to_owned(),
        command: "cargo xtask fuzz --seconds N --record".to_owned(),
        about: ABOUT.to_owned(),
        run: Run::now()?,
        columns: columns.map(str::to_owned).into(),
        rows,
        ..Record::default()
    }
    .write(RECORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_from_their_table() {
        let names = target_names().expect("the table");
        assert!(names.len() >= 10, "{names:?}");
        assert!(names.contains(&"safetensors".to_owned()), "{names:?}");
    }

    #[test]
    fn times_and_statistics_are_read() {
        let stat = "1 (a (b) c) S 0 1 1 0 -1 4194304 1 2 3 4 5 6 700 50 20 0 1";
        assert_eq!(children_seconds(stat), Some(7.5));
        let log = "x\nstat::number_of_executed_units: 1234\nstat::peak_rss_mb: 5\n";
        assert_eq!(statistic(log, "number_of_executed_units"), Some(1234));
        assert_eq!(statistic(log, "slowest"), None);
    }
}
