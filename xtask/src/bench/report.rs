//! What a run found out, as data: kept as JSON, shown by `table`, `chart` and
//! `readme`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::statistics::{Summary, median, paired_ratios, summarize};

#[derive(Serialize, Deserialize)]
pub struct Report {
    pub machine: Machine,
    pub versions: BTreeMap<String, String>,
    pub quick: bool,
    /// Bytes per second of plain read loops, taken throughout the run.
    pub read_bandwidth: Vec<f64>,
    pub rows: Vec<Row>,
    pub skipped: Vec<Skipped>,
}

#[derive(Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub threads: usize,
    pub memory_bytes: u64,
}

/// One measurement: umrt and a peer, taken in turns.
#[derive(Clone, Serialize, Deserialize)]
pub struct Row {
    pub model: String,
    pub measurement: String,
    pub unit: Unit,
    pub umrt: Vec<f64>,
    /// Absent where only umrt was measured.
    pub peer: Option<Peer>,
    pub meaning: Meaning,
    /// Bytes per second of a plain read loop that had its turn in each round. Empty
    /// where none had one.
    #[serde(default)]
    pub read_bandwidth: Vec<f64>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    pub values: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    TokensPerSecond,
    Seconds,
    Bytes,
    BytesPerSecond,
    /// Of the same library's speed without a disturbance.
    Share,
}

/// What a value of umrt can be compared with besides the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    Nothing,
    /// Each token reads this many bytes of weights.
    BytesPerToken(u64),
    /// Each token takes this many floating-point operations.
    FlopPerToken(u64),
    /// The weights have this many bytes.
    WeightBytes(u64),
    /// A step computes one token of each of several sequences.
    TokensPerStep(u32),
    /// A block of the KV cache has this many bytes.
    CacheBlockBytes(u64),
    /// This share of the guessed tokens was right.
    RightGuesses(f64),
}

#[derive(Serialize, Deserialize)]
pub struct Skipped {
    pub what: String,
    pub reason: String,
}

pub const BATCH_OF_ONE: &str = "batch-1";

impl Unit {
    pub fn higher_is_better(self) -> bool {
        matches!(
            self,
            Self::TokensPerSecond | Self::BytesPerSecond | Self::Share
        )
    }
}

impl Row {
    pub fn id(&self) -> String {
        format!("{}/{}", self.model, self.measurement)
    }

    pub fn umrt(&self) -> Summary {
        summarize(&self.umrt)
    }

    /// How many times better umrt is than the peer.
    pub fn advantage(&self) -> Option<Summary> {
        let peer = &self.peer.as_ref()?.values;
        Some(if self.unit.higher_is_better() {
            paired_ratios(&self.umrt, peer)
        } else {
            paired_ratios(peer, &self.umrt)
        })
    }

    /// Bytes per second that reading the weights took, as a share of what a plain read
    /// loop got in the same round: what the memory gives changes with what other
    /// machines on the same host do.
    pub fn bandwidth_share(&self) -> Option<f64> {
        let Meaning::BytesPerToken(bytes) = self.meaning else {
            return None;
        };
        if self.read_bandwidth.is_empty() {
            return None;
        }
        let tokens = paired_ratios(&self.umrt, &self.read_bandwidth).median;
        Some(tokens * bytes as f64)
    }
}

impl Report {
    pub fn row(&self, id: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.id() == id)
    }

    /// The most that the memory gave.
    pub fn best_bandwidth(&self) -> Option<f64> {
        self.read_bandwidth.iter().copied().reduce(f64::max)
    }

    pub fn median_bandwidth(&self) -> Option<f64> {
        (!self.read_bandwidth.is_empty()).then(|| median(&self.read_bandwidth))
    }

    /// How many times more tokens per second than with one token per step.
    pub fn batch_gain(&self, row: &Row) -> Option<f64> {
        let Meaning::TokensPerStep(2..) = row.meaning else {
            return None;
        };
        let single = self.row(&format!("{}/{BATCH_OF_ONE}", row.model))?;
        Some(paired_ratios(&row.umrt, &single.umrt).median)
    }

    pub fn read(file: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not from `cargo xtask bench --json`", file.display()))
    }

    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))
    }
}
