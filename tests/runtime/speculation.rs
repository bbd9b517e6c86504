//! Guessing tokens changes when they come, and not which.

use std::path::Path;
use std::sync::Arc;

use umrt::decoder::Precision;
use umrt::error::{Result, Status};
use umrt::kernels::Activations;
use umrt::runtime::{
    Cancel, Context, ContextOptions, Flow, GenerateOptions, Generated, Lookup, Model, ModelOptions,
    Prompt, SamplingDevice, Speculation, StopReason, generate,
};
use umrt::sample::{Sampler, SamplerParams};

use crate::common::{assert_fails, context, context_of, open_fixture};

/// Says the same things again and again.
const PROMPT: &str =
    "Once upon a time there was a small bear named Hugo. Hugo lived in the forest.";

fn bundled(name: &str, precision: Precision) -> Arc<Model> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models");
    let options = ModelOptions {
        precision,
        ..ModelOptions::default()
    };
    Model::open(&models.join(name), options).expect("a bundled model")
}

fn tales(precision: Precision) -> Arc<Model> {
    bundled("umrt-tales-4bit", precision)
}

fn draft_context() -> Context {
    context(&bundled("umrt-tales-draft-4bit", Precision::Native))
}

#[derive(Debug, PartialEq)]
struct Told {
    tokens: Vec<i32>,
    text: String,
}

struct Wish<'a> {
    options: GenerateOptions<'a>,
    sampling: SamplerParams,
}

fn wish(max_tokens: usize) -> Wish<'static> {
    Wish {
        options: GenerateOptions {
            prompt: Prompt::Text(PROMPT),
            sequence: 0,
            max_tokens,
            stop: &[],
            ignore_end: true,
            sampling_device: SamplingDevice::Auto,
            constraint: None,
        },
        sampling: SamplerParams::default(),
    }
}

/// From an empty sequence.
fn tell(context: &mut Context, wish: &Wish<'_>, how: Speculation<'_>) -> (Told, Generated) {
    context.trim(0, 0).expect("a sequence");
    let mut sampler = Sampler::new(wish.sampling.clone()).expect("a sampler");
    let mut text = String::new();
    let mut receive = |piece: &str, _| {
        text.push_str(piece);
        Flow::Continue
    };
    let done = generate(
        context,
        &mut sampler,
        &wish.options,
        how,
        None,
        Some(&mut receive),
    );
    let done = done.expect("a text");
    let tokens = context.sequence_tokens(0).expect("tokens");
    (Told { tokens, text }, done)
}

fn plain() -> Speculation<'static> {
    Speculation::default()
}

fn lookup(ngram: usize) -> Speculation<'static> {
    look_up(ngram, 0)
}

fn look_up(ngram: usize, n_draft: usize) -> Speculation<'static> {
    Speculation {
        lookup: Lookup { ngram, n_draft },
        ..Speculation::default()
    }
}

fn draft(context: &mut Context) -> Speculation<'_> {
    Speculation {
        draft: Some(context),
        ..Speculation::default()
    }
}

#[test]
fn greedy_tokens_are_those_of_plain_generation() {
    for precision in [Precision::Native, Precision::Float32] {
        let model = tales(precision);
        let mut context = context(&model);
        let mut drafting = draft_context();
        for repetition_penalty in [0.0, 1.3] {
            let mut wish = wish(50);
            wish.sampling.repetition_penalty = repetition_penalty;
            wish.sampling.repetition_window = 64;
            let (expected, _) = tell(&mut context, &wish, plain());
            for n_draft in [2, 0] {
                let (found, _) = tell(&mut context, &wish, look_up(3, n_draft));
                assert_eq!(found, expected, "looked up, {n_draft} at a time");
                let how = Speculation {
                    lookup: look_up(0, n_draft).lookup,
                    ..draft(&mut drafting)
                };
                let (found, done) = tell(&mut context, &wish, how);
                assert_eq!(found, expected, "drafted, {n_draft} at a time");
                assert!(repetition_penalty > 0.0 || done.drafts.n_accepted > 10);
            }
            let how = Speculation {
                lookup: lookup(4).lookup,
                ..draft(&mut drafting)
            };
            assert_eq!(tell(&mut context, &wish, how).0, expected, "both");
        }
    }
}

#[test]
fn a_model_that_drafts_for_itself_is_mostly_right() {
    let model = tales(Precision::Native);
    let (mut context, mut drafting) = (context(&model), context(&model));
    let (_, done) = tell(&mut context, &wish(80), draft(&mut drafting));
    assert_eq!(done.n_tokens, 80);
    let counts = done.drafts;
    // Those behind the end of a text are cut.
    assert!(counts.n_drafted - counts.n_accepted < 12, "{counts:?}");
    let perf = context.perf();
    assert_eq!(perf.n_drafted as usize, counts.n_drafted);
    assert_eq!(perf.n_accepted as usize, counts.n_accepted);
    assert_eq!(perf.n_decode_tokens, 79);
}

#[test]
fn generation_ends_where_it_would_without_guesses() {
    let model = tales(Precision::Native);
    let small = ContextOptions {
        n_ctx: 60,
        ..ContextOptions::default()
    };
    let (mut context, mut drafting) = (context_of(&model, small), context(&model));
    let mut ended = Vec::new();
    for (max_tokens, stop) in [(0, &[][..]), (7, &[]), (40, &["zebra", "."]), (1, &[])] {
        let mut wish = wish(max_tokens);
        wish.options.stop = stop;
        let (expected, plain_done) = tell(&mut context, &wish, plain());
        for how in [lookup(2), draft(&mut drafting)] {
            let (found, done) = tell(&mut context, &wish, how);
            assert_eq!(found, expected);
            assert_eq!(done.stop_reason, plain_done.stop_reason);
            assert_eq!(done.n_tokens, plain_done.n_tokens);
            assert_eq!(context.n_logits_rows(), 1);
        }
        ended.push(plain_done.stop_reason);
    }
    assert_eq!(
        ended,
        [
            StopReason::ContextFull,
            StopReason::MaxTokens,
            StopReason::StopString,
            StopReason::MaxTokens
        ]
    );
    let mut wish = wish(0);
    wish.options.ignore_end = false;
    let mut roomy = crate::common::context(&model);
    let (expected, done) = tell(&mut roomy, &wish, plain());
    assert_eq!(done.stop_reason, StopReason::End);
    assert_eq!(tell(&mut roomy, &wish, draft(&mut drafting)).0, expected);
}

#[test]
fn a_draft_context_that_is_too_small_stops_drafting() {
    let model = tales(Precision::Native);
    let small = ContextOptions {
        n_ctx: 40,
        ..ContextOptions::default()
    };
    let (mut context, mut drafting) = (context(&model), context_of(&model, small));
    let (expected, _) = tell(&mut context, &wish(50), plain());
    let (found, done) = tell(&mut context, &wish(50), draft(&mut drafting));
    assert_eq!(found, expected);
    assert!(done.drafts.n_drafted > 0 && done.drafts.n_drafted < 40);
}

/// How often pairs of tokens come at the end of short stories of `n` seeds, in classes,
/// and how many tokens were guessed.
fn drawn(
    context: &mut Context,
    mut drafting: Option<&mut Context>,
    seeds: std::ops::Range<u64>,
) -> (Vec<u32>, usize) {
    let (mut counts, mut n_drafted) = (vec![0; 16], 0);
    for seed in seeds {
        let mut wish = wish(4);
        wish.sampling = sampling(seed);
        wish.options.prompt = Prompt::Text("Once upon a time there was a");
        let how = Speculation {
            draft: drafting.as_deref_mut(),
            ..Speculation::default()
        };
        let (told, done) = tell(context, &wish, how);
        let [.., a, b] = told.tokens[..] else {
            unreachable!("a prompt and more")
        };
        counts[((a * 31 + b) % 16) as usize] += 1;
        n_drafted += done.drafts.n_drafted;
    }
    (counts, n_drafted)
}

fn sampling(seed: u64) -> SamplerParams {
    SamplerParams {
        temperature: 1.5,
        top_p: 0.95,
        seed,
        ..SamplerParams::default()
    }
}

fn distance(a: &[u32], b: &[u32]) -> f64 {
    let total = a.iter().sum::<u32>() as f64;
    let differences = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)));
    differences.sum::<f64>() / total / 2.0
}

#[test]
fn sampled_tokens_come_as_often_as_without_guesses() {
    const N: u64 = 250;
    // There a draft model's guesses pay.
    let options = ContextOptions {
        activations: Activations::EightBits,
        ..ContextOptions::default()
    };
    let mut context = context_of(&tales(Precision::Native), options);
    let mut drafting = draft_context();
    let (without, _) = drawn(&mut context, None, 0..N);
    let (by_chance, _) = drawn(&mut context, None, N..2 * N);
    let (with, n_drafted) = drawn(&mut context, Some(&mut drafting), 2 * N..3 * N);
    assert!(n_drafted > N as usize);
    // Two samples of one distribution differ, too.
    let (found, by_chance) = (distance(&without, &with), distance(&without, &by_chance));
    assert!(found < 1.5 * by_chance + 0.02, "{found} beside {by_chance}");
}

#[test]
fn what_does_not_fit_together_is_refused_before_anything_is_evaluated() {
    let model = tales(Precision::Native);
    let mut context = context(&model);
    let mut other = crate::common::context(&open_fixture("llama3-chat-f16"));
    let mut without = crate::common::context(&open_fixture("llama3-f32"));
    let mut fails = |how: Speculation<'_>, status, parts: &[&str]| {
        let mut sampler = Sampler::new(SamplerParams::default()).expect("a sampler");
        let options = wish(5).options;
        let result: Result<_> = generate(
            &mut context,
            &mut sampler,
            &options,
            how,
            None,
            Some(&mut |_, _| Flow::Continue),
        );
        assert_fails(result, status, parts);
        assert_eq!(context.sequence_length(0).expect("a length"), 0);
    };
    let bad = Status::InvalidArgument;
    fails(
        draft(&mut other),
        bad,
        &["another vocabulary: token", "to the model"],
    );
    fails(
        draft(&mut without),
        Status::NotFound,
        &["the draft model", "tokenizer"],
    );
    fails(lookup(1), bad, &["ngram is 1"]);
    fails(look_up(3, 12), bad, &["n_draft is 12", "11"]);
}

#[test]
fn a_cancelled_generation_leaves_both_contexts_usable() {
    let model = tales(Precision::Native);
    let (mut context, mut drafting) = (context(&model), context(&model));
    let (expected, _) = tell(&mut context, &wish(50), plain());
    for n_pieces in [1, 2, 9] {
        context.trim(0, 0).expect("a sequence");
        let cancel = Cancel::new();
        let mut sampler = Sampler::new(SamplerParams::default()).expect("a sampler");
        let mut left = n_pieces;
        let mut receive = |_: &str, _| {
            left -= 1;
            if left == 0 {
                cancel.trigger();
            }
            Flow::Continue
        };
        let options = wish(50).options;
        let how = draft(&mut drafting);
        let result = generate(
            &mut context,
            &mut sampler,
            &options,
            how,
            Some(&cancel),
            Some(&mut receive),
        );
        assert_fails(result, Status::Cancelled, &[]);
        let held = context.sequence_tokens(0).expect("tokens");
        assert_eq!(held, expected.tokens[..held.len()], "only what is certain");
        let (found, _) = tell(&mut context, &wish(50), draft(&mut drafting));
        assert_eq!(found, expected);
    }
}
