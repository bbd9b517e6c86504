//! An evaluation that fails leaves the context as it was.

use umrt::error::Status;
use umrt::runtime::{Batch, Context, ContextOptions, Want};

use crate::common::{
    assert_fails, assert_identical, context_of, eval, open_fixture, rows, token_ids,
};

const N_CTX: usize = 40;
const VOCAB_SIZE: usize = 128;

/// Two sequences, of 12 and 30 tokens.
fn used_context() -> Context {
    let options = ContextOptions {
        n_ctx: N_CTX,
        n_sequences: 2,
        prefill_chunk: 8,
        ..ContextOptions::default()
    };
    let mut context = context_of(&open_fixture("llama3-f32"), options);
    eval(&mut context, &token_ids(1, 12, VOCAB_SIZE));
    let tokens = token_ids(2, 30, VOCAB_SIZE);
    let batch = Batch {
        sequences: Some(&[1; 30]),
        ..Batch::of(&tokens)
    };
    context.eval(&batch, None).expect("an evaluation");
    context
}

fn lengths(context: &Context) -> Vec<usize> {
    let length = |sequence| context.sequence_length(sequence).expect("a sequence");
    (0..context.n_sequences() as i32).map(length).collect()
}

/// One more token for both sequences.
fn go_on(context: &mut Context) -> Vec<f32> {
    let batch = Batch {
        sequences: Some(&[0, 1]),
        ..Batch::of(&[5, 6])
    };
    context.eval(&batch, None).expect("an evaluation");
    rows(context)
}

#[test]
fn a_refused_batch_leaves_sequences_and_logits() {
    let long = token_ids(3, N_CTX - 11, VOCAB_SIZE);
    let mixed = [vec![0; 3], vec![1; 11]].concat();
    let valid = Batch::of(&[1, 2]);
    #[rustfmt::skip]
    let cases = [
        ("no tokens", Batch::of(&[]), Status::InvalidArgument),
        ("token id -1", Batch::of(&[1, -1]), Status::InvalidArgument),
        ("token id 128", Batch::of(&[1, 128]), Status::InvalidArgument),
        ("token id -2147483648", Batch::of(&[i32::MIN]), Status::InvalidArgument),
        ("sequence 2", Batch { sequences: Some(&[0, 2]), ..valid }, Status::InvalidArgument),
        ("sequence -1", Batch { sequences: Some(&[-1, 0]), ..valid }, Status::InvalidArgument),
        ("sequence entries", Batch { sequences: Some(&[0]), ..valid }, Status::InvalidArgument),
        ("logits entries", Batch { want: Want::Marked(&[1; 3]), ..valid }, Status::InvalidArgument),
        ("n_ctx", Batch::of(&long), Status::NoSpace),
        ("sequence 1 holds 30", Batch { sequences: Some(&mixed), ..Batch::of(&long[..14]) }, Status::NoSpace),
    ];
    let undisturbed = go_on(&mut used_context());
    for (part, batch, status) in cases {
        let mut context = used_context();
        let (logits, memory) = (rows(&context), context.memory());
        assert_fails(context.eval(&batch, None), status, &[part]);
        assert_eq!(lengths(&context), [12, 30], "{part}");
        assert_eq!(context.memory(), memory, "{part}");
        assert_identical(&rows(&context), &logits);
        assert_identical(&go_on(&mut context), &undisturbed);
    }
}

#[test]
fn a_sequence_takes_exactly_as_many_tokens_as_the_context_has_room_for() {
    let options = ContextOptions {
        n_ctx: N_CTX,
        ..ContextOptions::default()
    };
    let mut context = context_of(&open_fixture("llama3-f32"), options);
    eval(&mut context, &token_ids(4, N_CTX, VOCAB_SIZE));
    assert_fails(
        context.eval(&Batch::of(&[1]), None),
        Status::NoSpace,
        &["n_ctx", "trim"],
    );
    context.trim(0, N_CTX - 1).expect("a sequence");
    eval(&mut context, &[1]);
    assert_eq!(lengths(&context), [N_CTX]);
}

#[test]
fn trimming_what_is_not_there_is_refused() {
    let mut context = used_context();
    for (sequence, keep, part) in [
        (0, 13, "holds 12"),
        (2, 0, "sequence 2"),
        (-1, 0, "sequence -1"),
    ] {
        let result = context.trim(sequence, keep);
        assert_fails(result, Status::InvalidArgument, &[part]);
    }
    assert_fails(
        context.sequence_length(2),
        Status::InvalidArgument,
        &["sequence 2"],
    );
    assert_fails(
        context.logits(1).map(<[f32]>::to_vec),
        Status::InvalidArgument,
        &["row 1"],
    );
    assert_eq!(lengths(&context), [12, 30]);
}
