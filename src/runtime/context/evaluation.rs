//! Evaluations: a batch in steps, which are all done or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::head::{Head, LogitsHead, States};
use super::{Context, Sequences};
use crate::decoder::Segment;
use crate::error::{Error, Result};
use crate::kernels::{Activations, Arithmetic, MAX_DOT_ROWS};
use crate::kv::Sequence;
use crate::mlx::{Array, Device};
use crate::runtime::batch::{Batch, Share};
use crate::runtime::cancel::{self, Cancel};
use crate::runtime::scratch::{LAYERWISE_FROM, StepSize};

/// What is known of an evaluation's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certainty {
    Certain,
    /// Some may be wrong: each row is computed as if it was alone, and the steps are
    /// of decoding.
    Drafted,
}

/// Which rows of a step are computed as if each was alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Apart {
    None,
    /// Those of parts of so few tokens, as long as they are as few together.
    UpTo(usize),
    All,
}

/// One step of an evaluation.
struct Step {
    tokens: Vec<i32>,
    /// (sequence, number of tokens), by sequence
    parts: Vec<(usize, usize)>,
    /// Rows of this step of which something is wanted, with their place in the batch.
    wanted: Vec<(i32, usize)>,
    rows_apart: bool,
}

/// How an evaluation is computed.
struct Way<'a> {
    certainty: Certainty,
    head: &'a mut dyn Head,
    cancel: Option<&'a Cancel>,
}

impl Context {
    /// Appends the batch to its sequences and keeps the wanted logits, in the
    /// order of their tokens. When it fails or is cancelled, sequences and
    /// logits are as before; only if MLX itself fails in the middle can a
    /// sequence be lost, which the message then says.
    pub fn eval(&mut self, batch: &Batch<'_>, cancel: Option<&Cancel>) -> Result<()> {
        let mut head = LogitsHead::default();
        self.eval_with(batch, Certainty::Certain, &mut head, cancel)?;
        self.keep_logits(head);
        Ok(())
    }

    /// As `eval`, where `head` gets what it wants of the batch's marked tokens; the
    /// logits of the evaluation before stay.
    pub(in crate::runtime) fn eval_for(
        &mut self,
        batch: &Batch<'_>,
        head: &mut dyn Head,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        self.eval_with(batch, Certainty::Certain, head, cancel)
    }

    pub(super) fn eval_with(
        &mut self,
        batch: &Batch<'_>,
        certainty: Certainty,
        head: &mut dyn Head,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        let vocab_size = self.model.decoder().spec().vocab_size;
        batch.validate(vocab_size)?;
        let shares = batch.shares(self.n_sequences())?;
        // Until the end of the call nobody else gets at them.
        let shared = self.sequences.clone();
        let mut sequences = Sequences::of(&shared);
        self.ensure_room(&sequences, &shares)?;
        let wanted = batch.wanted(&shares);
        let n_logits = head.logits_rows_at_once(wanted.len());
        self.reservation
            .admit_logits(&self.plan, self.logits.len(), n_logits)?;
        let _in_use = self.model.residence().begin()?;
        self.adapters.ensure_unaltered()?;
        self.make_room(&mut sequences, &shares)?;
        let lengths: Vec<usize> = sequences.iter().map(Sequence::length).collect();
        let mut way = Way {
            certainty,
            head,
            cancel,
        };
        let result = self.run(&mut sequences, batch, &shares, &wanted, &mut way);
        let result = match result {
            Ok(()) => {
                self.keep_completed(&sequences, &shares, &lengths);
                Ok(())
            }
            Err(error) => Err(roll_back(&mut sequences, &lengths, error)),
        };
        sequences.account();
        result
    }

    pub(super) fn keep_logits(&mut self, head: LogitsHead) {
        self.logits = head.into_rows();
        self.account_logits();
    }

    fn keep_completed(&self, sequences: &[Sequence], shares: &[Share], lengths: &[usize]) {
        let Some(cache) = &self.prefix_cache else {
            return;
        };
        for &Share { sequence, .. } in shares {
            cache.keep_completed(&self.ops, &sequences[sequence], lengths[sequence]);
        }
    }

    fn run(
        &mut self,
        sequences: &mut [Sequence],
        batch: &Batch<'_>,
        shares: &[Share],
        wanted: &[usize],
        way: &mut Way<'_>,
    ) -> Result<()> {
        for share in shares {
            if !self.ops.uses_kernels() {
                let length = sequences[share.sequence].length();
                self.plan.probe_arrays(length + share.indices.len())?;
            }
            sequences[share.sequence].bring_back()?;
            sequences[share.sequence].reserve(&self.ops, share.indices.len())?;
        }
        let apart = self.rows_apart(way.certainty);
        let steps = steps(batch, shares, wanted, self.plan.prefill_chunk);
        for step in steps.flat_map(|step| step.with_rows_apart(apart)) {
            if let Some(cancel) = way.cancel {
                cancel.check()?;
            }
            let began = Instant::now();
            self.step(sequences, &step, way)?;
            self.count(&step, way.certainty, began.elapsed());
        }
        self.perf.n_evals += 1;
        Ok(())
    }

    fn rows_apart(&self, certainty: Certainty) -> Apart {
        match (certainty, self.plan.activations) {
            (Certainty::Drafted, _) => Apart::All,
            (Certainty::Certain, Activations::EightBits) => Apart::UpTo(MAX_DOT_ROWS),
            (Certainty::Certain, Activations::Auto) => Apart::None,
        }
    }

    fn step_size(&self, sequences: &[Sequence], step: &Step, head: &dyn Head) -> StepSize {
        let lengths = step.parts.iter();
        let end = |(sequence, n): &(usize, usize)| sequences[*sequence].length() + n;
        StepSize {
            n_tokens: step.tokens.len(),
            n_sequences: step.parts.len(),
            n_positions: lengths.map(end).max().unwrap_or(0),
            n_wanted: head.logits_rows_at_once(step.wanted.len()),
        }
    }

    /// Builds and evaluates one step.
    fn step(&mut self, sequences: &mut [Sequence], step: &Step, way: &mut Way<'_>) -> Result<()> {
        self.plan
            .probe_step(&self.step_size(sequences, step, way.head))?;
        let Context {
            model,
            ops,
            adapters,
            recipe,
            plan,
            ..
        } = self;
        let ops = &ops.with_arithmetic(Arithmetic {
            activations: plan.activations,
            rows_apart: step.rows_apart,
        });
        let ways = (ops, adapters.adapted());
        let stop = way.cancel.map(|cancel| Arc::new(cancel.stop()));
        let ensure_not_stopped = || stop.as_deref().map_or(Ok(()), cancel::ensure_not_stopped);
        let decoder = model.decoder();
        let layerwise = ops.stream().device() == Device::Cpu
            && !ops.uses_kernels()
            && (step.tokens.len() >= LAYERWISE_FROM || stop.is_some());
        let mut after_layer = |hidden: &Array| {
            if layerwise {
                ops.stream().eval([hidden])?;
                ensure_not_stopped()?;
            }
            Ok(())
        };
        let mut segments = segments(sequences, &step.parts);
        let tokens = Array::from_i32(&step.tokens, &[step.tokens.len() as i32])?;
        let wants_states = !step.wanted.is_empty();
        let mut compute = || {
            let hidden =
                decoder.forward(ways, &tokens, &mut segments, wants_states, &mut after_layer)?;
            let states = States::new(decoder, ways, hidden);
            let last = match wants_states {
                true => way.head.look(&states, &step.wanted)?,
                false => states.hidden().clone(),
            };
            let caches = segments.iter().flat_map(|segment| segment.cache.arrays());
            ops.stream().eval(caches.chain([&last]))
        };
        // Our kernels look at the flag themselves; MLX's operations do not.
        let computed = ops.stream().until(stop.clone(), &mut compute);
        ensure_not_stopped()?;
        computed?;
        let mut rest = &step.tokens[..];
        for segment in segments {
            let (new, others) = rest.split_at(segment.n_tokens);
            segment.cache.advance(recipe, new);
            rest = others;
        }
        Ok(())
    }

    fn count(&mut self, step: &Step, certainty: Certainty, elapsed: Duration) {
        let n_tokens = step.tokens.len() as u64;
        if certainty == Certainty::Drafted || step.parts.iter().all(|(_, n)| *n == 1) {
            self.perf.n_decode_tokens += n_tokens;
            self.perf.decode_time += elapsed;
        } else {
            self.perf.n_prefill_tokens += n_tokens;
            self.perf.prefill_time += elapsed;
        }
    }
}

pub(super) fn roll_back(sequences: &mut [Sequence], lengths: &[usize], error: Error) -> Error {
    let mut error = error;
    for (index, (sequence, &length)) in sequences.iter_mut().zip(lengths).enumerate() {
        sequence.truncate(length);
        if !sequence.recover() && length > 0 {
            error = error.context(format!("sequence {index} was lost and is empty now"));
        }
    }
    error
}

/// The caches of a step's parts, in their order.
pub(super) fn segments<'a>(
    sequences: &'a mut [Sequence],
    parts: &[(usize, usize)],
) -> Vec<Segment<'a>> {
    let mut parts = parts.iter().peekable();
    sequences
        .iter_mut()
        .enumerate()
        .filter_map(|(index, cache)| {
            let &(_, n_tokens) = parts.next_if(|(sequence, _)| *sequence == index)?;
            Some(Segment { n_tokens, cache })
        })
        .collect()
}

/// Cuts a batch into steps of at most `chunk` tokens; each takes what fits of
/// every sequence that still has tokens.
fn steps<'a>(
    batch: &'a Batch<'_>,
    shares: &'a [Share],
    wanted: &'a [usize],
    chunk: usize,
) -> impl Iterator<Item = Step> + 'a {
    let mut done = vec![0; shares.len()];
    std::iter::from_fn(move || {
        let mut step = Step {
            tokens: Vec::new(),
            parts: Vec::new(),
            wanted: Vec::new(),
            rows_apart: false,
        };
        for (share, done) in shares.iter().zip(&mut done) {
            let n = (share.indices.len() - *done).min(chunk - step.tokens.len());
            if n == 0 {
                continue;
            }
            for &index in &share.indices[*done..*done + n] {
                if wanted.binary_search(&index).is_ok() {
                    step.wanted.push((step.tokens.len() as i32, index));
                }
                step.tokens.push(batch.tokens[index]);
            }
            step.parts.push((share.sequence, n));
            *done += n;
        }
        (!step.tokens.is_empty()).then_some(step)
    })
}

impl Step {
    /// The same as two steps, of rows that are computed apart and of others, or as one
    /// of either.
    fn with_rows_apart(self, apart: Apart) -> impl Iterator<Item = Step> {
        let most = match apart {
            Apart::None => 0,
            Apart::UpTo(most) => most,
            Apart::All => usize::MAX,
        };
        let sizes = self.parts.iter().map(|(_, n)| *n);
        let few: usize = sizes.filter(|n| *n <= most).sum();
        let most = if few <= most { most } else { 0 };
        let half = |rows_apart: bool| Step {
            rows_apart,
            ..self.only(|n| (n <= most) == rows_apart)
        };
        [half(true), half(false)]
            .into_iter()
            .filter(|step| !step.tokens.is_empty())
    }

    /// The parts of so many tokens as `takes` says.
    fn only(&self, takes: impl Fn(usize) -> bool) -> Step {
        let mut step = Step {
            tokens: Vec::new(),
            parts: Vec::new(),
            wanted: Vec::new(),
            rows_apart: self.rows_apart,
        };
        let mut first = 0;
        for &(sequence, n) in &self.parts {
            let rows = first..first + n;
            first = rows.end;
            if !takes(n) {
                continue;
            }
            let moved = step.tokens.len() as i32 - rows.start as i32;
            let wanted = self.wanted.iter();
            let wanted = wanted.filter(|(row, _)| rows.contains(&(*row as usize)));
            step.wanted
                .extend(wanted.map(|(row, place)| (row + moved, *place)));
            step.tokens.extend_from_slice(&self.tokens[rows]);
            step.parts.push((sequence, n));
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Want;

    #[test]
    fn steps_take_what_fits_of_every_sequence() {
        let batch = Batch {
            tokens: &[10, 11, 12, 20, 13, 14],
            sequences: Some(&[0, 0, 0, 1, 0, 0]),
            want: Want::Last,
        };
        let shares = batch.shares(2).expect("valid");
        let wanted = batch.wanted(&shares);
        let steps: Vec<_> = steps(&batch, &shares, &wanted, 4).collect();
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[0].tokens, [10, 11, 12, 13]);
        assert_eq!(steps[0].parts, [(0, 4)]);
        assert!(steps[0].wanted.is_empty());
        assert_eq!(steps[1].tokens, [14, 20]);
        assert_eq!(steps[1].parts, [(0, 1), (1, 1)]);
        assert_eq!(steps[1].wanted, [(0, 5), (1, 3)]);
    }

    fn mixed() -> Step {
        Step {
            tokens: vec![10, 20, 21, 22, 30],
            parts: vec![(0, 1), (1, 3), (2, 1)],
            wanted: vec![(0, 7), (3, 8), (4, 9)],
            rows_apart: false,
        }
    }

    #[test]
    fn few_rows_have_a_step_apart_from_those_of_prompts() {
        let steps: Vec<_> = mixed().with_rows_apart(Apart::UpTo(2)).collect();
        assert_eq!(steps.len(), 2);
        assert!(steps[0].rows_apart && !steps[1].rows_apart);
        assert_eq!(steps[0].tokens, [10, 30]);
        assert_eq!(steps[0].parts, [(0, 1), (2, 1)]);
        assert_eq!(steps[0].wanted, [(0, 7), (1, 9)]);
        assert_eq!(steps[1].tokens, [20, 21, 22]);
        assert_eq!(steps[1].parts, [(1, 3)]);
        assert_eq!(steps[1].wanted, [(2, 8)]);
    }

    #[test]
    fn rows_that_are_no_longer_few_are_computed_together() {
        for apart in [Apart::None, Apart::UpTo(1), Apart::UpTo(4)] {
            let steps: Vec<_> = mixed().with_rows_apart(apart).collect();
            assert_eq!(steps.len(), 1, "{apart:?}");
            assert!(!steps[0].rows_apart);
            assert_eq!(steps[0].tokens, mixed().tokens);
        }
        let steps: Vec<_> = mixed().with_rows_apart(Apart::All).collect();
        assert!(steps.len() == 1 && steps[0].rows_apart);
        assert_eq!(steps[0].wanted, mixed().wanted);
    }
}
