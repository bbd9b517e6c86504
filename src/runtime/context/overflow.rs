//! Sequences that lose tokens to make room for others.

use super::{Context, Model, Sequences, states};
use crate::error::{Error, Result};
use crate::kv::Sequence;
use crate::runtime::batch::Share;

/// What happens when tokens do not fit behind a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// They are refused.
    #[default]
    Refuse,
    /// The oldest tokens go, but for the first `n_keep`: half of them, so that it does
    /// not happen again for as many tokens, or more if that is needed.
    Shift { n_keep: usize },
}

impl Overflow {
    pub(super) fn ensure_possible(self, model: &Model, n_ctx: usize) -> Result<()> {
        match self {
            Overflow::Shift { n_keep } if n_keep >= n_ctx => Err(Error::invalid(format!(
                "n_keep is {n_keep}; it is less than n_ctx, which is {n_ctx}"
            ))),
            Overflow::Shift { .. } => ensure_removable(model),
            Overflow::Refuse => Ok(()),
        }
    }

    /// Tokens to remove, and from where on, so that `n` more fit; `None`: they cannot.
    fn removal(self, length: usize, n: usize, n_ctx: usize) -> Option<(usize, usize)> {
        let Overflow::Shift { n_keep } = self else {
            return None;
        };
        let (missing, old) = (length + n - n_ctx, length.saturating_sub(n_keep));
        let drop = missing.max(old / 2);
        (drop <= old).then_some((n_keep, drop))
    }
}

impl Context {
    /// Removes `drop` tokens from `from` on. Those behind them move to their places.
    pub fn shift(&mut self, sequence: i32, from: usize, drop: usize) -> Result<()> {
        let index = self.index_of(sequence)?;
        let shared = self.sequences.clone();
        let mut sequences = Sequences::of(&shared);
        let length = sequences[index].length();
        if from.checked_add(drop).is_none_or(|end| end > length) {
            return Err(Error::invalid(format!(
                "sequence {sequence} holds {length} tokens; cannot remove {drop} from {from} on"
            )));
        }
        let result = self.remove(&mut sequences[index], from, drop);
        sequences.account();
        result
    }

    /// Whether a sequence is full for good.
    pub fn is_full(&self, sequence: i32) -> Result<bool> {
        Ok(self.is_full_with(self.sequence_length(sequence)?))
    }

    /// Whether a sequence of so many tokens is.
    pub(in crate::runtime) fn is_full_with(&self, length: usize) -> bool {
        length == self.n_ctx() && self.overflow.removal(length, 1, self.n_ctx()).is_none()
    }

    pub(super) fn ensure_room(&self, sequences: &[Sequence], shares: &[Share]) -> Result<()> {
        for Share { sequence, indices } in shares {
            let (length, n) = (sequences[*sequence].length(), indices.len());
            let removal = || self.overflow.removal(length, n, self.n_ctx());
            if length + n > self.n_ctx() && removal().is_none() {
                return Err(Error::no_space(format!(
                    "sequence {sequence} holds {length} tokens and {n} more do not fit into the \
                     context of {}; trim the sequence or make a context with a larger n_ctx",
                    self.n_ctx()
                )));
            }
        }
        Ok(())
    }

    /// Where tokens do not fit behind a sequence, removes old ones.
    pub(super) fn make_room(&mut self, sequences: &mut [Sequence], shares: &[Share]) -> Result<()> {
        for Share { sequence, indices } in shares {
            let cache = &mut sequences[*sequence];
            let (length, n) = (cache.length(), indices.len());
            if length + n > self.n_ctx()
                && let Some((from, drop)) = self.overflow.removal(length, n, self.n_ctx())
            {
                self.remove(cache, from, drop)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, sequence: &mut Sequence, from: usize, drop: usize) -> Result<()> {
        if drop == 0 {
            return Ok(());
        }
        ensure_removable(&self.model)?;
        sequence.bring_back()?;
        let rotations = self.model.decoder().key_rotations(self.n_ctx())?;
        sequence.remove(&self.ops, (from, drop), &rotations)?;
        self.perf.n_removed_tokens += drop as u64;
        Ok(())
    }
}

/// Refuses where positions cannot be taken out of keys and values again.
fn ensure_removable(model: &Model) -> Result<()> {
    states::ensure_none(model, "tokens cannot be removed from within sequences")?;
    let spec = model.decoder().spec();
    match spec.can_move_keys() {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "tokens cannot be removed from sequences of {}, whose keys and values have their \
             positions in them for good; trim them and evaluate what shall stay",
            spec.model_type
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_old_tokens_go_or_as_many_as_are_missing() {
        let shift = Overflow::Shift { n_keep: 10 };
        assert_eq!(shift.removal(100, 1, 100), Some((10, 45)));
        assert_eq!(shift.removal(100, 60, 100), Some((10, 60)));
        assert_eq!(shift.removal(100, 90, 100), Some((10, 90)));
        assert_eq!(shift.removal(100, 91, 100), None, "the first ones stay");
        assert_eq!(shift.removal(5, 96, 100), None, "fewer than stay");
        assert_eq!(Overflow::Refuse.removal(100, 1, 100), None);
    }
}
