//! [`Matcher`]: how far one text is in a constraint.

use std::fmt;
use std::sync::Arc;

use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;

use super::quiet::quietly;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};

/// The state of one text, from its first token to its last.
pub struct Matcher {
    vocabulary: Arc<Vocabulary>,
    state: llguidance::Matcher,
    /// Of the next token, once somebody asked.
    allowed: Option<Allowed>,
    n_tokens: usize,
}

/// The tokens that may come next.
pub struct Allowed(SimpleVob);

impl Allowed {
    pub fn contains(&self, token: i32) -> bool {
        usize::try_from(token).is_ok_and(|index| index < self.0.len() && self.0.get(index))
    }

    /// In ascending order, up to `limit`.
    pub fn for_each_below(&self, limit: usize, mut call: impl FnMut(usize)) {
        for (index, &word) in self.0.as_slice().iter().enumerate() {
            let mut bits = word;
            while bits != 0 {
                let id = index * u32::BITS as usize + bits.trailing_zeros() as usize;
                if id >= limit {
                    return;
                }
                call(id);
                bits &= bits - 1;
            }
        }
    }
}

/// With a state of its own in all respects.
impl Clone for Matcher {
    fn clone(&self) -> Matcher {
        Matcher {
            n_tokens: self.n_tokens,
            ..Matcher::new(&self.vocabulary, self.state.deep_clone())
        }
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Matcher");
        debug.field("n_tokens", &self.n_tokens);
        debug.finish_non_exhaustive()
    }
}

impl Matcher {
    pub(super) fn new(vocabulary: &Arc<Vocabulary>, state: llguidance::Matcher) -> Matcher {
        Matcher {
            vocabulary: vocabulary.clone(),
            state,
            allowed: None,
            n_tokens: 0,
        }
    }

    /// Whether its constraint was made for these tokens.
    pub fn is_for(&self, vocabulary: &Arc<Vocabulary>) -> bool {
        Arc::ptr_eq(&self.vocabulary, vocabulary)
    }

    /// What may come next: at least one token. Where the text is complete, these are the
    /// tokens that end it.
    ///
    /// # Errors
    /// `Unsupported` if finding out exceeds a limit, or if the vocabulary cannot go on;
    /// `InvalidArgument` behind the end of a text where no token ends one.
    pub fn allowed(&mut self) -> Result<&Allowed> {
        let allowed = match self.allowed.take() {
            Some(allowed) => allowed,
            None => self.find_allowed()?,
        };
        Ok(self.allowed.insert(allowed))
    }

    fn find_allowed(&mut self) -> Result<Allowed> {
        let state = &mut self.state;
        let mask = quietly(|| state.compute_mask_or_eos());
        let mut mask = mask.map_err(|error| self.failure(&error))?;
        mask.and(self.vocabulary.usable());
        match mask.is_zero() {
            false => Ok(Allowed(mask)),
            true if self.is_complete() => Err(Error::invalid(
                "the constraint's text is complete, and this model has no token that ends one",
            )),
            true => Err(self.dead_end()),
        }
    }

    /// Goes on behind a token.
    ///
    /// # Errors
    /// `InvalidArgument` if the token is not allowed here: all is as it was before;
    /// `Unsupported` if a limit was exceeded.
    pub fn accept(&mut self, token: i32) -> Result<()> {
        let id = u32::try_from(token).unwrap_or(u32::MAX);
        let is_known = (id as usize) < self.vocabulary.usable().len();
        let is_usable = is_known && self.vocabulary.usable().is_allowed(id);
        let n_accepted = match is_usable {
            true if self.vocabulary.is_end(id) && self.is_complete() => Ok(1),
            true => {
                let state = &mut self.state;
                quietly(|| state.try_consume_tokens(&[id]))
            }
            false => Ok(0),
        };
        match n_accepted.map_err(|error| self.failure(&error))? {
            0 if self.is_complete() => Err(Error::invalid(format!(
                "token {token} comes behind the end of the constraint's text"
            ))),
            0 => Err(Error::invalid(format!(
                "the constraint does not allow token {token} behind {} tokens",
                self.n_tokens
            ))),
            _ => {
                self.n_tokens += 1;
                self.allowed = None;
                Ok(())
            }
        }
    }

    /// Whether nothing can follow but the end.
    pub fn is_complete(&self) -> bool {
        let reason = self.state.stop_reason();
        reason != StopReason::NotStopped && reason.is_ok()
    }

    fn failure(&self, error: &impl fmt::Display) -> Error {
        match self.state.stop_reason() {
            StopReason::NoExtensionBias => self.dead_end(),
            _ => {
                let message = error.to_string();
                let message = message.lines().next().unwrap_or_default();
                Error::unsupported(format!(
                    "the constraint is too complex behind {} tokens: {message}",
                    self.n_tokens
                ))
            }
        }
    }

    fn dead_end(&self) -> Error {
        let what = match self.vocabulary.has_end() {
            true => "go on or end",
            false => "go on",
        };
        Error::unsupported(format!(
            "behind {} tokens, this model has no token with which the constraint's text could \
             {what}",
            self.n_tokens
        ))
    }
}
