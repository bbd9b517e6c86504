//! Sequences with recurrent layers, whose states do not say what they were before a
//! token: what cannot be done with them, and where they can be come back to.

use super::{Context, Model, Sequences};
use crate::error::{Error, Result};
use crate::kv::{Mark, Sequence};

impl Context {
    /// The end of a sequence, as long as it is needed: it may hold memory.
    pub(in crate::runtime) fn mark(&self, sequence: i32) -> Result<Mark> {
        let index = self.index_of(sequence)?;
        let mut sequences = Sequences::of(&self.sequences);
        sequences[index].bring_back()?;
        sequences.account();
        Ok(sequences[index].mark())
    }

    /// Forgets what a sequence was given since it was marked.
    pub(in crate::runtime) fn go_back(&mut self, sequence: i32, mark: &Mark) -> Result<()> {
        let index = self.index_of(sequence)?;
        let mut sequences = Sequences::of(&self.sequences);
        let is_kept = self.let_go(&sequences[index], mark.n_tokens());
        sequences[index].go_back(mark)?;
        sequences.account();
        drop(sequences);
        super::fit_if(is_kept);
        Ok(())
    }
}

/// Refuses what is impossible for models with recurrent layers, for this reason.
pub(super) fn ensure_none(model: &Model, reason: &str) -> Result<()> {
    let spec = &model.info().spec;
    match spec.has_states() {
        false => Ok(()),
        true => Err(Error::unsupported(format!(
            "{} has recurrent layers, whose states belong to all tokens in front of them: {reason}",
            spec.model_type
        ))),
    }
}

/// Refuses to cut a sequence where there is no state.
pub(super) fn ensure_can_keep(sequence: &Sequence, keep: usize) -> Result<()> {
    match sequence.can_keep(keep) {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "the sequence cannot be cut from {} tokens to {keep}: the model has recurrent layers, \
             whose states are those behind all tokens. It can be cut to none; fork or save it where \
             you may want to come back to",
            sequence.length()
        ))),
    }
}
