//! How tokens come to the model makes no difference to what it says.

use umrt::runtime::{Batch, Context, ContextOptions, Want};

use crate::common::{
    assert_close, context, context_of, eval, eval_all, open_fixture, rows, token_ids,
};

/// With full and with sliding attention, and in chunks; all in float32.
const FIXTURES: [&str; 5] = [
    "llama3-f32",
    "qwen3-f32",
    "mistral-window-f32",
    "qwen2-window-f32",
    "llama4-f32",
];
const VOCAB_SIZE: usize = 128;

/// One token of each sequence in turn, for as long as it has any.
struct Interleaved {
    tokens: Vec<i32>,
    sequences: Vec<i32>,
}

impl Interleaved {
    fn of(parts: &[Vec<i32>]) -> Interleaved {
        let longest = parts.iter().map(Vec::len).max().unwrap_or(0);
        let (sequences, tokens) = (0..longest)
            .flat_map(|at| {
                let numbered = (0..).zip(parts);
                numbered.filter_map(move |(sequence, part)| Some((sequence, *part.get(at)?)))
            })
            .unzip();
        Interleaved { tokens, sequences }
    }

    fn batch<'a>(&'a self, want: Want<'a>) -> Batch<'a> {
        Batch {
            tokens: &self.tokens,
            sequences: Some(&self.sequences),
            want,
        }
    }

    /// Positions of a sequence's tokens in the batch.
    fn places(&self, sequence: i32) -> Vec<usize> {
        let indices = 0..self.sequences.len();
        indices
            .filter(|&at| self.sequences[at] == sequence)
            .collect()
    }
}

fn several(name: &str, n_sequences: usize, prefill_chunk: usize) -> Context {
    let options = ContextOptions {
        n_sequences,
        prefill_chunk,
        ..ContextOptions::default()
    };
    context_of(&open_fixture(name), options)
}

/// Three rounds for three sequences: prompts, prompt beside single tokens, and
/// single tokens.
fn rounds() -> Vec<Vec<Vec<i32>>> {
    let lengths = [[5, 1, 23], [1, 19, 1], [1, 1, 1]];
    lengths
        .iter()
        .enumerate()
        .map(|(round, lengths)| {
            let part =
                |(at, &n): (usize, &usize)| token_ids((3 * round + at) as u64, n, VOCAB_SIZE);
            lengths.iter().enumerate().map(part).collect()
        })
        .collect()
}

#[test]
fn sequences_evaluated_together_give_the_logits_they_give_alone() {
    for name in FIXTURES {
        for prefill_chunk in [512, 4] {
            let mut together = several(name, 3, prefill_chunk);
            let mut alone: Vec<_> = (0..3).map(|_| several(name, 1, prefill_chunk)).collect();
            for parts in rounds() {
                let mixed = Interleaved::of(&parts);
                let want = vec![1; mixed.tokens.len()];
                together
                    .eval(&mixed.batch(Want::Marked(&want)), None)
                    .expect(name);
                for (sequence, tokens) in (0..).zip(&parts) {
                    let places = mixed.places(sequence);
                    let found: Vec<f32> = places
                        .into_iter()
                        .flat_map(|row| together.logits(row).expect("logits").to_vec())
                        .collect();
                    assert_close(&found, &eval_all(&mut alone[sequence as usize], tokens));
                }
            }
        }
    }
}

#[test]
fn logits_come_in_the_order_of_the_tokens_in_the_batch() {
    let mixed = Interleaved {
        tokens: vec![10, 20, 11, 30, 21, 12, 22],
        sequences: vec![2, 0, 2, 1, 0, 2, 0],
    };
    for prefill_chunk in [512, 3, 1] {
        let mut all = several("llama3-f32", 3, prefill_chunk);
        all.eval(&mixed.batch(Want::Marked(&[1; 7])), None)
            .expect("an evaluation");
        let row = |row: usize| all.logits(row).expect("logits");

        let mut some = several("llama3-f32", 3, prefill_chunk);
        some.eval(&mixed.batch(Want::Marked(&[0, 1, 0, 0, 7, 255, 0])), None)
            .expect("an evaluation");
        assert_eq!(some.n_logits_rows(), 3);
        assert_close(&rows(&some), &[row(1), row(4), row(5)].concat());

        let mut last = several("llama3-f32", 3, prefill_chunk);
        last.eval(&mixed.batch(Want::Last), None)
            .expect("an evaluation");
        assert_eq!(last.n_logits_rows(), 3, "one row of each sequence");
        assert_close(&rows(&last), &[row(3), row(5), row(6)].concat());
    }
}

#[test]
fn an_evaluation_that_wants_no_logits_leaves_none_but_the_tokens() {
    let model = open_fixture("llama3-f32");
    let tokens = token_ids(1, 20, VOCAB_SIZE);
    let mut quiet = context(&model);
    let batch = Batch {
        want: Want::Marked(&[0; 19]),
        ..Batch::of(&tokens[..19])
    };
    quiet.eval(&batch, None).expect("an evaluation");
    assert_eq!(quiet.n_logits_rows(), 0);
    assert!(quiet.logits(0).is_err());
    assert_eq!(quiet.sequence_length(0).expect("a sequence"), 19);
    let found = eval(&mut quiet, &tokens[19..]);
    assert_close(&found, &eval(&mut context(&model), &tokens));
}

#[test]
fn any_size_of_the_prefill_chunk_gives_the_same_logits() {
    let tokens = token_ids(2, 37, VOCAB_SIZE);
    for name in FIXTURES {
        let expected = eval_all(&mut several(name, 1, 512), &tokens);
        for prefill_chunk in [1, 2, 3, 5, 15, 16, 17, 36, 37, 38, usize::MAX] {
            let found = eval_all(&mut several(name, 1, prefill_chunk), &tokens);
            assert_close(&found, &expected);
        }
    }
}

#[test]
fn a_trimmed_sequence_goes_on_like_a_fresh_one() {
    let tokens = token_ids(3, 60, VOCAB_SIZE);
    let other = token_ids(4, 9, VOCAB_SIZE);
    for name in FIXTURES {
        let model = open_fixture(name);
        let mut trimmed = context(&model);
        for keep in [59, 17, 16, 1, 0] {
            trimmed.trim(0, 0).expect("a sequence");
            eval(&mut trimmed, &tokens);
            trimmed.trim(0, keep).expect("a sequence");
            assert_eq!(trimmed.sequence_length(0).expect("a sequence"), keep);
            let found = eval_all(&mut trimmed, &other);

            let all = [&tokens[..keep], &other].concat();
            let fresh = eval_all(&mut context(&model), &all);
            assert_close(&found, &fresh[keep * VOCAB_SIZE..]);
        }
    }
}

#[test]
fn trimming_one_sequence_leaves_the_others() {
    let prompts = [token_ids(5, 12, VOCAB_SIZE), token_ids(6, 15, VOCAB_SIZE)];
    let mut both = several("llama3-f32", 2, 512);
    let mixed = Interleaved::of(&prompts);
    both.eval(&mixed.batch(Want::Last), None)
        .expect("an evaluation");
    both.trim(0, 3).expect("a sequence");
    assert_eq!(both.sequence_length(1).expect("a sequence"), 15);
    let batch = Batch {
        sequences: Some(&[1]),
        ..Batch::of(&[7])
    };
    both.eval(&batch, None).expect("an evaluation");

    let mut alone = several("llama3-f32", 1, 512);
    eval(&mut alone, &prompts[1]);
    assert_close(&rows(&both), &eval(&mut alone, &[7]));
}
