//! Decoding one step ahead gives what decoding step by step gives.

use std::path::{Path, PathBuf};

use umrt::error::Status;
use umrt::mlx::CpuOps;
use umrt::runtime::{
    Ahead, Cancel, Context, ContextOptions, Flow, GenerateOptions, Generated, Prompt, Speculation,
    StopReason, generate,
};
use umrt::sample::{Sampler, SamplerParams};

use crate::common::{assert_fails, assert_identical, context_of, eval, open_with, rows};

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models/umrt-tales-4bit")
}

fn context(n_ctx: usize) -> Context {
    let options = ContextOptions {
        n_ctx,
        n_sequences: 2,
        ..ContextOptions::default()
    };
    context_of(&open_with(&bundled(), CpuOps::Stock), options)
}

/// What a generation left.
struct Left {
    tokens: Vec<i32>,
    text: String,
    generated: Generated,
    length: usize,
    logits: Vec<f32>,
}

fn run(context: &mut Context, options: &GenerateOptions<'_>, most_texts: usize) -> Left {
    let mut sampler = Sampler::new(SamplerParams::default()).expect("greedy");
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let generated = generate(
        context,
        &mut sampler,
        options,
        Speculation::default(),
        None,
        Some(&mut |part, token| {
            tokens.push(token);
            text.push_str(part);
            match tokens.len() < most_texts {
                true => Flow::Continue,
                false => Flow::Stop,
            }
        }),
    )
    .expect("a generation");
    Left {
        tokens,
        text,
        generated,
        length: context.sequence_length(options.sequence).expect("there"),
        logits: rows(context),
    }
}

fn options(ahead: Ahead) -> GenerateOptions<'static> {
    GenerateOptions {
        prompt: Prompt::Text("Once upon a time"),
        sequence: 1,
        max_tokens: 40,
        stop: &[],
        ignore_end: true,
        ahead,
    }
}

/// Both ways, each in a context of its own that then goes on by itself.
#[track_caller]
fn assert_same(n_ctx: usize, most_texts: usize, change: impl Fn(&mut GenerateOptions<'_>)) -> Left {
    let [by_step, ahead] = [Ahead::Never, Ahead::Always].map(|ahead| {
        let mut context = context(n_ctx);
        let mut options = options(ahead);
        change(&mut options);
        let left = run(&mut context, &options, most_texts);
        context.trim(1, left.length - 3).expect("long enough");
        let behind = eval(&mut context, &[7, 8]);
        (left, behind, context.perf().n_decode_tokens)
    });
    let ((left, behind, n_decoded), (expected, expected_behind, n_expected)) = (ahead, by_step);
    assert_eq!(left.tokens, expected.tokens);
    assert_eq!(left.text, expected.text);
    assert_eq!(left.length, expected.length);
    assert_eq!(left.generated.stop_reason, expected.generated.stop_reason);
    assert_eq!(left.generated.n_tokens, expected.generated.n_tokens);
    assert_eq!(n_decoded, n_expected);
    assert_identical(&left.logits, &expected.logits);
    assert_identical(&behind, &expected_behind);
    left
}

#[test]
fn tokens_text_logits_and_cache_are_the_same() {
    let left = assert_same(0, usize::MAX, |_| ());
    assert_eq!(left.generated.stop_reason, StopReason::MaxTokens);
    assert_eq!(left.generated.n_tokens, 40);
    assert!(left.text.len() > 20, "{}", left.text);
}

#[test]
fn the_cache_grows_on_the_way() {
    let left = assert_same(0, usize::MAX, |options| options.max_tokens = 270);
    assert!(left.length > 256, "{}", left.length);
}

#[test]
fn a_full_context_ends_it() {
    let left = assert_same(24, usize::MAX, |_| ());
    assert_eq!(left.generated.stop_reason, StopReason::ContextFull);
    assert_eq!(left.length, 24);
}

#[test]
fn a_receiver_that_has_enough_ends_it() {
    let left = assert_same(0, 5, |_| ());
    assert_eq!(left.generated.stop_reason, StopReason::Receiver);
    assert_eq!(left.tokens.len(), 5);
}

#[test]
fn one_token_is_no_step_at_all() {
    let left = assert_same(0, usize::MAX, |options| options.max_tokens = 1);
    assert_eq!(left.generated.n_tokens, 1);
}

#[test]
fn a_cancellation_keeps_what_was_finished() {
    let mut context = context(0);
    let cancel = Cancel::new();
    let mut sampler = Sampler::new(SamplerParams::default()).expect("greedy");
    let mut n_texts = 0;
    let result = generate(
        &mut context,
        &mut sampler,
        &options(Ahead::Always),
        Speculation::default(),
        Some(&cancel),
        Some(&mut |_, _| {
            n_texts += 1;
            if n_texts == 4 {
                cancel.trigger();
            }
            Flow::Continue
        }),
    );
    assert_fails(result, Status::Cancelled, &["cancelled"]);
    let length = context.sequence_length(1).expect("there");
    let by_step = run(&mut self::context(0), &options(Ahead::Never), usize::MAX);
    assert!(length >= 4 && length < by_step.length, "{length}");
    context.trim(1, length - 1).expect("kept");
    cancel.reset();
    let again = run(
        &mut context,
        &GenerateOptions {
            prompt: Prompt::Tokens(&[9]),
            ..options(Ahead::Always)
        },
        3,
    );
    assert_eq!(again.tokens.len(), 3);
}

#[test]
fn what_is_not_greedy_is_decoded_step_by_step() {
    let sampled = |ahead| {
        let params = SamplerParams {
            temperature: 0.8,
            seed: 3,
            ..SamplerParams::default()
        };
        let mut sampler = Sampler::new(params).expect("valid");
        let mut tokens = Vec::new();
        let mut context = context(0);
        let options = GenerateOptions {
            max_tokens: 12,
            ..options(ahead)
        };
        generate(
            &mut context,
            &mut sampler,
            &options,
            Speculation::default(),
            None,
            Some(&mut |_, token| {
                tokens.push(token);
                Flow::Continue
            }),
        )
        .expect("a generation");
        tokens
    };
    assert_eq!(sampled(Ahead::Always), sampled(Ahead::Never));
}
