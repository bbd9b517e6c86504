//! [`DraftModel`]: guesses by a smaller model of the same vocabulary.

use crate::error::{Error, Result, ResultExt};
use crate::runtime::batch::Batch;
use crate::runtime::cancel::Cancel;
use crate::runtime::context::Context;
use crate::runtime::model::Model;
use crate::sample::{Logits, Proposal, Sampler};

/// A model whose sequence follows the one that is continued.
pub struct DraftModel<'a> {
    context: &'a mut Context,
    sequence: i32,
    sampler: Sampler,
    /// Token ids that both models have.
    vocab_size: usize,
}

/// What a token of the draft model costs, relative to one of the model itself.
pub fn relative_cost(model: &Model, draft: &Model) -> f64 {
    let bytes = |model: &Model| model.info().weight_bytes.max(1) as f64;
    (bytes(draft) / bytes(model)).clamp(0.02, 1.0)
}

impl<'a> DraftModel<'a> {
    pub fn new(
        model: &Model,
        context: &'a mut Context,
        sequence: i32,
        sampler: &mut Sampler,
    ) -> Result<DraftModel<'a>> {
        context
            .sequence_length(sequence)
            .at("the draft model's context")?;
        ensure_same_vocabulary(model, context.model())?;
        ensure_can_follow(context.model())?;
        let vocab_size = |model: &Model| model.info().spec.vocab_size;
        Ok(DraftModel {
            vocab_size: vocab_size(model).min(vocab_size(context.model())),
            sampler: sampler.proposing(),
            sequence,
            context,
        })
    }

    /// Guesses `n` tokens at most behind `tokens`, as `sampler` would choose them; fewer
    /// where a text ends or the context does.
    pub fn guess(
        &mut self,
        tokens: &[i32],
        n: usize,
        sampler: &Sampler,
        cancel: Option<&Cancel>,
    ) -> Result<Vec<Proposal>> {
        let room = (self.context.n_ctx() + 1).saturating_sub(tokens.len());
        let n = n.min(room);
        if n == 0 {
            return Ok(Vec::new());
        }
        let guesses = self.follow(tokens, cancel).and_then(|()| {
            self.sampler.remember_as(sampler);
            self.guess_on(n, cancel)
        });
        guesses.at("the draft model")
    }

    /// Makes the draft model's sequence the same tokens, from what it has of them.
    fn follow(&mut self, tokens: &[i32], cancel: Option<&Cancel>) -> Result<()> {
        let same = |held: &[i32]| held.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let n_same = self.context.with_tokens(self.sequence, same)?;
        // The last token's logits are wanted anew.
        let keep = n_same.min(tokens.len() - 1);
        if self.context.sequence_length(self.sequence)? > keep {
            self.context.trim(self.sequence, keep)?;
        }
        self.append(&tokens[keep..], cancel)
    }

    fn guess_on(&mut self, n: usize, cancel: Option<&Cancel>) -> Result<Vec<Proposal>> {
        let mut guesses = Vec::with_capacity(n);
        loop {
            let logits = &self.context.logits(0)?[..self.vocab_size];
            let guess = self.sampler.propose(Logits::F32(logits))?;
            let token = guess.token;
            guesses.push(guess);
            if guesses.len() == n || self.context.model().text().is_end(token) {
                return Ok(guesses);
            }
            self.sampler.accept(token)?;
            self.append(&[token], cancel)?;
        }
    }

    fn append(&mut self, tokens: &[i32], cancel: Option<&Cancel>) -> Result<()> {
        let batch = Batch {
            sequences: Some(&vec![self.sequence; tokens.len()]),
            ..Batch::of(tokens)
        };
        self.context.eval(&batch, cancel)
    }
}

/// Guesses that were wrong are taken back from the draft model's sequence.
fn ensure_can_follow(draft: &Model) -> Result<()> {
    let spec = &draft.info().spec;
    match spec.has_states() {
        false => Ok(()),
        true => Err(Error::unsupported(format!(
            "the draft model is a {}, from whose recurrent layers guesses cannot be taken back; \
             use a draft model of attention only, or ngram",
            spec.model_type
        ))),
    }
}

/// Ids of one model must mean the same to the other. Rows without a token, which pad
/// vocabularies, may differ in number.
fn ensure_same_vocabulary(model: &Model, draft: &Model) -> Result<()> {
    let [ours, theirs] = [model, draft].map(|one| one.info());
    if !ours.has_tokenizer && !theirs.has_tokenizer {
        let [ours, theirs] = [ours, theirs].map(|info| info.spec.vocab_size);
        return match ours == theirs {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "the draft model has another vocabulary: {theirs} tokens, but the model has {ours}"
            ))),
        };
    }
    let theirs = draft.text().tokenizer().at("the draft model")?;
    let Some(difference) = model.text().tokenizer()?.first_difference(theirs) else {
        return Ok(());
    };
    let shown = |piece: &Option<String>| match piece {
        Some(piece) => format!("{piece:?}"),
        None => "no token".to_owned(),
    };
    Err(Error::invalid(format!(
        "the draft model has another vocabulary: token {} is {} to it, but {} to the model",
        difference.id,
        shown(&difference.pieces[1]),
        shown(&difference.pieces[0]),
    )))
}
