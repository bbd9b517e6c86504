//! A cache that grows keeps what it holds.

use std::sync::Arc;

use umrt::runtime::{Batch, Context, ContextOptions, Model};

use crate::common::random_model::RandomModel;
use crate::common::{assert_close, context_of, eval, open, rows, token_ids};

const N_CTX: usize = 1000;

fn with_room(model: &Arc<Model>, n_sequences: usize) -> Context {
    let options = ContextOptions {
        n_ctx: N_CTX,
        n_sequences,
        prefill_chunk: N_CTX,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

#[test]
fn a_cache_that_grew_block_by_block_holds_what_one_filled_at_once_does() {
    let shape = RandomModel::default();
    let directory = shape.write();
    let model = open(directory.path());
    let tokens = token_ids(1, N_CTX, shape.vocab_size);
    let mut grown = with_room(&model, 1);
    let mut length = 0;
    // Up to, onto and over the multiples of 256 at which memory is added.
    for n in [255, 1, 1, 254, 1, 1, 255, 2, 230] {
        let found = eval(&mut grown, &tokens[length..length + n]);
        length += n;
        let mut at_once = with_room(&model, 1);
        assert_close(&found, &eval(&mut at_once, &tokens[..length]));
    }
    assert_eq!(length, N_CTX, "the cache was filled");
}

#[test]
fn sequences_grow_independently() {
    let shape = RandomModel::default();
    let directory = shape.write();
    let model = open(directory.path());
    let prompts = [
        token_ids(2, 250, shape.vocab_size),
        token_ids(3, 20, shape.vocab_size),
    ];
    let mut both = with_room(&model, 2);
    let append = |context: &mut Context, sequence: i32, tokens: &[i32]| {
        let batch = Batch {
            sequences: Some(&vec![sequence; tokens.len()]),
            ..Batch::of(tokens)
        };
        context.eval(&batch, None).expect("an evaluation");
        rows(context)
    };
    append(&mut both, 0, &prompts[0]);
    append(&mut both, 1, &prompts[1]);
    let more = token_ids(4, 300, shape.vocab_size);
    for (sequence, n) in [(0, 300), (1, 5)] {
        let found = append(&mut both, sequence, &more[..n]);
        let all = [&prompts[sequence as usize], &more[..n]].concat();
        assert_close(&found, &eval(&mut with_room(&model, 1), &all));
    }
}
