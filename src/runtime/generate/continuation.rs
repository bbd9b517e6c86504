//! [`Continuation`]: what becomes of a generation's tokens once they are chosen.

use std::sync::Arc;

use super::output::Output;
use super::{GenerateOptions, Receive, StopReason};
use crate::error::Result;
use crate::runtime::Model;

/// What there is for a generation to go on with behind a token.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::runtime) struct Outlook {
    /// Nothing can follow in the constraint.
    pub is_complete: bool,
    /// The context has no place for the token.
    pub is_full: bool,
}

/// A generation between two tokens.
pub(in crate::runtime) struct Continuation {
    model: Arc<Model>,
    output: Output,
    max_tokens: usize,
    ignore_end: bool,
    n_tokens: usize,
}

impl Continuation {
    /// Makes text only if somebody receives it or it is searched for stop strings.
    pub fn new(
        model: &Arc<Model>,
        options: &GenerateOptions<'_>,
        has_receiver: bool,
    ) -> Result<Self> {
        Ok(Self {
            output: Output::new(model.text(), options, has_receiver)?,
            max_tokens: options.max_tokens,
            ignore_end: options.ignore_end,
            n_tokens: 0,
            model: model.clone(),
        })
    }

    /// Tokens so far, the one that ended the text included.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Tokens that may still come.
    pub fn n_more(&self) -> usize {
        match self.max_tokens {
            0 => usize::MAX,
            most => most.saturating_sub(self.n_tokens),
        }
    }

    /// Takes the next token; says why, if it is the last one.
    pub fn push(
        &mut self,
        token: i32,
        outlook: Outlook,
        receive: &mut Receive<'_>,
    ) -> Result<Option<StopReason>> {
        self.n_tokens += 1;
        let reason = if !self.ignore_end && self.model.text().is_end(token) {
            StopReason::End
        } else if let Some(reason) = self.output.push(token, receive)? {
            return Ok(Some(reason));
        } else if outlook.is_complete {
            StopReason::End
        } else if self.n_tokens == self.max_tokens {
            StopReason::MaxTokens
        } else if outlook.is_full {
            StopReason::ContextFull
        } else {
            return Ok(None);
        };
        let in_the_rest = self.output.finish(token, receive)?;
        Ok(Some(in_the_rest.unwrap_or(reason)))
    }
}
