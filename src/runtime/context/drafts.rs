//! Tokens that may be wrong: evaluated all at once, and taken back.

use super::evaluation::Arithmetic;
use super::head::LogitsHead;
use super::{Context, Perf};
use crate::error::Result;
use crate::kv::Mark;
use crate::runtime::batch::{Batch, Want};
use crate::runtime::cancel::Cancel;
use crate::runtime::sequences::Sequences;

impl Context {
    /// Appends a token and drafts of what follows it, and keeps the logits after each,
    /// which are to the last bit those of one token after the other where our kernels
    /// compute.
    pub(in crate::runtime) fn eval_drafted(
        &mut self,
        sequence: i32,
        tokens: &[i32],
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        let batch = Batch {
            tokens,
            sequences: Some(&vec![sequence; tokens.len()]),
            want: Want::Marked(&vec![1; tokens.len()]),
        };
        let mut head = LogitsHead::default();
        // The former one would keep memory that the evaluation needs.
        self.before_drafts = None;
        let has_drafts = tokens.len() > 1 && self.model.info().spec.has_states();
        let mark = has_drafts.then(|| self.mark(sequence)).transpose()?;
        self.eval_with(&batch, Arithmetic::OneByOne, &mut head, cancel)?;
        self.before_drafts = mark;
        self.keep_logits(head);
        self.perf.n_drafted += tokens.len() as u64 - 1;
        Ok(())
    }

    pub(in crate::runtime) fn count_accepted_draft(&mut self) {
        self.perf.n_accepted += 1;
    }

    /// Takes back the last `n_wrong` tokens, and all logits but those of one row.
    pub(in crate::runtime) fn settle(
        &mut self,
        sequence: i32,
        n_wrong: usize,
        row: usize,
    ) -> Result<()> {
        let mark = self.before_drafts.take();
        if n_wrong > 0 {
            let n_right = self.sequence_length(sequence)? - n_wrong;
            match mark {
                Some(mark) => self.repeat_from(&mark, sequence, n_right)?,
                None => self.trim(sequence, n_right)?,
            }
            self.perf.n_decode_tokens -= n_wrong as u64;
        }
        if self.logits.len() > 1 {
            self.logits = vec![self.logits.swap_remove(row)];
            self.account_logits();
        }
        Ok(())
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
        self.eval_with(&batch, Arithmetic::OneByOne, &mut head, None)?;
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
    use crate::runtime::{ContextOptions, Model, ModelOptions};
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

    fn context(model: &Arc<Model>) -> Context {
        let options = ContextOptions {
            n_ctx: 200,
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

    #[test]
    fn drafted_tokens_get_the_logits_of_one_after_the_other_to_the_last_bit() {
        let mut n_compared = 0;
        for path in fixtures() {
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            // Whether all of them open is for `tests/parity.rs` to say.
            let Ok(model) = Model::open(&path, ModelOptions::default()) else {
                continue;
            };
            n_compared += 1;
            // Beyond a tile of positions and the windows of those that have some.
            let tokens = token_ids(90 + 12, model.info().spec.vocab_size);
            let (prompt, drafted) = tokens.split_at(90);
            let [mut one_by_one, mut at_once] = [context(&model), context(&model)];
            for context in [&mut one_by_one, &mut at_once] {
                context.eval(&Batch::of(prompt), None).expect(&name);
            }
            at_once.eval_drafted(0, drafted, None).expect(&name);
            for (row, token) in drafted.iter().enumerate() {
                one_by_one.eval(&Batch::of(&[*token]), None).expect(&name);
                assert!(
                    bits(&one_by_one, 0) == bits(&at_once, row),
                    "{name}: row {row} differs"
                );
            }
        }
        assert!(n_compared > 50);
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
        let mut context = context(&model);
        context
            .eval(&Batch::of(&[1, 2, 3]), None)
            .expect("an evaluation");
        context
            .eval_drafted(0, &[4, 5, 6, 7], None)
            .expect("an evaluation");
        let second = bits(&context, 1);
        context.settle(0, 2, 1).expect("settled");
        assert_eq!(context.sequence_tokens(0).expect("tokens"), [1, 2, 3, 4, 5]);
        assert_eq!(context.n_logits_rows(), 1);
        assert_eq!(bits(&context, 0), second);
        let perf = context.perf();
        assert_eq!((perf.n_decode_tokens, perf.n_prefill_tokens), (2, 3));
        assert_eq!((perf.n_drafted, perf.n_accepted), (3, 0));

        let mut undisturbed = self::context(&model);
        for tokens in [&[1, 2, 3][..], &[4], &[5], &[8]] {
            undisturbed.eval(&Batch::of(tokens), None).expect("one");
        }
        context.eval(&Batch::of(&[8]), None).expect("an evaluation");
        assert_eq!(bits(&context, 0), bits(&undisturbed, 0), "{name}");
    }
}
