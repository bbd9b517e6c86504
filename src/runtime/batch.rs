//! [`Batch`]: which tokens of which sequences to evaluate, and whose logits.

use crate::error::{Error, Result};

/// Whose logits an evaluation keeps.
#[derive(Clone, Copy, Debug)]
pub enum Want<'a> {
    /// Those after the last token of each sequence in the batch.
    Last,
    /// One entry per token: nonzero where they are wanted.
    Marked(&'a [u8]),
}

/// Tokens to append to sequences.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub tokens: &'a [i32],
    /// The sequence of each token; `None`: all belong to sequence 0.
    pub sequences: Option<&'a [i32]>,
    pub want: Want<'a>,
}

/// The tokens of one sequence in a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub sequence: usize,
    /// Positions in the batch, ascending.
    pub indices: Vec<usize>,
}

impl<'a> Batch<'a> {
    /// All tokens to sequence 0, logits after the last one.
    pub fn of(tokens: &'a [i32]) -> Self {
        Self {
            tokens,
            sequences: None,
            want: Want::Last,
        }
    }

    pub(super) fn validate(&self, vocab_size: usize) -> Result<()> {
        if self.tokens.is_empty() {
            return Err(Error::invalid("the batch has no tokens"));
        }
        ensure_known(self.tokens, vocab_size)?;
        let lengths = [
            ("sequence", self.sequences.map(<[i32]>::len)),
            (
                "logits",
                match self.want {
                    Want::Last => None,
                    Want::Marked(marks) => Some(marks.len()),
                },
            ),
        ];
        for (what, length) in lengths {
            if length.is_some_and(|length| length != self.tokens.len()) {
                return Err(Error::invalid(format!(
                    "the batch has {} tokens but another number of {what} entries",
                    self.tokens.len()
                )));
            }
        }
        Ok(())
    }

    /// The batch by sequence, in the order of the sequences.
    pub(super) fn shares(&self, n_sequences: usize) -> Result<Vec<Share>> {
        let Some(sequences) = self.sequences else {
            return Ok(vec![Share {
                sequence: 0,
                indices: (0..self.tokens.len()).collect(),
            }]);
        };
        let mut by_sequence: Vec<Vec<usize>> = vec![Vec::new(); n_sequences];
        for (index, &sequence) in sequences.iter().enumerate() {
            let share = usize::try_from(sequence)
                .ok()
                .and_then(|i| by_sequence.get_mut(i));
            share
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "sequence {sequence} is outside of the context's {n_sequences}"
                    ))
                })?
                .push(index);
        }
        let shares = by_sequence.into_iter().enumerate();
        Ok(shares
            .filter(|(_, indices)| !indices.is_empty())
            .map(|(sequence, indices)| Share { sequence, indices })
            .collect())
    }

    /// Positions in the batch whose logits are wanted, ascending.
    pub(super) fn wanted(&self, shares: &[Share]) -> Vec<usize> {
        let mut wanted: Vec<usize> = match self.want {
            Want::Last => shares
                .iter()
                .filter_map(|share| share.indices.last().copied())
                .collect(),
            Want::Marked(marks) => (0..marks.len())
                .filter(|&index| marks[index] != 0)
                .collect(),
        };
        wanted.sort_unstable();
        wanted
    }
}

pub(super) fn ensure_known(tokens: &[i32], vocab_size: usize) -> Result<()> {
    let is_known = |&token: &i32| usize::try_from(token).is_ok_and(|id| id < vocab_size);
    match tokens.iter().find(|token| !is_known(token)) {
        None => Ok(()),
        Some(token) => Err(Error::invalid(format!(
            "token id {token} is outside of the vocabulary of {vocab_size}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_grouped_by_sequence_in_order() {
        let batch = Batch {
            tokens: &[5, 6, 7, 8],
            sequences: Some(&[2, 0, 2, 0]),
            want: Want::Last,
        };
        let shares = batch.shares(3).expect("valid");
        let grouped: Vec<_> = shares
            .iter()
            .map(|s| (s.sequence, s.indices.clone()))
            .collect();
        assert_eq!(grouped, vec![(0, vec![1, 3]), (2, vec![0, 2])]);
        assert_eq!(batch.wanted(&shares), vec![2, 3]);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let valid = Batch::of(&[1, 2]);
        assert!(valid.validate(3).is_ok());
        let cases = [
            (
                Batch {
                    tokens: &[],
                    ..valid
                },
                "no tokens",
            ),
            (
                Batch {
                    tokens: &[1, 3],
                    ..valid
                },
                "token id 3",
            ),
            (
                Batch {
                    tokens: &[-1],
                    ..valid
                },
                "token id -1",
            ),
            (
                Batch {
                    sequences: Some(&[0]),
                    ..valid
                },
                "sequence entries",
            ),
            (
                Batch {
                    want: Want::Marked(&[1]),
                    ..valid
                },
                "logits entries",
            ),
        ];
        for (batch, part) in cases {
            let error = batch.validate(3).expect_err(part);
            assert!(error.message().contains(part), "{error}");
        }
        let outside = Batch {
            sequences: Some(&[0, 1]),
            ..valid
        };
        assert!(outside.shares(1).is_err());
    }
}
