//! Sequences with recurrent layers: their states follow them wherever they go, and where
//! there is no state there is no way back.

use std::path::Path;
use std::sync::{Arc, Mutex};

use umrt::decoder::Precision;
use umrt::error::{Result, Status};
use umrt::kv::KvType;
use umrt::mlx::CpuOps;
use umrt::runtime::{
    Batch, Context, ContextOptions, EmbedOptions, GenerateOptions, Lookup, Model, ModelOptions,
    Overflow, Prompt, Request, SamplingDevice, Scheduler, SchedulerOptions, Speculation, TrimSteps,
    embed, estimate, generate, score, set_spill_place, trim,
};
use umrt::sample::{Sampler, SamplerParams};

use crate::common::process::isolated;
use crate::common::random_family::{Form, RandomFamily};
use crate::common::random_model::RandomModel;
use crate::common::{
    append, assert_close, assert_fails, assert_identical, context_of, eval, eval_all, fixture,
    open_fixture, open_with, rows, stop_in_the_middle, token_ids,
};

const FIXTURES: [&str; 3] = ["lfm2-f32", "lfm2-bias-bf16", "lfm2-q4-g32-bf16"];
const VOCAB_SIZE: usize = 64;
const BOTH: [CpuOps; 2] = [CpuOps::Kernels, CpuOps::Stock];

fn opened(name: &str, cpu_ops: CpuOps, precision: Precision) -> Arc<Model> {
    let options = ModelOptions {
        cpu_ops,
        precision,
        ..ModelOptions::default()
    };
    Model::open(&fixture(name), options).expect("a model")
}

fn in_all_ways(test: impl Fn(&Arc<Model>)) {
    for name in FIXTURES {
        for cpu_ops in BOTH {
            test(&opened(name, cpu_ops, Precision::Native));
        }
    }
}

fn several(model: &Arc<Model>, n_sequences: usize) -> Context {
    let options = ContextOptions {
        n_ctx: 600,
        n_sequences,
        prefill_chunk: 64,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

fn tokens(seed: u64, n: usize) -> Vec<i32> {
    token_ids(seed, n, VOCAB_SIZE)
}

fn saved(context: &mut Context, sequence: i32) -> Vec<u8> {
    let mut bytes = vec![0; context.saved_bytes(sequence).expect("a size")];
    context.save_to(sequence, &mut bytes).expect("saved");
    bytes
}

/// Float32 of one sequence's states.
fn state_bytes(model: &Model) -> usize {
    let bytes = model.info().spec.state_layout().bytes();
    assert!(bytes > 0);
    bytes
}

#[test]
fn a_fork_goes_on_with_a_state_of_its_own() {
    in_all_ways(|model| {
        let (prompt, mine, others) = (tokens(1, 70), tokens(2, 9), tokens(3, 5));
        let mut context = several(model, 3);
        append(&mut context, 0, &prompt);
        context.fork(0, 1).expect("a fork");
        let found = append(&mut context, 1, &mine);
        context.fork(1, 2).expect("a fork of a fork");
        context.trim(1, 0).expect("none");
        let of_source = append(&mut context, 0, &others);
        let of_second = append(&mut context, 2, &others);

        let alone = |parts: &[&[i32]]| {
            let mut alone = several(model, 1);
            let last = parts.iter().map(|part| append(&mut alone, 0, part)).last();
            last.expect("a part")
        };
        assert_identical(&found, &alone(&[&prompt, &mine]));
        assert_identical(&of_source, &alone(&[&prompt, &others]));
        assert_identical(&of_second, &alone(&[&prompt, &mine, &others]));
    });
}

#[test]
fn sequences_of_a_batch_are_what_they_are_alone() {
    for name in FIXTURES {
        for cpu_ops in BOTH {
            let model = opened(name, cpu_ops, Precision::Float32);
            let mut context = several(&model, 3);
            let texts = [tokens(1, 11), tokens(2, 1), tokens(3, 30)];
            let mut alone = several(&model, 3);
            for round in 0..3 {
                let ids = [0, 1, 2].map(|id| vec![id; texts[id as usize].len()]);
                let all = texts.concat();
                let batch = Batch {
                    sequences: Some(&ids.concat()),
                    ..Batch::of(&all)
                };
                context.eval(&batch, None).expect("an evaluation");
                let together = rows(&context);
                let together = together.chunks_exact(VOCAB_SIZE);
                for ((id, text), found) in (0..).zip(&texts).zip(together) {
                    let expected = append(&mut alone, id, text);
                    assert_close(found, &expected);
                }
                assert_eq!(context.sequence_length(2).expect("there"), 30 * (round + 1));
            }
        }
    }
}

#[test]
fn a_text_may_be_cut_into_steps_anywhere() {
    let text = tokens(5, 90);
    for name in FIXTURES {
        for cpu_ops in BOTH {
            let model = opened(name, cpu_ops, Precision::Float32);
            let expected = eval_all(&mut several(&model, 1), &text);
            for chunk in [1, 2, 7, 89] {
                let options = ContextOptions {
                    prefill_chunk: chunk,
                    ..ContextOptions::default()
                };
                let found = eval_all(&mut context_of(&model, options), &text);
                assert_close(&found, &expected);
            }
        }
    }
}

#[test]
fn an_evaluation_that_is_stopped_in_the_middle_leaves_no_trace() {
    in_all_ways(|model| {
        let (prompt, long) = (tokens(1, 20), tokens(2, 256));
        let mut context = several(model, 1);
        eval(&mut context, &prompt);
        let before = saved(&mut context, 0);
        // The steps that were done had their states.
        stop_in_the_middle(&mut context, &long, |context, _| {
            assert!(saved(context, 0) == before);
        });
        context.trim(0, 0).expect("none");
        eval(&mut context, &prompt);
        let next = eval(&mut context, &[5]);
        let mut undisturbed = several(model, 1);
        eval(&mut undisturbed, &prompt);
        assert_identical(&next, &eval(&mut undisturbed, &[5]));
    });
}

#[test]
fn a_sequence_is_cut_where_there_is_a_state_and_nowhere_else() {
    in_all_ways(|model| {
        let (prompt, more) = (tokens(1, 40), tokens(2, 30));
        let mut context = several(model, 1);
        eval(&mut context, &prompt);
        let in_front = saved(&mut context, 0);
        let expected = eval(&mut context, &more);
        let behind = saved(&mut context, 0);
        for keep in [1, 39, 41, 69] {
            let refused = context.trim(0, keep);
            let parts = ["recurrent layers", "fork or save"];
            assert_fails(refused, Status::Unsupported, &parts);
        }
        assert_fails(context.trim(0, 71), Status::InvalidArgument, &["70"]);
        context.trim(0, 70).expect("all of it");
        assert!(saved(&mut context, 0) == behind, "refusals changed it");

        context
            .trim(0, 40)
            .expect("what was there before the evaluation");
        assert!(saved(&mut context, 0) == in_front);
        assert_identical(&eval(&mut context, &more), &expected);
        context.trim(0, 0).expect("none");
        eval(&mut context, &prompt);
        assert_identical(&eval(&mut context, &more), &expected);
    });
}

#[test]
fn what_would_need_states_that_nobody_kept_is_unsupported() {
    in_all_ways(|model| {
        let options = |overflow, prefix_cache| ContextOptions {
            n_ctx: 64,
            overflow,
            prefix_cache,
            ..ContextOptions::default()
        };
        let refused = |options: ContextOptions, part: &str| {
            let made = Context::new(model, &options).map(drop);
            assert_fails(
                made,
                Status::Unsupported,
                &["lfm2", "recurrent layers", part],
            );
        };
        refused(options(Overflow::Shift { n_keep: 4 }, false), "removed");
        refused(options(Overflow::Refuse, true), "prefix cache");

        let mut context = several(model, 1);
        let expected = eval(&mut context, &tokens(1, 20));
        let before = saved(&mut context, 0);
        assert_fails(context.shift(0, 3, 5), Status::Unsupported, &["removed"]);
        let exported = context.export_mlx(0, Path::new("nowhere"));
        assert_fails(exported, Status::Unsupported, &["umrt_seq_save"]);
        let imported = context.import_mlx(0, Path::new("nowhere"), None);
        assert_fails(imported, Status::Unsupported, &["umrt_seq_save"]);
        let mut draft = several(model, 1);
        let guessing = Speculation {
            draft: Some(&mut draft),
            ..Speculation::default()
        };
        let drafted = told(&mut context, &tokens(2, 3), 4, guessing);
        assert_fails(drafted, Status::Unsupported, &["draft model", "lfm2"]);
        assert!(saved(&mut context, 0) == before);
        assert_identical(&rows(&context), &expected);
    });
}

#[test]
fn saved_and_spilled_sequences_go_on_as_if_nothing_had_been() {
    isolated(
        "recurrent::saved_and_spilled_sequences_go_on_as_if_nothing_had_been",
        || {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("sequence");
            set_spill_place(Some((directory.path(), usize::MAX))).expect("a place");
            in_all_ways(|model| {
                for n in [1, 2, 270] {
                    let mut context = several(model, 2);
                    append(&mut context, 0, &tokens(1, n));
                    context.save(0, &path).expect("saved");
                    let bytes = context.saved_bytes(0).expect("a size");
                    assert_eq!(
                        std::fs::metadata(&path).expect("a file").len(),
                        bytes as u64
                    );
                    context.fork(0, 1).expect("a fork");
                    let expected = append(&mut context, 0, &[7, 8]);

                    let mut other = several(model, 2);
                    eval(&mut other, &tokens(3, 5));
                    other.load(0, &path).expect("loaded");
                    assert_identical(&eval(&mut other, &[7, 8]), &expected);

                    let trimmed = trim(TrimSteps {
                        idle_sequences: true,
                        ..TrimSteps::default()
                    });
                    assert!(trimmed.expect("a trim").spilled.n_sequences >= 2);
                    assert_eq!(context.memory().kv_reserved, 0);
                    assert_identical(&append(&mut context, 1, &[7, 8]), &expected);
                }
            });
        },
    );
}

#[test]
fn files_are_the_same_whoever_computes_and_go_to_the_same_model_only() {
    for name in FIXTURES {
        let contexts = BOTH.map(|cpu_ops| several(&opened(name, cpu_ops, Precision::Float32), 1));
        let [mut kernels, mut stock] = contexts;
        eval(&mut kernels, &tokens(1, 50));
        let bytes = saved(&mut kernels, 0);
        stock.load_from(0, &bytes).expect("loaded");
        assert!(saved(&mut stock, 0) == bytes, "the same states");
        assert_close(&eval(&mut stock, &[9]), &eval(&mut kernels, &[9]));

        let at = bytes.len() - 1;
        for damaged in [0, 100, 72 + 50 * 4, at] {
            let mut bytes = bytes.clone();
            bytes[damaged] ^= 4;
            let before = saved(&mut stock, 0);
            let loaded = stock.load_from(0, &bytes);
            assert_fails(loaded, Status::Format, &[]);
            assert!(saved(&mut stock, 0) == before);
        }
    }
    let mut attending = context_of(&open_fixture("llama3-f32"), ContextOptions::default());
    let mut recurrent = several(&open_fixture("lfm2-f32"), 1);
    eval(&mut recurrent, &[1, 2]);
    let bytes = saved(&mut recurrent, 0);
    let loaded = attending.load_from(0, &bytes);
    assert_fails(loaded, Status::InvalidArgument, &["another model"]);
}

#[test]
fn states_are_planned_counted_and_given_back() {
    in_all_ways(|model| {
        let state = state_bytes(model);
        let options = ContextOptions {
            n_ctx: 300,
            n_sequences: 3,
            ..ContextOptions::default()
        };
        let mut context = context_of(model, options);
        let keys_and_values = 3 * 300 * context.kv_bytes_per_token();
        assert_eq!(context.planned_bytes().kv, keys_and_values + 7 * state);
        assert_eq!(context.memory().kv_reserved, 0);

        let text = tokens(1, 10);
        let before = |context: &Context| context.memory().kv_reserved;
        append(&mut context, 0, &text);
        let first = before(&context);
        let used = 10 * context.kv_bytes_per_token() + state;
        assert_eq!(context.memory().kv_used, used);
        append(&mut context, 0, &[3]);
        assert_eq!(before(&context), first + state, "in front and behind");
        append(&mut context, 0, &[4]);
        append(&mut context, 0, &[5]);
        assert_eq!(before(&context), first + state, "used again and again");
        context.fork(0, 1).expect("a fork");
        assert_eq!(before(&context), first + state, "shared");
        for sequence in 0..3 {
            append(&mut context, sequence, &tokens(2, 280));
            append(&mut context, sequence, &[1]);
        }
        assert!(before(&context) <= context.planned_bytes().kv);
        for sequence in 0..3 {
            context.trim(sequence, 0).expect("none");
        }
        assert_eq!(before(&context), 0);
    });
    let path = fixture(FIXTURES[0]);
    let estimated = |n_sequences| {
        let context = ContextOptions {
            n_ctx: 256,
            n_sequences,
            kv_type: KvType::F16,
            ..ContextOptions::default()
        };
        let found = estimate(&path, &ModelOptions::default(), &context);
        found.expect("headers").context.kv
    };
    let model = open_fixture(FIXTURES[0]);
    let per_token = model.info().spec.kv_elements_per_token() * 2;
    let state = state_bytes(&model);
    assert_eq!(estimated(2) - estimated(1), 256 * per_token + 2 * state);
}

#[test]
fn a_model_without_attention_has_sequences_of_states_alone() {
    let family = RandomFamily {
        shape: RandomModel::default(),
        form: Form::ShortConv(usize::MAX),
    };
    let directory = family.write();
    for cpu_ops in BOTH {
        let model = open_with(directory.path(), cpu_ops);
        let mut context = several(&model, 2);
        assert_eq!(context.kv_bytes_per_token(), 0);
        append(&mut context, 0, &tokens(1, 300));
        context.fork(0, 1).expect("a fork");
        let bytes = saved(&mut context, 0);
        let expected = append(&mut context, 0, &[1, 2]);
        assert_identical(&append(&mut context, 1, &[1, 2]), &expected);
        context.load_from(1, &bytes).expect("loaded");
        assert_identical(&append(&mut context, 1, &[1, 2]), &expected);
    }
}

fn greedy() -> Sampler {
    Sampler::new(SamplerParams::default()).expect("a sampler")
}

fn options(prompt: &[i32], max_tokens: usize) -> GenerateOptions<'_> {
    GenerateOptions {
        prompt: Prompt::Tokens(prompt),
        sequence: 0,
        max_tokens,
        stop: &[],
        ignore_end: true,
        sampling_device: SamplingDevice::Auto,
        constraint: None,
    }
}

/// All tokens of the sequence behind a generation, how many were guessed, and how many of
/// these were right.
fn told(
    context: &mut Context,
    prompt: &[i32],
    max_tokens: usize,
    how: Speculation<'_>,
) -> Result<(Vec<i32>, [usize; 2])> {
    let options = options(prompt, max_tokens);
    let told = generate(context, &mut greedy(), &options, how, None, None)?;
    let counts = [told.drafts.n_drafted, told.drafts.n_accepted];
    Ok((context.sequence_tokens(0)?, counts))
}

const LOOKUP: Lookup = Lookup {
    ngram: 2,
    n_draft: 0,
};

#[test]
fn guesses_that_were_wrong_leave_the_states_of_the_right_ones() {
    let mut n_wrong = 0;
    for name in FIXTURES {
        let model = open_fixture(name);
        let prompt = tokens(4, 6).repeat(4);
        let mut plain = several(&model, 1);
        let (expected, _) = told(&mut plain, &prompt, 60, Speculation::default()).expect("told");
        let mut guessing = several(&model, 1);
        let looking = Speculation {
            lookup: LOOKUP,
            ..Speculation::default()
        };
        let (found, counts) = told(&mut guessing, &prompt, 60, looking).expect("told");
        assert_eq!(found, expected);
        assert!(saved(&mut guessing, 0) == saved(&mut plain, 0), "{name}");
        let decoded = |context: &Context| context.perf().n_decode_tokens;
        assert_eq!(decoded(&guessing), decoded(&plain));
        n_wrong += counts[0] - counts[1];
    }
    assert!(n_wrong > 0);
}

#[test]
fn scores_and_vectors_leave_nothing_behind() {
    in_all_ways(|model| {
        let mut context = several(model, 2);
        eval(&mut context, &tokens(1, 30));
        let before = saved(&mut context, 0);
        let held = context.memory().kv_reserved;
        let prompt = tokens(2, 5);
        let continuations = [tokens(3, 4), tokens(4, 1), tokens(3, 4)];
        let slices: Vec<&[i32]> = continuations.iter().map(Vec::as_slice).collect();
        let found = score(&mut context, 0, &prompt, &slices, None).expect("scores");
        assert_eq!(found[..4], found[5..], "of the same text");
        assert!(saved(&mut context, 0) == before);
        assert!(context.memory().kv_reserved <= held + state_bytes(model));
        let refused = score(&mut context, 0, &prompt, &[&[1; 600]], None);
        assert_fails(refused, Status::NoSpace, &[]);

        embed(&mut context, &slices, &EmbedOptions::default(), None).expect("vectors");
        assert_eq!(context.sequence_length(1).expect("there"), 0);
        assert!(saved(&mut context, 0) == before);
    });
}

#[test]
fn a_text_that_goes_on_is_reused_and_one_that_branches_off_begins_anew() {
    in_all_ways(|model| {
        let text = tokens(1, 50);
        let mut context = several(model, 1);
        eval(&mut context, &text[..30]);
        assert_eq!(context.reuse_prefix(0, &text).expect("reused"), 30);
        let expected = eval(&mut context, &text[30..]);
        // In front of the last evaluation there is a state, in front of its end there is none.
        let branch = [&text[..40], &[1, 2]].concat();
        assert_eq!(context.reuse_prefix(0, &branch).expect("reused"), 30);
        assert_identical(&eval(&mut context, &text[30..]), &expected);
        let branch = [&text[..20], &[1, 2]].concat();
        assert_eq!(context.reuse_prefix(0, &branch).expect("reused"), 0);
        eval(&mut context, &text[..30]);
        assert_identical(&eval(&mut context, &text[30..]), &expected);
    });
}

#[test]
fn requests_that_run_together_give_what_they_give_alone() {
    for name in FIXTURES {
        for cpu_ops in BOTH {
            let model = opened(name, cpu_ops, Precision::Float32);
            let prompts = [
                tokens(1, 3).repeat(3),
                tokens(2, 40),
                tokens(3, 3).repeat(4),
            ];
            let mut context = several(&model, 3);
            let mut scheduler = Scheduler::new(&context, SchedulerOptions { step_tokens: 7 });
            for (sequence, prompt) in (0..).zip(&prompts) {
                let request = Request {
                    options: GenerateOptions {
                        sequence,
                        ..options(prompt, 8)
                    },
                    keeps_sequence: true,
                    lookup: LOOKUP,
                    sampler: Arc::new(Mutex::new(greedy())),
                    cancel: None,
                    receive: None,
                    finished: None,
                };
                scheduler.requests().submit(request).expect("submitted");
            }
            while scheduler
                .step(&mut context, None)
                .expect("a step")
                .n_active()
                > 0
            {}
            for (sequence, prompt) in (0..).zip(&prompts) {
                let mut alone = several(&model, 1);
                let expected = told(&mut alone, prompt, 8, Speculation::default());
                let found = context.sequence_tokens(sequence).expect("tokens");
                assert_eq!(found, expected.expect("told").0);
            }
        }
    }
}
