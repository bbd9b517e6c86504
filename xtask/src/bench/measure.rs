//! Taking the measurements: every library computes in its own process, and only
//! one at a time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::plan::{BATCH_SIZES, Measurement, SHORT};
use super::report::{Meaning, Peer, Row, Unit};
use super::shape::{Format, Shape};
use super::statistics::median;
use super::system::{BusyCore, MemoryWatch};
use super::worker::{Engine, Worker};
use crate::util::output;

/// A model as each library opens it.
pub struct Subject {
    pub model: String,
    pub shape: Shape,
    pub format: Format,
    pub umrt: Engine,
    /// The same library with other files; the best of them counts.
    pub llama_cpp: Vec<Engine>,
    pub mlx_lm: Engine,
}

pub struct Settings {
    pub n_pairs: usize,
    pub n_threads: usize,
    /// How long a prompt may take before the measurement is given up.
    pub patience_s: u32,
    /// About how long one library decodes in its turn.
    pub turn: Duration,
    /// The program that reads memory in a plain loop.
    pub read_bandwidth: Option<PathBuf>,
}

/// Time in which the threads of the library that had its turn come to rest.
pub(super) const REST: Duration = Duration::from_millis(30);
const FRESH_PROMPT: u32 = 32;
const FRESH_CONTEXT: u32 = 512;
const MIN_STEPS: u32 = 4;
const MAX_STEPS: u32 = 256;
/// Of `MAX_STEPS` each, in a turn of a fast model.
const MAX_RUNS: f64 = 20.0;
const TRIAL_STEPS: u32 = 4;
const BATCH_STEPS: u32 = 8;
const BUSY_STEPS: u32 = 8;
const MLX_LM_STEPS: u32 = 2;
const MLX_LM_PROMPT: u32 = 8;
/// Larger than the last-level cache of any processor.
const BANDWIDTH_MIB_PER_THREAD: &str = "512";
const BANDWIDTH_PASSES: &str = "3";

/// For each library one value per turn.
pub(super) type Turns<T> = Vec<Vec<T>>;

impl Subject {
    pub fn measure(&self, measurement: Measurement, settings: &Settings) -> Result<Vec<Row>> {
        match measurement {
            Measurement::Fresh => self.fresh(settings),
            Measurement::Decode { behind: SHORT } => self.decode(settings),
            Measurement::Decode { behind } => {
                let rates = self.decode_rates(behind, settings, || Ok(()))?;
                Ok(self.rows(
                    measurement,
                    Unit::TokensPerSecond,
                    vec![rates],
                    &[Meaning::Nothing],
                ))
            }
            Measurement::Token => {
                let rates = self.decode_rates(SHORT, settings, || Ok(()))?;
                let seconds = each(&rates, |rate| 1.0 / rate);
                Ok(self.rows(
                    measurement,
                    Unit::Seconds,
                    vec![seconds],
                    &[Meaning::Nothing],
                ))
            }
            Measurement::Prefill { n_tokens } => {
                let rates = self.prefill_rates(n_tokens, settings)?;
                let meaning = Meaning::FlopPerToken(self.shape.flop_per_prompt_token());
                Ok(self.rows(measurement, Unit::TokensPerSecond, vec![rates], &[meaning]))
            }
            Measurement::Batch => self.batch(settings),
            Measurement::BusyCore => self.busy_core(settings),
            Measurement::MlxLm => self.against_mlx_lm(settings),
            Measurement::Parallel { .. } => self.parallel(measurement, settings),
            Measurement::Fork { .. } => self.fork(measurement, settings),
            Measurement::Save { n_tokens } => self.save_and_load(n_tokens, settings),
            Measurement::PrefixHit { n_tokens } => self.prefix_hit(n_tokens, settings),
            Measurement::Guesses { by, .. } => self.guesses(measurement, by, settings),
        }
    }

    /// Fails unless all libraries think the same token comes next: otherwise
    /// they would not be doing the same work.
    pub fn check_agreement(&self, settings: &Settings) -> Result<()> {
        let mut tops = Vec::new();
        for worker in &mut self.open_all(FRESH_CONTEXT, 1, settings)? {
            worker.ask(&format!("prefill {FRESH_PROMPT} 1 {}", settings.patience_s))?;
            tops.push(worker.ask("top")?);
        }
        if tops.iter().any(|top| *top != tops[0]) {
            bail!(
                "{}: the libraries disagree about the next token: {tops:?}",
                self.model
            );
        }
        Ok(())
    }

    pub(super) fn engines(&self) -> impl Iterator<Item = &Engine> {
        std::iter::once(&self.umrt).chain(&self.llama_cpp)
    }

    pub(super) fn open_all(
        &self,
        n_ctx: u32,
        n_seq: u32,
        settings: &Settings,
    ) -> Result<Vec<Worker>> {
        self.engines()
            .map(|engine| engine.open(n_ctx, n_seq, settings.n_threads))
            .collect()
    }

    fn fresh(&self, settings: &Settings) -> Result<Vec<Row>> {
        // The first round brings the files into memory.
        for engine in self.engines() {
            Fresh::measure(engine, settings)?;
        }
        let mut turns: Turns<Fresh> = self.engines().map(|_| Vec::new()).collect();
        for _ in 0..settings.n_pairs {
            for (engine, turns) in self.engines().zip(&mut turns) {
                turns.push(Fresh::measure(engine, settings)?);
            }
        }
        let open = each(&turns, |fresh| fresh.open_s);
        let first_token = each(&turns, |fresh| fresh.first_token_s);
        let memory = each(&turns, |fresh| fresh.anonymous_bytes);
        let weights = Meaning::WeightBytes(self.shape.weight_bytes(self.format));
        let rows =
            |unit, values, meanings: &[_]| self.rows(Measurement::Fresh, unit, values, meanings);
        let seconds = rows(
            Unit::Seconds,
            vec![open, first_token],
            &[Meaning::Nothing; 2],
        );
        let mut memory = self.named_rows(&["memory".into()], Unit::Bytes, vec![memory], &[weights]);
        let mut rows = seconds;
        rows.append(&mut memory);
        Ok(rows)
    }

    /// With a plain read loop that has its turn too.
    fn decode(&self, settings: &Settings) -> Result<Vec<Row>> {
        let mut bandwidth = Vec::new();
        let rates = self.decode_rates(SHORT, settings, || {
            if let Some(program) = &settings.read_bandwidth {
                bandwidth.push(read_bandwidth(program, settings.n_threads)?);
            }
            Ok(())
        })?;
        let mut rows = self.rows(
            Measurement::Decode { behind: SHORT },
            Unit::TokensPerSecond,
            vec![rates],
            &[self.bytes_per_token()],
        );
        rows[0].read_bandwidth = bandwidth;
        Ok(rows)
    }

    fn decode_rates(
        &self,
        behind: u32,
        settings: &Settings,
        between: impl FnMut() -> Result<()>,
    ) -> Result<Turns<f64>> {
        let mut workers = self.open_all(behind + MAX_STEPS, 1, settings)?;
        let mut fastest = f64::INFINITY;
        for worker in &mut workers {
            worker.ask(&format!("prefill {behind} 1 {}", settings.patience_s))?;
            let trial = worker.ask(&format!("decode 1 {TRIAL_STEPS}"))?;
            fastest = fastest.min(trial / f64::from(TRIAL_STEPS));
        }
        let steps = steps_within(settings.turn, fastest);
        let seconds_per_run = fastest * f64::from(steps);
        let n_runs = runs_within(settings.turn, seconds_per_run);
        let turn = |worker: &mut Worker| {
            let mut seconds = 0.0;
            for _ in 0..n_runs {
                worker.ask(&format!("trim 1 {behind}"))?;
                seconds += worker.ask(&format!("decode 1 {steps}"))?;
            }
            Ok(f64::from(n_runs * steps) / seconds)
        };
        in_rounds(&mut workers, settings.n_pairs, turn, between)
    }

    fn prefill_rates(&self, n_tokens: u32, settings: &Settings) -> Result<Turns<f64>> {
        let mut workers = self.open_all(n_tokens + SHORT, 1, settings)?;
        for worker in &mut workers {
            worker.ask(&format!("prefill {SHORT} 1 {}", settings.patience_s))?;
        }
        in_turns(&mut workers, settings.n_pairs, |worker| {
            worker.ask("trim 1 0")?;
            let seconds = worker.ask(&format!("prefill {n_tokens} 1 {}", settings.patience_s))?;
            Ok(f64::from(n_tokens) / seconds)
        })
    }

    fn batch(&self, settings: &Settings) -> Result<Vec<Row>> {
        let n_seq = BATCH_SIZES[BATCH_SIZES.len() - 1];
        let mut workers = self.open_all(SHORT + BATCH_STEPS, n_seq, settings)?;
        for worker in &mut workers {
            worker.ask(&format!("prefill {SHORT} {n_seq} {}", settings.patience_s))?;
            worker.ask(&format!("decode {n_seq} 1"))?;
        }
        let turns = in_turns(&mut workers, settings.n_pairs, |worker| {
            let mut rates = Vec::new();
            for size in BATCH_SIZES {
                worker.ask(&format!("trim {n_seq} {SHORT}"))?;
                let seconds = worker.ask(&format!("decode {size} {BATCH_STEPS}"))?;
                rates.push(f64::from(size * BATCH_STEPS) / seconds);
            }
            Ok(rates)
        })?;
        let values = (0..BATCH_SIZES.len()).map(|index| each(&turns, |rates| rates[index]));
        let meanings = BATCH_SIZES.map(Meaning::TokensPerStep);
        Ok(self.rows(
            Measurement::Batch,
            Unit::TokensPerSecond,
            values.collect(),
            &meanings,
        ))
    }

    fn busy_core(&self, settings: &Settings) -> Result<Vec<Row>> {
        let mut workers = self.open_all(SHORT + MAX_STEPS, 1, settings)?;
        let decode = |worker: &mut Worker| {
            worker.ask(&format!("trim 1 {SHORT}"))?;
            worker.ask(&format!("decode 1 {BUSY_STEPS}"))
        };
        for worker in &mut workers {
            worker.ask(&format!("prefill {SHORT} 1 {}", settings.patience_s))?;
            decode(worker)?;
        }
        let shares = in_turns(&mut workers, settings.n_pairs, |worker| {
            let quiet = decode(worker)?;
            let busy_core = BusyCore::start()?;
            thread::sleep(REST);
            let busy = decode(worker)?;
            drop(busy_core);
            Ok(quiet / busy)
        })?;
        let meanings = [Meaning::Nothing];
        Ok(self.rows(Measurement::BusyCore, Unit::Share, vec![shares], &meanings))
    }

    /// One pair of a few tokens, because mlx-lm takes seconds for each.
    fn against_mlx_lm(&self, settings: &Settings) -> Result<Vec<Row>> {
        let mut decode = Vec::new();
        let mut prefill = Vec::new();
        for engine in [&self.umrt, &self.mlx_lm] {
            let mut worker = engine.open(FRESH_CONTEXT, 1, settings.n_threads)?;
            worker.ask(&format!("prefill 1 1 {}", settings.patience_s))?;
            let seconds = worker.ask(&format!("decode 1 {MLX_LM_STEPS}"))?;
            decode.push(vec![f64::from(MLX_LM_STEPS) / seconds]);
            let seconds = worker.ask(&format!(
                "prefill {MLX_LM_PROMPT} 1 {}",
                settings.patience_s
            ))?;
            prefill.push(vec![f64::from(MLX_LM_PROMPT) / seconds]);
        }
        let names = Measurement::MlxLm.rows();
        let peers = [&self.mlx_lm];
        let rows = names.iter().zip([decode, prefill]).map(|(name, turns)| {
            self.row(name, Unit::TokensPerSecond, turns, &peers, Meaning::Nothing)
        });
        Ok(rows.collect())
    }

    fn bytes_per_token(&self) -> Meaning {
        Meaning::BytesPerToken(self.shape.weight_bytes_per_token(self.format))
    }

    /// A row for each name of the measurement, as far as there are values.
    pub(super) fn rows(
        &self,
        measurement: Measurement,
        unit: Unit,
        values: Vec<Turns<f64>>,
        meanings: &[Meaning],
    ) -> Vec<Row> {
        self.named_rows(&measurement.rows(), unit, values, meanings)
    }

    pub(super) fn named_rows(
        &self,
        names: &[String],
        unit: Unit,
        values: Vec<Turns<f64>>,
        meanings: &[Meaning],
    ) -> Vec<Row> {
        let peers: Vec<&Engine> = self.llama_cpp.iter().collect();
        let rows = names.iter().zip(values).zip(meanings);
        rows.map(|((name, turns), meaning)| self.row(name, unit, turns, &peers, *meaning))
            .collect()
    }

    fn row(
        &self,
        name: &str,
        unit: Unit,
        mut turns: Turns<f64>,
        peers: &[&Engine],
        meaning: Meaning,
    ) -> Row {
        let umrt = turns.remove(0);
        let candidates = turns.into_iter().zip(peers).map(|(values, engine)| Peer {
            name: engine.name.clone(),
            values,
        });
        let quality = |peer: &Peer| {
            let value = median(&peer.values);
            if unit.higher_is_better() {
                value
            } else {
                -value
            }
        };
        Row {
            model: self.model.clone(),
            measurement: name.to_owned(),
            unit,
            umrt,
            peer: candidates.max_by(|a, b| quality(a).total_cmp(&quality(b))),
            meaning,
            read_bandwidth: Vec::new(),
        }
    }
}

/// A process from its start to its first token.
struct Fresh {
    open_s: f64,
    first_token_s: f64,
    anonymous_bytes: f64,
}

impl Fresh {
    fn measure(engine: &Engine, settings: &Settings) -> Result<Self> {
        let start = Instant::now();
        let mut worker = engine.start()?;
        let memory = MemoryWatch::start(worker.id());
        let open_s = worker.ask(&format!("open {}", engine.model.display()))?;
        worker.ask(&format!("context {FRESH_CONTEXT} 1 {}", settings.n_threads))?;
        worker.ask(&format!("prefill {FRESH_PROMPT} 1 {}", settings.patience_s))?;
        worker.ask("decode 1 1")?;
        Ok(Self {
            open_s,
            first_token_s: start.elapsed().as_secs_f64(),
            anonymous_bytes: memory.peak().anonymous as f64,
        })
    }
}

/// A B A B ...: neighbours see the same noise.
pub(super) fn in_turns<T>(
    workers: &mut [Worker],
    n_pairs: usize,
    turn: impl FnMut(&mut Worker) -> Result<T>,
) -> Result<Turns<T>> {
    in_rounds(workers, n_pairs, turn, || Ok(()))
}

/// The same with something else at the end of each round.
fn in_rounds<T>(
    workers: &mut [Worker],
    n_rounds: usize,
    mut turn: impl FnMut(&mut Worker) -> Result<T>,
    mut between: impl FnMut() -> Result<()>,
) -> Result<Turns<T>> {
    let mut turns: Turns<T> = workers.iter().map(|_| Vec::new()).collect();
    for _ in 0..n_rounds {
        for (worker, turns) in workers.iter_mut().zip(&mut turns) {
            thread::sleep(REST);
            turns.push(turn(worker)?);
        }
        thread::sleep(REST);
        between()?;
    }
    Ok(turns)
}

/// Bytes per second of the best pass.
fn read_bandwidth(program: &Path, n_threads: usize) -> Result<f64> {
    let printed = output(
        Command::new(program)
            .arg(n_threads.to_string())
            .args([BANDWIDTH_MIB_PER_THREAD, BANDWIDTH_PASSES]),
    )?;
    let rates = printed.lines().map(str::parse::<f64>);
    let rates = rates.collect::<Result<Vec<f64>, _>>();
    rates
        .context("read_bandwidth prints numbers")?
        .into_iter()
        .reduce(f64::max)
        .context("read_bandwidth prints a number for each pass")
}

pub(super) fn each<T>(turns: &Turns<T>, value: impl Fn(&T) -> f64) -> Turns<f64> {
    turns
        .iter()
        .map(|turns| turns.iter().map(&value).collect())
        .collect()
}

fn steps_within(turn: Duration, seconds_per_step: f64) -> u32 {
    let steps = turn.as_secs_f64() / seconds_per_step;
    (steps as u32).clamp(MIN_STEPS, MAX_STEPS)
}

pub(super) fn runs_within(turn: Duration, seconds_per_run: f64) -> u32 {
    (turn.as_secs_f64() / seconds_per_run).clamp(1.0, MAX_RUNS) as u32
}

#[cfg(test)]
mod tests {
    use super::super::plan::Guesser;
    use super::super::shape::ONE_BILLION;
    use super::*;

    const SETTINGS: Settings = Settings {
        n_pairs: 3,
        n_threads: 2,
        patience_s: 1,
        turn: Duration::from_millis(10),
        read_bandwidth: None,
    };

    /// A worker that answers every command with the same number.
    fn engine(name: &str, seconds: &str) -> Engine {
        let script = format!("while read line; do echo ok {seconds}; done");
        Engine {
            name: name.into(),
            program: vec!["sh".into(), "-c".into(), script.into()],
            model: "model".into(),
        }
    }

    fn subject(umrt: &str, llama_cpp: &[(&str, &str)]) -> Subject {
        let llama_cpp = llama_cpp
            .iter()
            .map(|(name, seconds)| engine(name, seconds));
        Subject {
            model: "1b-4bit".into(),
            shape: ONE_BILLION,
            format: Format::FourBit,
            umrt: engine("umrt", umrt),
            llama_cpp: llama_cpp.collect(),
            mlx_lm: engine("mlx-lm", "100"),
        }
    }

    #[test]
    fn the_faster_of_a_peers_files_counts() -> Result<()> {
        let subject = subject("1", &[("BF16", "4"), ("F16", "2"), ("Q8", "3")]);
        let rows = subject.measure(Measurement::Prefill { n_tokens: 128 }, &SETTINGS)?;
        let peer = rows[0].peer.as_ref().unwrap();
        assert_eq!(
            (peer.name.as_str(), peer.values.as_slice()),
            ("F16", &[64.0; 3][..])
        );
        assert_eq!(rows[0].umrt, [128.0; 3]);
        Ok(())
    }

    #[test]
    fn every_measurement_gives_the_rows_it_names() -> Result<()> {
        let subject = subject("1", &[("Q4_0", "2")]);
        let measurements = [
            Measurement::Fresh,
            Measurement::Decode { behind: 2048 },
            Measurement::Prefill { n_tokens: 512 },
            Measurement::Batch,
            Measurement::BusyCore,
            Measurement::MlxLm,
            Measurement::Token,
            Measurement::Parallel {
                n_requests: 4,
                n_prompt: 8,
                n_tokens: 2,
            },
            Measurement::Fork {
                n_tokens: 8,
                n_forks: 2,
            },
            Measurement::PrefixHit { n_tokens: 8 },
            Measurement::Guesses {
                by: Guesser::Ngram,
                n_tokens: 8,
                is_sampled: false,
            },
            Measurement::Guesses {
                by: Guesser::Draft,
                n_tokens: 8,
                is_sampled: true,
            },
        ];
        for measurement in measurements {
            let rows = subject.measure(measurement, &SETTINGS)?;
            let names: Vec<&str> = rows.iter().map(|row| row.measurement.as_str()).collect();
            assert_eq!(names, measurement.rows(), "{measurement:?}");
        }
        Ok(())
    }

    #[test]
    fn libraries_that_disagree_are_not_compared() {
        let error = subject("263", &[("Q4", "88")])
            .check_agreement(&SETTINGS)
            .unwrap_err();
        assert!(error.to_string().contains("[263.0, 88.0]"), "{error}");
        assert!(
            subject("263", &[("Q4", "263")])
                .check_agreement(&SETTINGS)
                .is_ok()
        );
    }

    #[test]
    fn a_turn_takes_about_as_long_as_it_may() {
        assert_eq!(steps_within(Duration::from_secs(1), 0.02), 50);
        assert_eq!(steps_within(Duration::from_secs(1), 3.0), MIN_STEPS);
        assert_eq!(steps_within(Duration::from_secs(1), 1e-6), MAX_STEPS);
    }
}
