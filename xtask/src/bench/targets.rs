//! What umrt wants to reach, and whether a run reached it.

use super::report::{Meaning, Report, Row};

pub struct Target {
    pub row: &'static str,
    pub goal: Goal,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At least so many times as good as the peer.
    Advantage(f64),
    /// Weights are read with at least this share of the memory's bandwidth.
    BandwidthShare(f64),
    /// At least so many times the tokens per second of one token per step.
    BatchGain(f64),
    /// At most this share of the weights' bytes.
    ShareOfWeights(f64),
    AtLeast(f64),
    AtMostSeconds(f64),
    /// At most so many blocks of the KV cache.
    CacheBlocks(f64),
}

pub const TARGETS: &[Target] = &[
    target("1b-4bit/decode", Goal::Advantage(1.4)),
    target("1b-4bit/decode", Goal::BandwidthShare(0.7)),
    target("1b-4bit/decode-8k", Goal::Advantage(1.2)),
    target("1b-4bit/prefill-512", Goal::Advantage(1.5)),
    target("1b-4bit/batch-4", Goal::BatchGain(2.5)),
    target("1b-4bit/first-token", Goal::Advantage(3.0)),
    target("1b-4bit/memory", Goal::ShareOfWeights(0.05)),
    target("1b-4bit/busy-core", Goal::AtLeast(0.45)),
    target("1b-4bit/mlx-lm-decode", Goal::Advantage(50.0)),
    target("1b-bf16/decode", Goal::Advantage(1.2)),
    target("1b-bf16/prefill-512", Goal::Advantage(1.2)),
    target("tales/decode", Goal::Advantage(1.0)),
    target("hollow/token", Goal::AtMostSeconds(150e-6)),
    target("1b-4bit/parallel-8", Goal::Advantage(1.5)),
    target("1b-4bit/fork-bytes", Goal::CacheBlocks(1.0)),
    target("1b-4bit/save", Goal::Advantage(0.7)),
    target("1b-4bit/prefix-hit", Goal::Advantage(50.0)),
    target("1b-walk-4bit/ngram", Goal::Advantage(1.3)),
];

const fn target(row: &'static str, goal: Goal) -> Target {
    Target { row, goal }
}

impl Goal {
    /// Whether the row reaches it; `None` if what it takes was not measured.
    pub fn is_reached(self, report: &Report, row: &Row) -> Option<bool> {
        let median = row.umrt().median;
        Some(match self {
            Self::Advantage(least) => row.advantage()?.median >= least,
            Self::BandwidthShare(least) => row.bandwidth_share()? >= least,
            Self::BatchGain(least) => report.batch_gain(row)? >= least,
            Self::ShareOfWeights(most) => match row.meaning {
                Meaning::WeightBytes(bytes) => median <= most * bytes as f64,
                _ => return None,
            },
            Self::AtLeast(least) => median >= least,
            Self::AtMostSeconds(most) => median <= most,
            Self::CacheBlocks(most) => match row.meaning {
                Meaning::CacheBlockBytes(bytes) => median <= most * bytes as f64,
                _ => return None,
            },
        })
    }

    pub fn describe(self) -> String {
        match self {
            Self::Advantage(least) => format!(">= {least}x"),
            Self::BandwidthShare(least) => format!(">= {:.0}% of bandwidth", least * 100.0),
            Self::BatchGain(least) => format!(">= {least}x of batch 1"),
            Self::ShareOfWeights(most) => format!("<= {:.0}% of weights", most * 100.0),
            Self::AtLeast(least) => format!(">= {least}"),
            Self::AtMostSeconds(most) => format!("<= {:.0} us", most * 1e6),
            Self::CacheBlocks(most) => format!("<= {most} blocks"),
        }
    }
}

/// One target's outcome in a few words.
pub fn verdicts(report: &Report, row: &Row) -> String {
    let verdicts: Vec<String> = TARGETS
        .iter()
        .filter(|target| target.row == row.id())
        .map(|target| {
            let verdict = match target.goal.is_reached(report, row) {
                Some(true) => "ok",
                Some(false) => "MISSED",
                None => "not measured",
            };
            format!("{} {verdict}", target.goal.describe())
        })
        .collect();
    verdicts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::report::Unit;
    use super::super::sample;
    use super::*;

    fn verdict_of(id: &str, change: impl Fn(&mut Row)) -> String {
        let mut report = sample::report();
        let index = report.rows.iter().position(|row| row.id() == id).unwrap();
        change(&mut report.rows[index]);
        verdicts(&report, &report.rows[index])
    }

    #[test]
    fn each_target_of_a_row_is_judged_by_itself() {
        // 25 tokens of 600 MB each second are 15 of 20 GB/s.
        assert_eq!(
            verdict_of("1b-4bit/decode", |row| row.umrt = vec![25.0; 3]),
            ">= 1.4x MISSED, >= 70% of bandwidth ok"
        );
        assert_eq!(
            verdict_of("1b-4bit/decode", |row| row.umrt = vec![30.0; 3]),
            ">= 1.4x ok, >= 70% of bandwidth ok"
        );
    }

    #[test]
    fn less_is_better_for_seconds() {
        let id = "1b-4bit/first-token";
        assert_eq!(verdict_of(id, |row| row.umrt = vec![0.1; 3]), ">= 3x ok");
        assert_eq!(
            verdict_of(id, |row| row.umrt = vec![1.0; 3]),
            ">= 3x MISSED"
        );
    }

    #[test]
    fn a_batch_is_compared_with_one_token_per_step() {
        let id = "1b-4bit/batch-4";
        assert_eq!(verdict_of(id, |_| {}), ">= 2.5x of batch 1 ok");
        let mut report = sample::report();
        report.rows.retain(|row| row.id() != "1b-4bit/batch-1");
        let row = report.row(id).unwrap();
        assert_eq!(verdicts(&report, row), ">= 2.5x of batch 1 not measured");
    }

    #[test]
    fn memory_is_a_share_of_the_weights() {
        let id = "1b-4bit/memory";
        assert_eq!(
            verdict_of(id, |row| row.umrt = vec![20e6]),
            "<= 5% of weights ok"
        );
        assert_eq!(
            verdict_of(id, |row| row.umrt = vec![60e6]),
            "<= 5% of weights MISSED"
        );
    }

    #[test]
    fn forks_are_counted_in_blocks() {
        let id = "1b-4bit/fork-bytes";
        assert_eq!(verdict_of(id, |row| row.umrt = vec![8e6]), "<= 1 blocks ok");
        assert_eq!(
            verdict_of(id, |row| row.umrt = vec![9e6]),
            "<= 1 blocks MISSED"
        );
    }

    #[test]
    fn the_sample_has_a_row_in_every_unit() {
        let units: Vec<Unit> = sample::report().rows.iter().map(|row| row.unit).collect();
        for unit in [
            Unit::TokensPerSecond,
            Unit::Seconds,
            Unit::Bytes,
            Unit::BytesPerSecond,
            Unit::Share,
        ] {
            assert!(units.contains(&unit), "{unit:?}");
        }
    }
}
