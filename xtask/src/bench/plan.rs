//! Which measurements are taken of which models.

use super::report::BATCH_OF_ONE;
use super::shape::{Format, HOLLOW, ONE_BILLION, SMALL, Shape, THREE_BILLION};

/// Where a model's weights come from.
pub enum Source {
    Random(&'static Shape, Format),
    /// One whose text repeats itself so that 7 of 10 guesses are right.
    Walk(&'static Shape),
    Bundled,
}

pub struct Entry {
    pub model: &'static str,
    pub source: Source,
    pub measurements: &'static [Measurement],
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measurement {
    /// A fresh process: opening, the first token, memory.
    Fresh,
    /// One token per step behind so many.
    Decode {
        behind: u32,
    },
    Prefill {
        n_tokens: u32,
    },
    /// One token per step for each of 1, 4 and 8 sequences.
    Batch,
    /// Decoding while another process has a core.
    BusyCore,
    MlxLm,
    /// Seconds per token of a model without work.
    Token,
    /// So many requests at once, from prompt to end.
    Parallel {
        n_requests: u32,
        n_prompt: u32,
        n_tokens: u32,
    },
    /// Forks of one sequence.
    Fork {
        n_tokens: u32,
        n_forks: u32,
    },
    /// A sequence to a file and back.
    Save {
        n_tokens: u32,
    },
    /// The first token of a prompt that was evaluated before.
    PrefixHit {
        n_tokens: u32,
    },
    /// Decoding with guesses beside decoding without.
    Guesses {
        by: Guesser,
        n_tokens: u32,
        is_sampled: bool,
    },
}

/// What guesses tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Guesser {
    /// Repetitions in the text.
    Ngram,
    /// The bundled model's smaller one.
    Draft,
}

pub const BATCH_SIZES: [u32; 3] = [1, 4, 8];

/// A few tokens, so that decoding starts in a context that exists.
pub const SHORT: u32 = 16;

impl Measurement {
    /// The names of the rows that it gives.
    pub fn rows(self) -> Vec<String> {
        match self {
            Self::Fresh => vec!["open".into(), "first-token".into(), "memory".into()],
            Self::Decode { behind: SHORT } => vec!["decode".into()],
            Self::Decode { behind } => vec![format!("decode-{}k", behind / 1024)],
            Self::Prefill { n_tokens } => vec![format!("prefill-{n_tokens}")],
            Self::Batch => {
                let [_, rest @ ..] = BATCH_SIZES;
                let first = std::iter::once(BATCH_OF_ONE.to_owned());
                first
                    .chain(rest.map(|size| format!("batch-{size}")))
                    .collect()
            }
            Self::BusyCore => vec!["busy-core".into()],
            Self::MlxLm => vec!["mlx-lm-decode".into(), "mlx-lm-prefill".into()],
            Self::Token => vec!["token".into()],
            Self::Parallel { n_requests: n, .. } => vec![
                format!("parallel-{n}"),
                format!("first-p50-{n}"),
                format!("first-p95-{n}"),
            ],
            Self::Fork { n_forks, .. } => {
                vec![format!("fork-time-{n_forks}"), "fork-bytes".into()]
            }
            Self::Save { .. } => vec!["save".into(), "load".into()],
            Self::PrefixHit { .. } => vec!["prefix-hit".into()],
            Self::Guesses { by, .. } => match by {
                Guesser::Ngram => vec!["ngram".into()],
                Guesser::Draft => vec!["draft".into()],
            },
        }
    }
}

const DECODE: Measurement = Measurement::Decode { behind: SHORT };
const DECODE_2K: Measurement = Measurement::Decode { behind: 2048 };
const DECODE_8K: Measurement = Measurement::Decode { behind: 8192 };
const PREFILL_128: Measurement = Measurement::Prefill { n_tokens: 128 };
const PREFILL_512: Measurement = Measurement::Prefill { n_tokens: 512 };
const PREFILL_2048: Measurement = Measurement::Prefill { n_tokens: 2048 };

const TALES: Entry = Entry {
    model: "tales",
    source: Source::Bundled,
    measurements: &[DECODE, PREFILL_128],
};
const NO_WORK: Entry = Entry {
    model: "hollow",
    source: Source::Random(&HOLLOW, Format::FourBit),
    measurements: &[Measurement::Token],
};

pub const FULL: &[Entry] = &[
    Entry {
        model: "1b-4bit",
        source: Source::Random(&ONE_BILLION, Format::FourBit),
        measurements: &[
            Measurement::Fresh,
            DECODE,
            DECODE_2K,
            DECODE_8K,
            PREFILL_128,
            PREFILL_512,
            PREFILL_2048,
            Measurement::Batch,
            Measurement::BusyCore,
            Measurement::MlxLm,
        ],
    },
    Entry {
        model: "1b-bf16",
        source: Source::Random(&ONE_BILLION, Format::Bfloat16),
        measurements: &[
            Measurement::Fresh,
            DECODE,
            PREFILL_128,
            PREFILL_512,
            Measurement::Batch,
        ],
    },
    Entry {
        model: "0.3b-4bit",
        source: Source::Random(&SMALL, Format::FourBit),
        measurements: &[
            DECODE,
            DECODE_2K,
            DECODE_8K,
            PREFILL_128,
            PREFILL_512,
            Measurement::Batch,
        ],
    },
    Entry {
        model: "0.3b-bf16",
        source: Source::Random(&SMALL, Format::Bfloat16),
        measurements: &[DECODE, PREFILL_128],
    },
    Entry {
        model: "3b-4bit",
        source: Source::Random(&THREE_BILLION, Format::FourBit),
        measurements: &[Measurement::Fresh, DECODE, PREFILL_128, Measurement::Batch],
    },
    Entry {
        model: "3b-bf16",
        source: Source::Random(&THREE_BILLION, Format::Bfloat16),
        measurements: &[DECODE, PREFILL_128],
    },
    TALES,
    NO_WORK,
];

pub const QUICK: &[Entry] = &[
    Entry {
        model: "1b-4bit",
        source: Source::Random(&ONE_BILLION, Format::FourBit),
        measurements: &[
            Measurement::Fresh,
            DECODE,
            PREFILL_128,
            PREFILL_512,
            Measurement::Batch,
            Measurement::BusyCore,
            Measurement::MlxLm,
        ],
    },
    Entry {
        model: "1b-bf16",
        source: Source::Random(&ONE_BILLION, Format::Bfloat16),
        measurements: &[DECODE, PREFILL_128],
    },
    TALES,
    NO_WORK,
];

const fn parallel(n_requests: u32) -> Measurement {
    Measurement::Parallel {
        n_requests,
        n_prompt: 256,
        n_tokens: 64,
    }
}

const fn tales_guessed_by(by: Guesser) -> Measurement {
    Measurement::Guesses {
        by,
        n_tokens: 300,
        is_sampled: false,
    }
}

const TALES_GUESSED: Entry = Entry {
    model: "tales",
    source: Source::Bundled,
    measurements: &[
        tales_guessed_by(Guesser::Ngram),
        tales_guessed_by(Guesser::Draft),
    ],
};

/// For `cargo xtask bench sequences`.
pub const SEQUENCES: &[Entry] = &[
    Entry {
        model: "1b-4bit",
        source: Source::Random(&ONE_BILLION, Format::FourBit),
        measurements: &[
            parallel(1),
            parallel(4),
            parallel(8),
            parallel(16),
            Measurement::Fork {
                n_tokens: 8000,
                n_forks: 16,
            },
            Measurement::Save { n_tokens: 8000 },
            Measurement::PrefixHit { n_tokens: 2048 },
        ],
    },
    Entry {
        model: "1b-walk-4bit",
        source: Source::Walk(&ONE_BILLION),
        measurements: &[Measurement::Guesses {
            by: Guesser::Ngram,
            n_tokens: 160,
            is_sampled: true,
        }],
    },
    TALES_GUESSED,
];

pub const SEQUENCES_QUICK: &[Entry] = &[
    Entry {
        model: "0.3b-4bit",
        source: Source::Random(&SMALL, Format::FourBit),
        measurements: &[
            Measurement::Parallel {
                n_requests: 4,
                n_prompt: 64,
                n_tokens: 16,
            },
            Measurement::Fork {
                n_tokens: 600,
                n_forks: 4,
            },
            Measurement::Save { n_tokens: 600 },
            Measurement::PrefixHit { n_tokens: 600 },
        ],
    },
    TALES_GUESSED,
];

/// The measurements of an entry that a name stands for: a model, a row such as
/// `decode` or both as in `tales/decode`; a `*` at the end stands for anything.
pub fn wanted(entry: &Entry, names: &[String]) -> Vec<Measurement> {
    let is_named = |row: &String| {
        let id = format!("{}/{row}", entry.model);
        let means = |name: &String| match name.strip_suffix('*') {
            Some(start) => id.starts_with(start) || row.starts_with(start),
            None => [entry.model, row, &id].contains(&name.as_str()),
        };
        names.is_empty() || names.iter().any(means)
    };
    let measurements = entry.measurements.iter();
    measurements
        .filter(|measurement| measurement.rows().iter().any(is_named))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::targets::TARGETS;
    use super::*;

    fn ids(plan: &[Entry], names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let rows = plan.iter().flat_map(|entry| {
            let measurements = wanted(entry, &names).into_iter();
            measurements.flat_map(|measurement| {
                let rows = measurement.rows().into_iter();
                rows.map(|row| format!("{}/{row}", entry.model))
            })
        });
        rows.collect()
    }

    #[test]
    fn every_target_belongs_to_a_row_of_a_full_plan() {
        let rows = [ids(FULL, &[]), ids(SEQUENCES, &[])].concat();
        for target in TARGETS {
            assert!(rows.iter().any(|row| row == target.row), "{}", target.row);
        }
    }

    #[test]
    fn no_two_rows_have_the_same_name() {
        for plan in [FULL, QUICK, SEQUENCES, SEQUENCES_QUICK] {
            let rows = ids(plan, &[]);
            let mut unique = rows.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), rows.len());
        }
    }

    #[test]
    fn a_name_picks_models_or_measurements() {
        assert_eq!(ids(FULL, &["3b-bf16/decode"]), ["3b-bf16/decode"]);
        assert_eq!(
            ids(FULL, &["hollow", "tales/d*"]),
            ["tales/decode", "hollow/token"]
        );
        let batches = ["1b-4bit/batch-1", "1b-4bit/batch-4", "1b-4bit/batch-8"];
        assert_eq!(ids(QUICK, &["batch-4"]), batches);
        assert_eq!(ids(QUICK, &["batch*"]), batches);
        assert!(ids(FULL, &["nothing"]).is_empty());
    }
}
