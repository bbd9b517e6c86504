//! Tokens that are chosen where the logits are, one step ahead where that is possible,
//! are those that the sampler chooses step by step.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use umrt::error::Status;
use umrt::mlx::CpuOps;
use umrt::runtime::{
    Cancel, Context, ContextOptions, Flow, GenerateOptions, Generated, Lookup, Overflow, Prompt,
    Request, SamplingDevice, Scheduler, SchedulerOptions, Speculation, StopReason, generate,
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

fn greedy() -> Sampler {
    Sampler::new(SamplerParams::default()).expect("greedy")
}

/// Each stage for itself, and all of them.
fn drawing() -> [SamplerParams; 5] {
    let warm = SamplerParams {
        temperature: 0.9,
        seed: 3,
        ..SamplerParams::default()
    };
    [
        warm.clone(),
        SamplerParams {
            top_k: 20,
            ..warm.clone()
        },
        SamplerParams {
            top_p: 0.9,
            ..warm.clone()
        },
        SamplerParams {
            min_p: 0.05,
            ..warm.clone()
        },
        SamplerParams {
            top_k: 40,
            top_p: 0.95,
            min_p: 0.02,
            ..warm
        },
    ]
}

fn run(context: &mut Context, options: &GenerateOptions<'_>, most_texts: usize) -> Left {
    run_with(context, &mut greedy(), options, most_texts)
}

fn run_with(
    context: &mut Context,
    sampler: &mut Sampler,
    options: &GenerateOptions<'_>,
    most_texts: usize,
) -> Left {
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let generated = generate(
        context,
        sampler,
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

fn options(sampling_device: SamplingDevice) -> GenerateOptions<'static> {
    GenerateOptions {
        prompt: Prompt::Text("Once upon a time"),
        sequence: 1,
        max_tokens: 40,
        stop: &[],
        ignore_end: true,
        sampling_device,
        constraint: None,
    }
}

/// Both ways, each in a context of its own that then goes on by itself.
#[track_caller]
fn assert_same(n_ctx: usize, most_texts: usize, change: impl Fn(&mut GenerateOptions<'_>)) -> Left {
    assert_same_with(&SamplerParams::default(), n_ctx, most_texts, change)
}

#[track_caller]
fn assert_same_with(
    params: &SamplerParams,
    n_ctx: usize,
    most_texts: usize,
    change: impl Fn(&mut GenerateOptions<'_>),
) -> Left {
    let [by_step, ahead] = [SamplingDevice::Cpu, SamplingDevice::Gpu].map(|device| {
        let mut context = context(n_ctx);
        let mut options = options(device);
        change(&mut options);
        let mut sampler = Sampler::new(params.clone()).expect("valid");
        let left = run_with(&mut context, &mut sampler, &options, most_texts);
        // The generator has given what the tokens took and nothing more.
        let next_units: Vec<f64> = sampler.upcoming_units().take(2).collect();
        context.trim(1, left.length - 3).expect("long enough");
        let behind = eval(&mut context, &[7, 8]);
        let n_decoded = context.perf().n_decode_tokens;
        (left, behind, (n_decoded, next_units))
    });
    let ((left, behind, state), (expected, expected_behind, expected_state)) = (ahead, by_step);
    assert_eq!(left.tokens, expected.tokens);
    assert_eq!(left.text, expected.text);
    assert_eq!(left.length, expected.length);
    assert_eq!(left.generated.stop_reason, expected.generated.stop_reason);
    assert_eq!(left.generated.n_tokens, expected.generated.n_tokens);
    assert_eq!(state, expected_state);
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
        &options(SamplingDevice::Gpu),
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
    let by_step = run(
        &mut self::context(0),
        &options(SamplingDevice::Cpu),
        usize::MAX,
    );
    assert!(length >= 4 && length < by_step.length, "{length}");
    context.trim(1, length - 1).expect("kept");
    cancel.reset();
    let again = run(
        &mut context,
        &GenerateOptions {
            prompt: Prompt::Tokens(&[9]),
            ..options(SamplingDevice::Gpu)
        },
        3,
    );
    assert_eq!(again.tokens.len(), 3);
}

#[test]
fn draws_are_those_of_the_sampler() {
    for params in drawing() {
        let left = assert_same_with(&params, 0, usize::MAX, |_| ());
        assert_eq!(left.generated.n_tokens, 40, "{params:?}");
    }
}

#[test]
fn draws_that_end_early_take_no_more_numbers_than_tokens() {
    let [params, ..] = drawing();
    let left = assert_same_with(&params, 0, 5, |_| ());
    assert_eq!(left.tokens.len(), 5);
    let left = assert_same_with(&params, 24, usize::MAX, |_| ());
    assert_eq!(left.generated.stop_reason, StopReason::ContextFull);
}

#[test]
fn contexts_that_cannot_run_ahead_choose_the_same_tokens() {
    let chosen = |device, options: ContextOptions, params: &SamplerParams| {
        let model = open_with(&bundled(), CpuOps::Stock);
        let options = ContextOptions {
            n_sequences: 2,
            ..options
        };
        let mut context = context_of(&model, options);
        let mut sampler = Sampler::new(params.clone()).expect("valid");
        run_with(
            &mut context,
            &mut sampler,
            &self::options(device),
            usize::MAX,
        )
        .tokens
    };
    let shifting = ContextOptions {
        n_ctx: 24,
        overflow: Overflow::Shift { n_keep: 4 },
        ..ContextOptions::default()
    };
    let cached = ContextOptions {
        prefix_cache: true,
        ..ContextOptions::default()
    };
    let [warm, .., all] = drawing();
    for (options, params) in [
        (shifting, SamplerParams::default()),
        (shifting, all),
        (cached, warm),
    ] {
        let expected = chosen(SamplingDevice::Cpu, options, &params);
        assert_eq!(
            chosen(SamplingDevice::Gpu, options, &params),
            expected,
            "{options:?}"
        );
        assert_eq!(expected.len(), 40);
    }
}

fn refused(context: &mut Context, params: SamplerParams, ngram: usize) -> umrt::error::Result<()> {
    let speculation = Speculation {
        lookup: Lookup { ngram, n_draft: 0 },
        ..Speculation::default()
    };
    let mut sampler = Sampler::new(params).expect("valid");
    let options = options(SamplingDevice::Gpu);
    generate(context, &mut sampler, &options, speculation, None, None).map(drop)
}

#[test]
fn what_cannot_be_done_there_is_refused_by_name_before_anything_is_computed() {
    let mut context = context(0);
    let penalized = SamplerParams {
        frequency_penalty: 0.5,
        repetition_window: 8,
        ..SamplerParams::default()
    };
    assert_fails(
        refused(&mut context, penalized, 0),
        Status::Unsupported,
        &["frequency_penalty", "sampling_device"],
    );
    assert_fails(
        refused(&mut context, SamplerParams::default(), 3),
        Status::Unsupported,
        &["guesses", "sampling_device"],
    );
    let mut on_cpu = context_of(
        &open_with(&bundled(), CpuOps::Kernels),
        ContextOptions {
            n_sequences: 2,
            ..ContextOptions::default()
        },
    );
    assert_fails(
        refused(&mut on_cpu, SamplerParams::default(), 0),
        Status::Unsupported,
        &["computes on the CPU", "sampling_device"],
    );
    for context in [context, on_cpu] {
        assert_eq!(context.sequence_length(1).expect("there"), 0);
    }
}

/// What requests of one scheduler gave, and the first one's error.
fn scheduled(cpu_ops: CpuOps, device: SamplingDevice) -> umrt::error::Result<Vec<Vec<i32>>> {
    let options = ContextOptions {
        n_sequences: 2,
        ..ContextOptions::default()
    };
    let mut context = context_of(&open_with(&bundled(), cpu_ops), options);
    let mut scheduler = Scheduler::new(&context, SchedulerOptions::default());
    let heard: Vec<_> = drawing()
        .into_iter()
        .chain([SamplerParams::default()])
        .map(|params| {
            let heard = Arc::new(Mutex::new(Vec::new()));
            let receiver = heard.clone();
            let request = Request {
                options: GenerateOptions {
                    sequence: 0,
                    max_tokens: 12,
                    ..self::options(device)
                },
                keeps_sequence: false,
                lookup: Lookup::default(),
                sampler: Arc::new(Mutex::new(Sampler::new(params).expect("valid"))),
                cancel: None,
                receive: Some(Box::new(move |_, token| {
                    receiver.lock().expect("one at a time").push(token);
                    Flow::Continue
                })),
                finished: None,
            };
            scheduler.requests().submit(request).map(|_| heard)
        })
        .collect::<umrt::error::Result<_>>()?;
    while scheduler.step(&mut context, None)?.n_active() > 0 {}
    let taken = heard
        .iter()
        .map(|tokens| tokens.lock().expect("over").clone());
    Ok(taken.collect())
}

#[test]
fn requests_beside_others_choose_the_same_tokens() {
    let expected = scheduled(CpuOps::Stock, SamplingDevice::Cpu).expect("texts");
    let found = scheduled(CpuOps::Stock, SamplingDevice::Gpu).expect("texts");
    assert_eq!(found, expected);
    assert!(expected.iter().all(|tokens| tokens.len() >= 6));
    assert_fails(
        scheduled(CpuOps::Kernels, SamplingDevice::Gpu),
        Status::Unsupported,
        &["computes on the CPU"],
    );
}
