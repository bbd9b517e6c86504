//! Measurements of what sequences are good for: requests at once, forks, files, texts
//! that begin alike, guesses.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::measure::{REST, Settings, Subject, Turns, each, in_turns, runs_within};
use super::plan::{Guesser, Measurement};
use super::report::{Meaning, Peer, Row, Unit};
use super::shape::CACHE_BLOCK_TOKENS;
use super::statistics::percentile;
use super::worker::Worker;
use crate::library::bundled_draft;

const WARM_UP: &str = "many 1 16 2";
/// Bytes that plain reads and writes move at once.
const PLAIN_PIECE: usize = 1 << 20;

/// A prompt whose evaluation touches what the next one needs.
const SHORT_PROMPT: u32 = 16;
/// Tokens of the worker's own prompt, at most.
const ROOM_FOR_PROMPT: u32 = 96;
const NGRAM: u32 = 3;

/// What all requests at once came to.
struct Parallel {
    tokens_per_second: f64,
    first_tokens: Vec<f64>,
}

impl Parallel {
    fn measure(worker: &mut Worker, [n_requests, n_prompt, n_tokens]: [u32; 3]) -> Result<Self> {
        let seconds = worker.ask(&format!("many {n_requests} {n_prompt} {n_tokens}"))?;
        let first = |request| worker.ask(&format!("first {request}"));
        Ok(Self {
            tokens_per_second: f64::from(n_requests * n_tokens) / seconds,
            first_tokens: (0..n_requests).map(first).collect::<Result<_>>()?,
        })
    }
}

impl Subject {
    pub(super) fn parallel(
        &self,
        measurement: Measurement,
        settings: &Settings,
    ) -> Result<Vec<Row>> {
        let Measurement::Parallel {
            n_requests,
            n_prompt,
            n_tokens,
        } = measurement
        else {
            bail!("{measurement:?} is another measurement");
        };
        let mut workers = self.open_all(n_prompt + n_tokens, n_requests, settings)?;
        for worker in &mut workers {
            worker.ask(WARM_UP)?;
        }
        let turns = in_turns(&mut workers, settings.n_pairs, |worker| {
            Parallel::measure(worker, [n_requests, n_prompt, n_tokens])
        })?;
        let first = |share| each(&turns, |all| percentile(&all.first_tokens, share));
        let rates = each(&turns, |all| all.tokens_per_second);
        let names = measurement.rows();
        let (rate_name, first_names) = names.split_at(1);
        let nothing = [Meaning::Nothing; 2];
        let mut rows = self.named_rows(rate_name, Unit::TokensPerSecond, vec![rates], &nothing);
        let first_tokens = vec![first(0.5), first(0.95)];
        rows.extend(self.named_rows(first_names, Unit::Seconds, first_tokens, &nothing));
        Ok(rows)
    }

    pub(super) fn fork(&self, measurement: Measurement, settings: &Settings) -> Result<Vec<Row>> {
        let Measurement::Fork { n_tokens, n_forks } = measurement else {
            bail!("{measurement:?} is another measurement");
        };
        // With room for the whole block that a fork begins.
        let n_ctx = (n_tokens + 1).next_multiple_of(CACHE_BLOCK_TOKENS);
        let mut workers = self.open_all(n_ctx, n_forks + 1, settings)?;
        for worker in &mut workers {
            worker.ask(&format!("prefill {n_tokens} 1 {}", settings.patience_s))?;
        }
        let seconds = in_turns(&mut workers, settings.n_pairs, |worker| {
            worker.ask(&format!("fork {n_forks}"))
        })?;
        let grown = grown_by_a_fork(&mut workers[0], n_forks)?;
        let block = Meaning::CacheBlockBytes(self.shape.cache_block_bytes());
        let names = measurement.rows();
        let (time_name, bytes_name) = names.split_at(1);
        let mut rows =
            self.named_rows(time_name, Unit::Seconds, vec![seconds], &[Meaning::Nothing]);
        let bytes: Turns<f64> = vec![vec![grown]];
        rows.extend(self.named_rows(bytes_name, Unit::Bytes, vec![bytes], &[block]));
        Ok(rows)
    }

    /// Beside plain writes and reads of as many bytes.
    pub(super) fn save_and_load(&self, n_tokens: u32, settings: &Settings) -> Result<Vec<Row>> {
        let folder = self
            .umrt
            .model
            .parent()
            .context("a model lies in a folder")?;
        let (saved, plain) = (Scratch::new(folder, "saved"), Scratch::new(folder, "plain"));
        let mut worker = self.umrt.open(n_tokens, 1, settings.n_threads)?;
        worker.ask(&format!("prefill {n_tokens} 1 {}", settings.patience_s))?;
        let mut rates: [Vec<f64>; 4] = Default::default();
        for _ in 0..settings.n_pairs {
            thread::sleep(REST);
            let save = worker.ask(&format!("save {}", saved.0.display()))?;
            let bytes = fs::metadata(&saved.0)?.len();
            let write = plain.write(bytes)?;
            worker.ask("trim 1 0")?;
            let load = worker.ask(&format!("load {}", saved.0.display()))?;
            let read = plain.read()?;
            for (rates, seconds) in rates.iter_mut().zip([save, write, load, read]) {
                rates.push(bytes as f64 / seconds);
            }
        }
        let [save, write, load, read] = rates;
        let row = |name, umrt, peer, values| {
            let pairs = [umrt, values];
            self.row_beside(name, Unit::BytesPerSecond, pairs, peer, Meaning::Nothing)
        };
        Ok(vec![
            row("save", save, "plain writes", write),
            row("load", load, "plain reads", read),
        ])
    }

    /// Beside the first token of the same prompt when it was new.
    pub(super) fn prefix_hit(&self, n_tokens: u32, settings: &Settings) -> Result<Vec<Row>> {
        let mut worker = self.umrt.start()?;
        worker.ask(&format!("open {}", self.umrt.model.display()))?;
        worker.ask("prefixes")?;
        worker.ask(&format!(
            "context {} 1 {}",
            n_tokens + 1,
            settings.n_threads
        ))?;
        worker.ask(&format!("again {SHORT_PROMPT}"))?;
        let (mut known, mut new) = (Vec::new(), Vec::new());
        for _ in 0..settings.n_pairs {
            thread::sleep(REST);
            worker.ask(&format!("again {n_tokens}"))?;
            new.push(worker.ask("first 0")?);
            known.push(worker.ask("first 1")?);
        }
        let pairs = [known, new];
        let (peer, meaning) = ("the prompt when new", Meaning::Nothing);
        Ok(vec![self.row_beside(
            "prefix-hit",
            Unit::Seconds,
            pairs,
            peer,
            meaning,
        )])
    }

    /// Beside the same text without guesses, with activations of 8 bits, for which a row
    /// more costs least.
    pub(super) fn guesses(
        &self,
        measurement: Measurement,
        by: Guesser,
        settings: &Settings,
    ) -> Result<Vec<Row>> {
        let Measurement::Guesses {
            n_tokens,
            is_sampled,
            ..
        } = measurement
        else {
            bail!("{measurement:?} is another measurement");
        };
        let mut worker = self.umrt.start()?;
        let context = format!(
            "context {} 1 {}",
            n_tokens + ROOM_FOR_PROMPT,
            settings.n_threads
        );
        worker.ask("eight-bits")?;
        if by == Guesser::Draft {
            worker.ask(&format!("open {}", bundled_draft().display()))?;
            worker.ask(&context)?;
            worker.ask("swap")?;
        }
        worker.ask(&format!("open {}", self.umrt.model.display()))?;
        worker.ask(&context)?;
        let temperature = u8::from(is_sampled);
        let plain = format!("continue {n_tokens} 0 0 {temperature}");
        let guessing = match by {
            Guesser::Ngram => format!("continue {n_tokens} {NGRAM} 0 {temperature}"),
            Guesser::Draft => format!("continue {n_tokens} 0 1 {temperature}"),
        };
        let n_runs = runs_within(settings.turn, worker.ask(&plain)?);
        let mut rates: [Vec<f64>; 2] = Default::default();
        for _ in 0..settings.n_pairs {
            for (rates, command) in rates.iter_mut().zip([&guessing, &plain]) {
                thread::sleep(REST);
                let seconds = (0..n_runs).map(|_| worker.ask(command));
                let seconds = seconds.sum::<Result<f64>>()?;
                rates.push(f64::from(n_runs * n_tokens) / seconds);
            }
        }
        worker.ask(&guessing)?;
        let share = worker.ask("figure accepted")? / worker.ask("figure drafted")?;
        let (name, unit) = (&measurement.rows()[0], Unit::TokensPerSecond);
        let meaning = Meaning::RightGuesses(share);
        Ok(vec![self.row_beside(
            name,
            unit,
            rates,
            "without guesses",
            meaning,
        )])
    }

    /// Umrt's values beside those of something that is no other library.
    fn row_beside(
        &self,
        name: &str,
        unit: Unit,
        [umrt, values]: [Vec<f64>; 2],
        peer: &str,
        meaning: Meaning,
    ) -> Row {
        Row {
            model: self.model.clone(),
            measurement: name.into(),
            unit,
            umrt,
            peer: Some(Peer {
                name: peer.into(),
                values,
            }),
            meaning,
            read_bandwidth: Vec::new(),
        }
    }
}

/// Bytes that each fork takes once it and its source have one token more.
fn grown_by_a_fork(worker: &mut Worker, n_forks: u32) -> Result<f64> {
    let before = worker.ask("figure kv-now")?;
    worker.ask(&format!("decode {} 1", n_forks + 1))?;
    let after = worker.ask("figure kv-now")?;
    Ok((after - before) / f64::from(n_forks))
}

/// A file that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(folder: &Path, name: &str) -> Self {
        Self(folder.join(format!("bench-{name}-{}", std::process::id())))
    }

    /// Seconds until so many bytes are on the disk.
    fn write(&self, bytes: u64) -> Result<f64> {
        let piece: Vec<u8> = (0..PLAIN_PIECE).map(|at| (at * at) as u8).collect();
        let start = Instant::now();
        let mut file = File::create(&self.0).context("writing beside the models")?;
        let mut left = bytes as usize;
        while left > 0 {
            let n = left.min(piece.len());
            file.write_all(&piece[..n])?;
            left -= n;
        }
        file.sync_all()?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Seconds that reading what was just written takes.
    fn read(&self) -> Result<f64> {
        let mut piece = vec![0; PLAIN_PIECE];
        let start = Instant::now();
        let mut file = File::open(&self.0)?;
        while file.read(&mut piece)? > 0 {}
        Ok(start.elapsed().as_secs_f64())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been written.
        let _ = fs::remove_file(&self.0);
    }
}
