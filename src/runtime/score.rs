//! Log-probabilities: of given continuations, and the largest of a row of logits.

use super::batch::{Batch, Want};
use super::cancel::Cancel;
use super::context::{Context, Head, States};
use crate::error::{Error, Result};
use crate::kernels::log_sum_exp;
use crate::mlx::Array;

/// Logits that exist at a time, unless more fit into `LOGITS_BYTES`.
const LEAST_ROWS: usize = 16;
const LOGITS_BYTES: usize = 16 << 20;

/// The log-probability of each token of each continuation behind what the sequence
/// holds and `prompt`, one continuation after the other. The sequence is as before
/// afterwards, whatever happens; logits stay.
///
/// # Errors
/// `InvalidArgument` without prompt or without tokens to score, `NoSpace` if the
/// context is too small for the longest, and what evaluating gives.
pub fn score(
    context: &mut Context,
    sequence: i32,
    prompt: &[i32],
    continuations: &[&[i32]],
    cancel: Option<&Cancel>,
) -> Result<Vec<f32>> {
    let length = context.sequence_length(sequence)?;
    let Some((last, before)) = prompt.split_last() else {
        return Err(Error::invalid(
            "the prompt has no tokens: a continuation's first token is scored by the one in \
             front of it",
        ));
    };
    ensure_scorable(context, length, prompt, continuations)?;
    let start = context.mark(sequence)?;
    let scored = append(context, sequence, before, cancel).and_then(|()| {
        let behind_prompt = context.mark(sequence)?;
        let mut scores = Vec::new();
        for continuation in continuations {
            let scored = score_one(context, sequence, *last, continuation, cancel)?;
            context.go_back(sequence, &behind_prompt)?;
            scores.extend(scored);
        }
        Ok(scores)
    });
    let returned = context.go_back(sequence, &start);
    scored.and_then(|scores| returned.map(|()| scores))
}

/// The `k` most likely tokens of a row of logits with their log-probabilities, the most
/// likely first, the lowest id first among equals.
pub fn top_logprobs(context: &Context, row: usize, k: usize) -> Result<Vec<(i32, f32)>> {
    let logits = context.logits(row)?;
    if k == 0 || k > logits.len() {
        return Err(Error::invalid(format!(
            "k is {k}, but must be from 1 to {}, the size of the vocabulary",
            logits.len()
        )));
    }
    let log_sum = finite_log_sum(logits)?;
    let mut ranked: Vec<(i32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let by_rank = |a: &(i32, f32), b: &(i32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if k < ranked.len() {
        ranked.select_nth_unstable_by(k, by_rank);
        ranked.truncate(k);
    }
    ranked.sort_unstable_by(by_rank);
    let logprob = |(token, logit)| (token, (f64::from(logit) - log_sum) as f32);
    Ok(ranked.into_iter().map(logprob).collect())
}

/// Finds before anything is computed what would fail in the end.
fn ensure_scorable(
    context: &Context,
    length: usize,
    prompt: &[i32],
    continuations: &[&[i32]],
) -> Result<()> {
    let vocab_size = context.model().info().spec.vocab_size;
    if continuations.is_empty() {
        return Err(Error::invalid("there is no continuation to score"));
    }
    Batch::of(prompt).validate(vocab_size)?;
    for (index, tokens) in continuations.iter().enumerate() {
        let named = |error: Error| error.context(format!("continuation {index}"));
        Batch::of(tokens).validate(vocab_size).map_err(named)?;
        let needed = length + prompt.len() + tokens.len() - 1;
        if needed > context.n_ctx() {
            return Err(named(Error::no_space(format!(
                "it takes {needed} tokens with what is in front of it, but the context has room \
                 for {}; make one with a larger n_ctx",
                context.n_ctx()
            ))));
        }
    }
    Ok(())
}

fn append(
    context: &mut Context,
    sequence: i32,
    tokens: &[i32],
    cancel: Option<&Cancel>,
) -> Result<()> {
    if tokens.is_empty() {
        return Ok(());
    }
    let batch = Batch {
        tokens,
        sequences: Some(&vec![sequence; tokens.len()]),
        want: Want::Marked(&vec![0; tokens.len()]),
    };
    let mut nothing = Scores::of(&[], 1);
    context.eval_for(&batch, &mut nothing, cancel)
}

fn score_one(
    context: &mut Context,
    sequence: i32,
    last: i32,
    continuation: &[i32],
    cancel: Option<&Cancel>,
) -> Result<Vec<f32>> {
    let in_front = continuation[..continuation.len() - 1].iter();
    let tokens: Vec<i32> = std::iter::once(&last).chain(in_front).copied().collect();
    let batch = Batch {
        tokens: &tokens,
        sequences: Some(&vec![sequence; tokens.len()]),
        want: Want::Marked(&vec![1; tokens.len()]),
    };
    let mut scores = Scores::of(continuation, context.model().info().spec.vocab_size);
    context.eval_for(&batch, &mut scores, cancel)?;
    Ok(scores.found)
}

/// Reduces logits to the log-probability of the token that follows, some rows at a time.
struct Scores<'a> {
    /// Behind each token of the batch.
    targets: &'a [i32],
    found: Vec<f32>,
    most_rows: usize,
}

impl<'a> Scores<'a> {
    fn of(targets: &'a [i32], vocab_size: usize) -> Scores<'a> {
        let row_bytes = vocab_size * size_of::<f32>();
        Scores {
            targets,
            found: vec![0.0; targets.len()],
            most_rows: (LOGITS_BYTES / row_bytes).max(LEAST_ROWS),
        }
    }
}

impl Head for Scores<'_> {
    fn logits_rows_at_once(&self, n_wanted: usize) -> usize {
        n_wanted.min(self.most_rows)
    }

    fn look(&mut self, states: &States<'_>, wanted: &[(i32, usize)]) -> Result<Array> {
        for wanted in wanted.chunks(self.most_rows) {
            let rows: Vec<i32> = wanted.iter().map(|(row, _)| *row).collect();
            let logits = states.logits(&rows)?;
            states.eval(&logits)?;
            let rows = logits.as_f32()?.chunks_exact(logits.dim(1) as usize);
            for (logits, (_, place)) in rows.zip(wanted) {
                let target = f64::from(logits[self.targets[*place] as usize]);
                self.found[*place] = (target - finite_log_sum(logits)?) as f32;
            }
        }
        Ok(states.hidden().clone())
    }
}

fn finite_log_sum(logits: &[f32]) -> Result<f64> {
    let log_sum = log_sum_exp(logits);
    match log_sum.is_finite() {
        true => Ok(log_sum),
        false => Err(Error::backend(
            "this row of logits has no log-probabilities, since some are NaN or infinite; the \
             model's computation overflowed or its weights are damaged",
        )),
    }
}
