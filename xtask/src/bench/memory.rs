//! `cargo xtask bench memory`: what was predicted against what was taken, the same
//! job with other libraries, and how long it takes to go on with another model.

use anyhow::{Context, Result, bail};

use super::measure::{Settings, Subject};
use super::options::Options;
use super::plan::{self, Entry};
use super::statistics::median;
use super::system::{MemoryWatch, Resident, drop_from_cache};
use super::table::{columns, value};
use super::worker::{Engine, Worker};
use super::{Bench, report::Unit};

const MODELS: [&str; 3] = ["1b-4bit", "1b-bf16", "tales"];

/// The job of which memory is predicted fills its context, mostly by prompts.
const FULL_CONTEXT: u32 = 1024;
/// The job of the comparison.
const SHORT_CONTEXT: u32 = 512;
const SHORT_PROMPT: u32 = 32;
const DECODED: u32 = 2;
/// mlx-lm takes ten seconds for a token.
const MLX_LM_PROMPT: u32 = 1;
const SWITCHES: usize = 5;

pub fn command(args: &[String]) -> Result<()> {
    let models: Vec<&str> = match args {
        [] => MODELS.to_vec(),
        [only, names] if only == "--only" => names.split(',').collect(),
        _ => bail!("usage: cargo xtask bench memory [--only MODELS]"),
    };
    let entries: Vec<&Entry> = models.into_iter().map(entry).collect::<Result<_>>()?;
    let options = Options::default();
    let bench = Bench::prepare(&options)?;
    let subjects = entries.into_iter().map(|entry| bench.subject(entry));
    let subjects: Vec<Subject> = subjects.collect::<Result<_>>()?;
    print!("{}", predictions(&subjects, &bench.settings)?);
    print!("\n{}", comparison(&subjects, &bench.settings)?);
    if let [first, second, ..] = &subjects[..] {
        print!("\n{}", switches(first, second, &bench.settings)?);
    }
    Ok(())
}

fn entry(model: &str) -> Result<&'static Entry> {
    let found = plan::FULL.iter().find(|entry| entry.model == model);
    found.with_context(|| format!("no model is named {model}; docs/benchmarks.md has the names"))
}

/// What umrt says beforehand, part by part, and what it takes then.
fn predictions(subjects: &[Subject], settings: &Settings) -> Result<String> {
    let mut lines = vec![["model", "part", "predicted", "measured", "ratio"].map(String::from)];
    for subject in subjects {
        eprintln!("bench: {}, prediction", subject.model);
        for part in Part::measure(&subject.umrt, settings)? {
            lines.push([
                subject.model.clone(),
                part.name.into(),
                bytes(part.predicted),
                bytes(part.measured),
                format!("{:.3}", part.predicted / part.measured),
            ]);
        }
    }
    Ok(columns(&lines))
}

struct Part {
    name: &'static str,
    predicted: f64,
    measured: f64,
}

impl Part {
    fn measure(engine: &Engine, settings: &Settings) -> Result<Vec<Part>> {
        let mut worker = engine.start()?;
        let before = resident(&worker)?;
        let memory = MemoryWatch::start(worker.id());
        let prompt = FULL_CONTEXT - DECODED;
        job(&mut worker, engine, (FULL_CONTEXT, prompt), settings)?;
        let grown = |peak: u64, before: u64| peak.saturating_sub(before) as f64;
        let peak = memory.peak();
        let private = grown(peak.anonymous, before.anonymous);
        let all = grown(peak.all, before.all);
        let mut figure = |name: &str| worker.ask(&format!("figure {name}"));
        let weights = figure("estimated-weights")?;
        let (logits, scratch) = (figure("estimated-logits")?, figure("estimated-scratch")?);
        let total = figure("estimated-total")?;
        let part = |name, predicted, measured| Part {
            name,
            predicted,
            measured,
        };
        Ok(vec![
            part("weights", weights, figure("weights")?),
            part("keys and values", figure("estimated-kv")?, figure("kv")?),
            part("logits and scratch", logits + scratch, figure("step-peak")?),
            part("private memory", total - weights, private),
            part("all", total, all),
        ])
    }
}

/// The peaks of the same short job in each library.
fn comparison(subjects: &[Subject], settings: &Settings) -> Result<String> {
    let heading = [
        "model",
        "library",
        "private",
        "files",
        "both",
        "private, of umrt's",
    ];
    let mut lines = vec![heading.map(String::from)];
    for subject in subjects {
        let mut of_umrt = None;
        let engines = [&subject.umrt].into_iter().chain(&subject.llama_cpp);
        let engines = engines.map(|engine| (engine, SHORT_PROMPT));
        for (engine, prompt) in engines.chain([(&subject.mlx_lm, MLX_LM_PROMPT)]) {
            eprintln!("bench: {}, {}", subject.model, engine.name);
            let peak = peak_of(engine, prompt, settings)?;
            let private = peak.anonymous as f64;
            lines.push([
                subject.model.clone(),
                engine.name.clone(),
                bytes(private),
                bytes(peak.file as f64),
                bytes(peak.all as f64),
                format!("{:.2}x", private / *of_umrt.get_or_insert(private)),
            ]);
        }
    }
    Ok(columns(&lines))
}

fn peak_of(engine: &Engine, prompt: u32, settings: &Settings) -> Result<Resident> {
    let mut worker = engine.start()?;
    let memory = MemoryWatch::start(worker.id());
    job(&mut worker, engine, (SHORT_CONTEXT, prompt), settings)?;
    Ok(memory.peak())
}

/// Opens the model, reads a prompt and decodes.
fn job(
    worker: &mut Worker,
    engine: &Engine,
    (n_ctx, prompt): (u32, u32),
    settings: &Settings,
) -> Result<()> {
    worker.ask(&format!("open {}", engine.model.display()))?;
    worker.ask(&format!("context {n_ctx} 1 {}", settings.n_threads))?;
    worker.ask(&format!("prefill {prompt} 1 {}", settings.patience_s))?;
    worker.ask(&format!("decode 1 {DECODED}")).map(|_| ())
}

fn resident(worker: &Worker) -> Result<Resident> {
    Resident::of(worker.id()).context("the process has ended")
}

/// Seconds from one model's last token to the other's first.
fn switches(first: &Subject, second: &Subject, settings: &Settings) -> Result<String> {
    let heading = ["switch to", "library", "warm", "cold"].map(String::from);
    let mut lines = vec![heading];
    for (from, to) in [(first, second), (second, first)] {
        eprintln!("bench: from {} to {}", from.model, to.model);
        let llama_cpp = [&from.llama_cpp[0], &to.llama_cpp[0]];
        let of_umrt = both_open([&from.umrt, &to.umrt], settings)?;
        let of_llama_cpp = one_at_a_time(llama_cpp, settings)?;
        for (name, seconds) in [("umrt", of_umrt), (&llama_cpp[1].name, of_llama_cpp)] {
            lines.push([
                to.model.clone(),
                name.into(),
                value(Unit::Seconds, seconds.warm),
                value(Unit::Seconds, seconds.cold),
            ]);
        }
    }
    Ok(columns(&lines))
}

struct Switch {
    /// The model's pages are in memory.
    warm: f64,
    /// They are on the disk.
    cold: f64,
}

impl Switch {
    /// Both kinds in turns, so that they see the same noise.
    fn median(mut seconds: impl FnMut(bool) -> Result<f64>) -> Result<Self> {
        let (mut warm, mut cold) = (Vec::new(), Vec::new());
        for _ in 0..SWITCHES {
            warm.push(seconds(false)?);
            cold.push(seconds(true)?);
        }
        Ok(Self {
            warm: median(&warm),
            cold: median(&cold),
        })
    }
}

/// umrt keeps both models open.
fn both_open([from, to]: [&Engine; 2], settings: &Settings) -> Result<Switch> {
    let mut worker = from.start()?;
    let short = (SHORT_CONTEXT, SHORT_PROMPT);
    job(&mut worker, from, short, settings)?;
    worker.ask("swap")?;
    job(&mut worker, to, short, settings)?;
    Switch::median(|is_cold| {
        if is_cold {
            worker.ask("release")?;
        }
        worker.ask("swap")?;
        first_token(&mut worker, settings)?;
        let seconds = worker.ask("swap")? + first_token(&mut worker, settings)?;
        Ok(seconds)
    })
}

/// Others free one model and load the other.
fn one_at_a_time([from, to]: [&Engine; 2], settings: &Settings) -> Result<Switch> {
    Switch::median(|is_cold| {
        let mut worker = from.start()?;
        let short = (SHORT_CONTEXT, SHORT_PROMPT);
        job(&mut worker, from, short, settings)?;
        if is_cold {
            drop_from_cache(&to.model)?;
        }
        let closed = worker.ask("close")?;
        let opened = worker.ask(&format!("open {}", to.model.display()))?;
        let made = worker.ask(&format!("context {SHORT_CONTEXT} 1 {}", settings.n_threads))?;
        Ok(closed + opened + made + first_token(&mut worker, settings)?)
    })
}

/// Of an empty sequence, behind one token.
fn first_token(worker: &mut Worker, settings: &Settings) -> Result<f64> {
    worker.ask("trim 1 0")?;
    worker.ask(&format!("prefill 1 1 {}", settings.patience_s))
}

fn bytes(bytes: f64) -> String {
    value(Unit::Bytes, bytes)
}
