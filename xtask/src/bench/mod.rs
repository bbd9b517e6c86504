//! `cargo xtask bench`: umrt against what its users would take instead, on the
//! machine at hand.

mod chart;
mod measure;
mod memory;
mod models;
mod options;
mod peers;
mod plan;
mod readme;
mod report;
#[cfg(test)]
mod sample;
mod sequences;
pub mod shape;
mod statistics;
pub mod system;
mod table;
mod targets;
mod worker;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::library::bundled_model;
use crate::util::root;
use measure::{Settings, Subject};
use models::{Checkpoint, Gguf};
use options::Options;
use peers::{Peers, tool};
use plan::{Entry, Measurement, Source};
use report::{Machine, Report, Skipped};
use shape::{Format, Shape};
use worker::Engine;

/// Models that all libraries open at once must leave room in memory.
const MEMORY_SHARE: f64 = 0.8;

pub fn command(args: &[String]) -> Result<()> {
    if let [first, rest @ ..] = args
        && first == "memory"
    {
        return memory::command(rest);
    }
    let options = Options::parse(args)?;
    let report = match &options.from {
        Some(file) => Report::read(file)?,
        None => Bench::prepare(&options)?.run()?,
    };
    print!("{}", table::terminal(&report));
    if let Some(file) = &options.json {
        report.write(file)?;
    }
    if let Some(file) = &options.chart {
        let picture = chart::svg(&report).context("none of the chart's rows was measured")?;
        fs::write(file, picture).with_context(|| format!("writing {}", file.display()))?;
    }
    if options.readme {
        readme::update(&report, root())?;
    }
    Ok(())
}

struct Bench<'a> {
    options: &'a Options,
    peers: Peers,
    settings: Settings,
    report: Report,
}

impl<'a> Bench<'a> {
    fn prepare(options: &'a Options) -> Result<Self> {
        if !cfg!(target_os = "linux") {
            bail!("`cargo xtask bench` reads /proc: it measures on Linux only");
        }
        if options.entries().next().is_none() {
            bail!(
                "no measurement is named {}; docs/benchmarks.md has the names",
                options.only.join(" or ")
            );
        }
        let peers = Peers::prepare()?;
        let machine = Machine::here()?;
        let report = Report {
            versions: peers.versions()?,
            quick: options.quick,
            read_bandwidth: Vec::new(),
            rows: Vec::new(),
            skipped: Vec::new(),
            machine,
        };
        Ok(Self {
            options,
            settings: Settings {
                n_pairs: if options.quick { 3 } else { 5 },
                n_threads: report.machine.threads,
                patience_s: if options.quick { 60 } else { 600 },
                turn: Duration::from_millis(if options.quick { 700 } else { 2000 }),
                read_bandwidth: Some(peers.read_bandwidth.clone()),
            },
            peers,
            report,
        })
    }

    fn run(mut self) -> Result<Report> {
        for (entry, measurements) in self.options.entries() {
            match self.subject(entry) {
                Ok(subject) => self.measure(&subject, &measurements)?,
                Err(error) => self.skip(entry.model.to_owned(), &error),
            }
        }
        Ok(self.report)
    }

    fn measure(&mut self, subject: &Subject, measurements: &[Measurement]) -> Result<()> {
        for measurement in measurements {
            let names = format!("{}/{}", subject.model, measurement.rows().join(", "));
            eprintln!("bench: {names}");
            match subject.measure(*measurement, &self.settings) {
                Ok(mut rows) => {
                    let rates = rows.iter().flat_map(|row| &row.read_bandwidth);
                    self.report.read_bandwidth.extend(rates);
                    self.report.rows.append(&mut rows);
                }
                Err(error) => self.skip(names, &error),
            }
            // What is there already survives an interruption.
            if let Some(file) = &self.options.json {
                self.report.write(file)?;
            }
        }
        Ok(())
    }

    fn skip(&mut self, what: String, reason: &anyhow::Error) {
        let reason = format!("{reason:#}");
        eprintln!("bench: skipped {what}: {reason}");
        self.report.skipped.push(Skipped { what, reason });
    }

    fn subject(&self, entry: &Entry) -> Result<Subject> {
        let python = &self.peers.python;
        let (checkpoint, shape, format) = match &entry.source {
            Source::Random(shape, format) => {
                self.require_memory(shape.weight_bytes(*format), ggufs(&entry.source).len())?;
                let checkpoint = Checkpoint::random(python, shape, entry.model, *format)?;
                (checkpoint, (*shape).clone(), *format)
            }
            Source::Walk(shape) => {
                self.require_memory(shape.weight_bytes(Format::FourBit), 0)?;
                let checkpoint = Checkpoint::walk(python, shape, entry.model)?;
                (checkpoint, (*shape).clone(), Format::FourBit)
            }
            Source::Bundled => {
                let checkpoint = Checkpoint::existing(bundled_model()?)?;
                let config = fs::read_to_string(checkpoint.folder.join("config.json"))?;
                let shape = Shape::from_config(&serde_json::from_str(&config)?)?;
                (checkpoint, shape, Format::FourBit)
            }
        };
        let mut llama_cpp = Vec::new();
        for gguf in ggufs(&entry.source) {
            llama_cpp.push(Engine {
                name: format!("llama.cpp {}", gguf.name()),
                program: vec![self.peers.llama_cpp.clone()],
                model: checkpoint.gguf(python, entry.model, *gguf)?,
            });
        }
        let subject = Subject {
            model: entry.model.to_owned(),
            shape,
            format,
            umrt: Engine {
                name: "umrt".into(),
                program: vec![self.peers.umrt.clone()],
                model: checkpoint.folder.clone(),
            },
            llama_cpp,
            mlx_lm: Engine {
                name: "mlx-lm".into(),
                program: vec![python.clone(), tool("mlx_worker.py")],
                model: checkpoint.folder,
            },
        };
        if matches!(entry.source, Source::Bundled) {
            subject.check_agreement(&self.settings)?;
        }
        Ok(subject)
    }

    fn require_memory(&self, weight_bytes: u64, n_ggufs: usize) -> Result<()> {
        let needed = (1 + n_ggufs as u64) * weight_bytes;
        let usable = self.report.machine.memory_bytes as f64 * MEMORY_SHARE;
        if needed as f64 > usable {
            bail!(
                "keeping it open in each library takes {:.0} GB of memory, and {:.0} GB are usable",
                needed as f64 / 1e9,
                usable / 1e9
            );
        }
        Ok(())
    }
}

/// The files that llama.cpp gets. Where its bfloat16 is the slower one it may
/// use float16, unless the model is so large that another copy is a burden.
fn ggufs(source: &Source) -> &'static [Gguf] {
    const LARGE: u64 = 5_000_000_000;
    match source {
        Source::Bundled => &[Gguf::Q4_1],
        Source::Walk(_) => &[],
        Source::Random(_, Format::FourBit) => &[Gguf::Q4_0],
        Source::Random(shape, format) if shape.weight_bytes(*format) > LARGE => &[Gguf::Bfloat16],
        Source::Random(_, Format::Bfloat16) => &[Gguf::Bfloat16, Gguf::Float16],
    }
}
