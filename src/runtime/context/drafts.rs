//! Tokens that may be wrong: evaluated all at once, and taken back.

use super::evaluation::Certainty;
use super::head::LogitsHead;
use super::{Context, Perf};
use crate::error::Result;
use crate::kv::Mark;
use crate::runtime::batch::{Batch, Want};
use crate::runtime::cancel::Cancel;
use crate::runtime::sequences::Sequences;

impl Context {
    /// As `eval`, for tokens of which `n_drafted` are drafts of what follows others: the
    /// logits are to the last bit those of one token after the other where our kernels
    /// compute.
    pub(in crate::runtime) fn eval_drafted(
        &mut self,
        batch: &Batch<'_>,
        n_drafted: usize,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        let mut head = LogitsHead::default();
        // The former ones would keep memory that the evaluation needs.
        self.before_drafts.clear();
        let marks = self.marks_before(batch)?;
        self.eval_with(batch, Certainty::Drafted, &mut head, cancel)?;
        self.before_drafts = marks;
        self.keep_logits(head);
        self.perf.n_drafted += n_drafted as u64;
        Ok(())
    }

    /// Where sequences with states are that get more than a token.
    fn marks_before(&self, batch: &Batch<'_>) -> Result<Vec<(i32, Mark)>> {
        if !self.model.info().spec.has_states() {
            return Ok(Vec::new());
        }
        let shares = batch.shares(self.n_sequences())?;
        let drafted = shares.iter().filter(|share| share.indices.len() > 1);
        drafted
            .map(|share| {
                let sequence = share.sequence as i32;
                Ok((sequence, self.mark(sequence)?))
            })
            .collect()
    }

    pub(in crate::runtime) fn count_accepted_draft(&mut self) {
        self.perf.n_accepted += 1;
    }

    /// Takes back a sequence's last `n_wrong` tokens.
    pub(in crate::runtime) fn take_back(&mut self, sequence: i32, n_wrong: usize) -> Result<()> {
        let marks = &mut self.before_drafts;
        let place = marks.iter().position(|(marked, _)| *marked == sequence);
        let mark = place.map(|place| marks.swap_remove(place).1);
        if n_wrong > 0 {
            let n_right = self.sequence_length(sequence)? - n_wrong;
            match mark {
                Some(mark) => self.repeat_from(&mark, sequence, n_right)?,
                None => self.trim(sequence, n_right)?,
            }
            self.perf.n_decode_tokens -= n_wrong as u64;
        }
        Ok(())
    }

    /// Forgets all logits but those of one row.
    pub(in crate::runtime) fn keep_logits_row(&mut self, row: usize) {
        if self.logits.len() > 1 {
            self.logits = vec![self.logits.swap_remove(row)];
            self.account_logits();
        }
    }

    /// Goes back to the mark and evaluates those of the first `n_right` tokens that are
    /// behind it once more: states have no other way back.
    fn repeat_from(&mut self, mark: &Mark, sequence: i32, n_right: usize) -> Result<()> {
        let right = |tokens: &[i32]| tokens[mark.n_tokens()..n_right].to_vec();
        let tokens = self.with_tokens(sequence, right)?;
        self.go_back(sequence, mark)?;
        let batch = Batch {
            tokens: &tokens,
            sequences: Some(&vec![sequence; tokens.len()]),
            want: Want::Marked(&vec![0; tokens.len()]),
        };
        let counted = self.perf;
        let mut head = LogitsHead::default();
        self.eval_with(&batch, Certainty::Drafted, &mut head, None)?;
        self.perf = Perf {
            decode_time: self.perf.decode_time,
            ..counted
        };
        Ok(())
    }

    /// What `look` makes of the tokens that a sequence holds.
    pub(in crate::runtime) fn with_tokens<T>(
        &self,
        sequence: i32,
        look: impl FnOnce(&[i32]) -> T,
    ) -> Result<T> {
        let index = self.index_of(sequence)?;
        Ok(look(Sequences::of(&self.sequences)[index].tokens()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Activations;
    use crate::runtime::{ContextOptions, Model, ModelOptions, Want};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    fn fixtures() -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        let entries = std::fs::read_dir(root).expect("the fixtures");
        let mut paths: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        paths
    }

    /// Those that open, with their names. Whether all do is for `tests/parity.rs` to say.
    fn models() -> impl Iterator<Item = (String, Arc<Model>)> {
        fixtures().into_iter().filter_map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            let model = Model::open(&path, ModelOptions::default()).ok()?;
            Some((name.into_owned(), model))
        })
    }

    fn context(model: &Arc<Model>, activations: Activations) -> Context {
        let options = ContextOptions {
            n_ctx: 200,
            n_sequences: 4,
            activations,
            ..ContextOptions::default()
        };
        Context::new(model, &options).expect("a context")
    }

    fn bits(context: &Context, row: usize) -> Vec<u32> {
        let logits = context.logits(row).expect("logits");
        logits.iter().map(|logit| logit.to_bits()).collect()
    }

    fn token_ids(n: usize, vocab_size: usize) -> Vec<i32> {
        (0..n)
            .map(|at| ((at * at * 7 + at * 3 + 5) % vocab_size) as i32)
            .collect()
    }

    /// All logits of tokens of one sequence.
    fn of_all<'a>(tokens: &'a [i32], marks: &'a [u8]) -> Batch<'a> {
        Batch {
            want: Want::Marked(&marks[..tokens.len()]),
            ..Batch::of(tokens)
        }
    }

    #[test]
    fn drafted_tokens_get_the_logits_of_one_after_the_other_to_the_last_bit() {
        let mut n_compared = 0;
        for (name, model) in models() {
            n_compared += 1;
            // Beyond a tile of positions and the windows of those that have some.
            let tokens = token_ids(90 + 12, model.info().spec.vocab_size);
            let (prompt, drafted) = tokens.split_at(90);
            for activations in [Activations::Auto, Activations::EightBits] {
                let mut context = context(&model, activations);
                context.eval(&Batch::of(prompt), None).expect(&name);
                context.fork(0, 1).expect(&name);
                let batch = of_all(drafted, &[1; 12]);
                context.eval_drafted(&batch, 11, None).expect(&name);
                let at_once: Vec<_> = (0..12).map(|row| bits(&context, row)).collect();
                for (token, at_once) in drafted.chunks(1).zip(&at_once) {
                    let batch = Batch {
                        sequences: Some(&[1]),
                        ..Batch::of(token)
                    };
                    context.eval(&batch, None).expect(&name);
                    assert!(bits(&context, 0) == *at_once, "{name}, {activations:?}");
                }
            }
        }
        assert!(n_compared > 50);
    }

    #[test]
    fn in_eight_bits_few_tokens_get_their_logits_whatever_else_is_in_the_step() {
        for (name, model) in models() {
            let vocab_size = model.info().spec.vocab_size;
            let tokens = token_ids(30 + 3, vocab_size);
            let (prompt, rest) = tokens.split_at(30);
            let [mut alone, mut beside] = [(); 2].map(|()| context(&model, Activations::EightBits));
            for context in [&mut alone, &mut beside] {
                context.eval(&Batch::of(prompt), None).expect(&name);
            }
            beside.fork(0, 2).expect(&name);
            // Three sequences with a few tokens each, and a prompt in a fourth.
            let other = token_ids(25, vocab_size);
            let mixed = [rest, &other[..], &rest[..1], &rest[..1]].concat();
            let counts = [3, 25, 1, 1].into_iter().enumerate();
            let sequences: Vec<i32> = counts
                .flat_map(|(sequence, n)| vec![sequence as i32; n])
                .collect();
            let batch = Batch {
                tokens: &mixed,
                sequences: Some(&sequences),
                want: Want::Marked(&vec![1; mixed.len()]),
            };
            beside.eval(&batch, None).expect(&name);
            for (row, token) in rest.iter().enumerate() {
                alone.eval(&Batch::of(&[*token]), None).expect(&name);
                assert!(bits(&alone, 0) == bits(&beside, row), "{name}: row {row}");
                if row == 0 {
                    assert!(bits(&alone, 0) == bits(&beside, 3 + 25), "{name}: the fork");
                }
            }
        }
    }

    #[test]
    fn what_was_wrong_is_taken_back_and_not_counted() {
        for name in ["llama3-f32", "lfm2-q4-g32-bf16"] {
            take_back(name);
        }
    }

    fn take_back(name: &str) {
        let path = fixtures().into_iter().find(|path| path.ends_with(name));
        let model = Model::open(&path.expect("there"), ModelOptions::default()).expect("a model");
        let mut context = context(&model, Activations::Auto);
        context
            .eval(&Batch::of(&[1, 2, 3]), None)
            .expect("an evaluation");
        context
            .eval_drafted(&of_all(&[4, 5, 6, 7], &[1; 4]), 3, None)
            .expect("an evaluation");
        let second = bits(&context, 1);
        context.take_back(0, 2).expect("a sequence");
        context.keep_logits_row(1);
        assert_eq!(context.sequence_tokens(0).expect("tokens"), [1, 2, 3, 4, 5]);
        assert_eq!(context.n_logits_rows(), 1);
        assert_eq!(bits(&context, 0), second);
        let perf = context.perf();
        assert_eq!((perf.n_decode_tokens, perf.n_prefill_tokens), (2, 3));
        assert_eq!((perf.n_drafted, perf.n_accepted), (3, 0));

        let mut undisturbed = self::context(&model, Activations::Auto);
        for tokens in [&[1, 2, 3][..], &[4], &[5], &[8]] {
            undisturbed.eval(&Batch::of(tokens), None).expect("one");
        }
        context.eval(&Batch::of(&[8]), None).expect("an evaluation");
        assert_eq!(bits(&context, 0), bits(&undisturbed, 0), "{name}");
    }
}
