//! Sequences that begin alike share memory until they differ.

use std::sync::Arc;

use umrt::error::Status;
use umrt::mlx::CpuOps;
use umrt::runtime::{Batch, Context, ContextMemory, ContextOptions, Model, ModelOptions};

use crate::common::random_model::RandomModel;
use crate::common::{append, assert_close, assert_fails, context_of, eval, rows, token_ids};

const N_CTX: usize = 700;

fn in_both_ways(test: impl Fn(&Arc<Model>, CpuOps)) {
    let shape = RandomModel {
        n_layers: 2,
        ..RandomModel::default()
    };
    let directory = shape.write();
    for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
        let options = ModelOptions {
            cpu_ops,
            ..ModelOptions::default()
        };
        let model = Model::open(directory.path(), options).expect("a model");
        test(&model, cpu_ops);
    }
}

fn tokens(seed: u64, n: usize) -> Vec<i32> {
    token_ids(seed, n, RandomModel::default().vocab_size)
}

fn with_sequences(model: &Arc<Model>, n_sequences: usize) -> Context {
    let options = ContextOptions {
        n_ctx: N_CTX,
        n_sequences,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

fn alone(model: &Arc<Model>, parts: &[&[i32]]) -> Vec<f32> {
    eval(&mut with_sequences(model, 1), &parts.concat())
}

#[test]
fn a_fork_goes_on_without_its_source_and_the_source_without_it() {
    in_both_ways(|model, _| {
        // Inside of a block, at its end, and behind it.
        for n in [30, 256, 270] {
            let (prompt, mine, others) = (tokens(1, n), tokens(2, 70), tokens(3, 90));
            let mut context = with_sequences(model, 3);
            append(&mut context, 0, &prompt);
            append(&mut context, 2, &tokens(4, 20));
            for to in [1, 2] {
                context.fork(0, to).expect("a fork");
                assert_eq!(context.sequence_length(to).expect("a sequence"), n);
            }
            let found = append(&mut context, 1, &mine);
            assert_close(&found, &alone(model, &[&prompt, &mine]));
            let found = append(&mut context, 0, &others);
            assert_close(&found, &alone(model, &[&prompt, &others]));
            let found = append(&mut context, 2, &mine);
            assert_close(&found, &alone(model, &[&prompt, &mine]));
            let found = append(&mut context, 1, &others);
            assert_close(&found, &alone(model, &[&prompt, &mine, &others]));
        }
    });
}

#[test]
fn forks_may_go_on_in_one_step() {
    in_both_ways(|model, _| {
        let prompt = tokens(1, 100);
        let mut context = with_sequences(model, 3);
        append(&mut context, 0, &prompt);
        context.fork(0, 1).expect("a fork");
        context.fork(1, 2).expect("a fork");
        for step in 0..3 {
            let next = [step + 5, step + 9, step + 20];
            let batch = Batch {
                sequences: Some(&[0, 1, 2]),
                ..Batch::of(&next)
            };
            context.eval(&batch, None).expect("an evaluation");
        }
        let found = rows(&context);
        for (found, first) in found.chunks(found.len() / 3).zip([5, 9, 20]) {
            let all: Vec<i32> = (first..first + 3).collect();
            assert_close(found, &alone(model, &[&prompt, &all]));
        }
    });
}

#[test]
fn what_forks_share_counts_once() {
    in_both_ways(|model, cpu_ops| {
        let mut context = with_sequences(model, 3);
        let per_token = context.kv_bytes_per_token();
        append(&mut context, 0, &tokens(1, 300));
        let memory = |context: &Context| {
            let ContextMemory {
                kv_reserved,
                kv_used,
                ..
            } = context.memory();
            (kv_reserved / per_token, kv_used / per_token)
        };
        assert_eq!(memory(&context), (512, 300));
        context.fork(0, 1).expect("a fork");
        context.fork(0, 2).expect("a fork");
        assert_eq!(memory(&context), (512, 300), "forks take nothing");
        context.trim(1, 280).expect("a sequence");
        assert_eq!(memory(&context), (512, 300));
        append(&mut context, 1, &tokens(2, 4));
        let expected = match cpu_ops {
            // A copy of the second block.
            CpuOps::Kernels => (512 + 256, 300 + 28),
            // A copy of all.
            CpuOps::Stock => (2 * 512, 300 + 284),
        };
        assert_eq!(memory(&context), expected);
        context.trim(0, 0).expect("a sequence");
        context.trim(2, 0).expect("a sequence");
        assert_eq!(memory(&context), (512, 284), "the fork keeps what it needs");
        context.trim(1, 0).expect("a sequence");
        assert_eq!(memory(&context), (0, 0));
    });
}

#[test]
fn a_sequence_may_become_itself_or_empty() {
    in_both_ways(|model, _| {
        let prompt = tokens(1, 30);
        let mut context = with_sequences(model, 2);
        append(&mut context, 0, &prompt);
        context.fork(0, 0).expect("a fork");
        assert_close(
            &append(&mut context, 0, &[7]),
            &alone(model, &[&prompt, &[7]]),
        );
        context.fork(1, 0).expect("a fork");
        assert_eq!(context.sequence_length(0).expect("a sequence"), 0);
        assert_eq!(context.memory().kv_reserved, 0);
        for (from, to, part) in [(2, 0, "sequence 2"), (0, -1, "sequence -1")] {
            assert_fails(context.fork(from, to), Status::InvalidArgument, &[part]);
        }
    });
}
