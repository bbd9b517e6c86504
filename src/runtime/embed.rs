//! Embeddings: one vector for a text, from the hidden states behind the last norm.

use super::batch::{Batch, Want};
use super::cancel::Cancel;
use super::context::{Context, Head, States};
use crate::error::{Error, Result};
use crate::mlx::Array;

/// Which tokens' hidden states make a text's vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The average over all tokens.
    #[default]
    Mean,
    Last,
    First,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct EmbedOptions {
    pub pooling: Pooling,
    /// Vectors are scaled to the length 1.
    pub normalize: bool,
}

/// The vectors of texts, `[texts, hidden_size]`. Texts are evaluated next to each other,
/// each in a sequence that holds no tokens and holds none afterwards, whatever
/// happens; logits stay, and none are computed.
///
/// # Errors
/// `InvalidArgument` for a text without tokens, `NoSpace` if no sequence is empty or a
/// text is longer than `n_ctx`, and what evaluating gives.
pub fn embed(
    context: &mut Context,
    texts: &[&[i32]],
    options: &EmbedOptions,
    cancel: Option<&Cancel>,
) -> Result<Vec<f32>> {
    ensure_embeddable(context, texts)?;
    let free = empty_sequences(context)?;
    let mut vectors = Vec::with_capacity(texts.len() * hidden_size(context));
    for wave in texts.chunks(free.len()) {
        let pooled = embed_wave(context, &free[..wave.len()], wave, options, cancel);
        for sequence in &free {
            context.trim(*sequence, 0)?;
        }
        vectors.extend(pooled?);
    }
    Ok(vectors)
}

/// Finds before anything is computed what would fail in the end.
fn ensure_embeddable(context: &Context, texts: &[&[i32]]) -> Result<()> {
    for (index, text) in texts.iter().enumerate() {
        let named = |error: Error| error.context(format!("text {index}"));
        let vocab_size = context.model().info().spec.vocab_size;
        Batch::of(text).validate(vocab_size).map_err(named)?;
        if text.len() > context.n_ctx() {
            return Err(named(Error::no_space(format!(
                "it has {} tokens, but a sequence of this context holds {}; make one with a \
                 larger n_ctx, or cut the text",
                text.len(),
                context.n_ctx()
            ))));
        }
    }
    Ok(())
}

fn empty_sequences(context: &Context) -> Result<Vec<i32>> {
    let mut free = Vec::new();
    for sequence in 0..context.n_sequences() as i32 {
        if context.sequence_length(sequence)? == 0 {
            free.push(sequence);
        }
    }
    match free.is_empty() {
        true => Err(Error::no_space(
            "embedding needs a sequence without tokens, and all of the context's hold some; trim \
             one to 0, or make a context with a larger n_seq",
        )),
        false => Ok(free),
    }
}

/// One text in each sequence.
fn embed_wave(
    context: &mut Context,
    sequences: &[i32],
    texts: &[&[i32]],
    options: &EmbedOptions,
    cancel: Option<&Cancel>,
) -> Result<Vec<f32>> {
    let tokens = texts.concat();
    let each = sequences.iter().zip(texts);
    let of_tokens: Vec<i32> = each.flat_map(|(id, text)| vec![*id; text.len()]).collect();
    let marks: Vec<u8> = texts
        .iter()
        .flat_map(|text| options.pooling.marks(text.len()))
        .collect();
    let batch = Batch {
        tokens: &tokens,
        sequences: Some(&of_tokens),
        want: Want::Marked(&marks),
    };
    let mut pool = Pool::new(context, texts);
    context.eval_for(&batch, &mut pool, cancel)?;
    Ok(pool.vectors(options.normalize))
}

fn hidden_size(context: &Context) -> usize {
    context.model().info().spec.hidden_size
}

impl Pooling {
    fn marks(self, n_tokens: usize) -> impl Iterator<Item = u8> {
        (0..n_tokens).map(move |token| match self {
            Pooling::Mean => 1,
            Pooling::Last => u8::from(token + 1 == n_tokens),
            Pooling::First => u8::from(token == 0),
        })
    }
}

/// Adds the states of each text's tokens up, step by step.
struct Pool {
    /// By place in the batch.
    text_of: Vec<usize>,
    /// `[texts, hidden_size]`
    sums: Vec<f64>,
    counts: Vec<usize>,
    hidden_size: usize,
    vocab_size: usize,
    most_rows: usize,
}

impl Pool {
    fn new(context: &Context, texts: &[&[i32]]) -> Pool {
        let hidden_size = hidden_size(context);
        let numbered = texts.iter().enumerate();
        Pool {
            text_of: numbered
                .flat_map(|(index, text)| vec![index; text.len()])
                .collect(),
            sums: vec![0.0; texts.len() * hidden_size],
            counts: vec![0; texts.len()],
            hidden_size,
            vocab_size: context.model().info().spec.vocab_size,
            most_rows: context.prefill_chunk(),
        }
    }

    fn vectors(self, normalize: bool) -> Vec<f32> {
        let texts = self.sums.chunks_exact(self.hidden_size).zip(self.counts);
        let scaled = texts.flat_map(|(sums, count)| {
            let divisor = match normalize {
                true => sums.iter().map(|x| x * x).sum::<f64>().sqrt(),
                false => count as f64,
            };
            // A vector of zeros has no direction and stays what it is.
            let factor = if divisor > 0.0 { divisor.recip() } else { 0.0 };
            sums.iter().map(move |sum| (sum * factor) as f32)
        });
        scaled.collect()
    }
}

impl Head for Pool {
    fn logits_rows_at_once(&self, n_wanted: usize) -> usize {
        // The states in the model's type and in float32.
        (2 * n_wanted.min(self.most_rows) * self.hidden_size).div_ceil(self.vocab_size)
    }

    fn look(&mut self, states: &States<'_>, wanted: &[(i32, usize)]) -> Result<Array> {
        let rows: Vec<i32> = wanted.iter().map(|(row, _)| *row).collect();
        let normalized = states.normalized(&rows)?;
        states.eval(&normalized)?;
        let rows = normalized.as_f32()?.chunks_exact(self.hidden_size);
        for (row, (_, place)) in rows.zip(wanted) {
            let text = self.text_of[*place];
            let sums = &mut self.sums[text * self.hidden_size..][..self.hidden_size];
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
            self.counts[text] += 1;
        }
        Ok(normalized)
    }
}
