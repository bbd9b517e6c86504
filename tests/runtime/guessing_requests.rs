//! Requests beside others may guess, which changes when their tokens come and not which.

use std::path::Path;
use std::sync::{Arc, Mutex};

use umrt::error::Status;
use umrt::kernels::Activations;
use umrt::runtime::{
    Cancel, Context, ContextOptions, Flow, GenerateOptions, Lookup, Model, ModelOptions, Prompt,
    Request, RequestResult, SamplingDevice, Scheduler, SchedulerOptions, Speculation, StepReport,
    generate,
};
use umrt::sample::{Sampler, SamplerParams};

use crate::common::context_of;

const PROMPTS: [&str; 3] = [
    "Once upon a time there was a small bear named Hugo. Hugo lived in the forest. Once upon a \
     time there was a small",
    "The fox saw a bird. The fox saw a tree. The fox saw a pond. The fox saw a boat. The fox saw",
    "Ben had a red ball. The ball was red. Mia had a blue ball. The ball was blue. Tom had a",
];
const LOOKUP: Lookup = Lookup {
    ngram: 2,
    n_draft: 0,
};

fn tales() -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models/umrt-tales-4bit");
    Model::open(&path, ModelOptions::default()).expect("the bundled model")
}

fn several(model: &Arc<Model>, n_sequences: usize) -> Context {
    let options = ContextOptions {
        n_ctx: 160,
        n_sequences,
        activations: Activations::EightBits,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

fn options(prompt: &str, max_tokens: usize) -> GenerateOptions<'_> {
    GenerateOptions {
        prompt: Prompt::Text(prompt),
        sequence: 0,
        max_tokens,
        stop: &[],
        ignore_end: true,
        sampling_device: SamplingDevice::Auto,
        constraint: None,
    }
}

/// Of texts that repeat themselves.
fn sampler(temperature: f32) -> Sampler {
    let params = SamplerParams {
        temperature,
        frequency_penalty: -2.0,
        repetition_window: 32,
        seed: 7,
        ..SamplerParams::default()
    };
    Sampler::new(params).expect("a sampler")
}

type Heard = Arc<Mutex<String>>;

fn request(prompt: &str, max_tokens: usize, lookup: Lookup) -> (Request<'_>, Heard) {
    let heard = Heard::default();
    let ear = heard.clone();
    let request = Request {
        options: options(prompt, max_tokens),
        keeps_sequence: false,
        lookup,
        sampler: Arc::new(Mutex::new(sampler(0.0))),
        cancel: None,
        receive: Some(Box::new(move |text, _| {
            ear.lock().unwrap().push_str(text);
            Flow::Continue
        })),
        finished: None,
    };
    (request, heard)
}

/// What a prompt gives by itself.
fn alone(
    model: &Arc<Model>,
    (prompt, max_tokens): (&str, usize),
    temperature: f32,
    lookup: Lookup,
) -> String {
    let mut text = String::new();
    let mut receive = |piece: &str, _| {
        text.push_str(piece);
        Flow::Continue
    };
    let how = Speculation {
        lookup,
        ..Speculation::default()
    };
    let (mut context, mut sampler) = (several(model, 1), sampler(temperature));
    let options = options(prompt, max_tokens);
    generate(
        &mut context,
        &mut sampler,
        &options,
        how,
        None,
        Some(&mut receive),
    )
    .expect("a text");
    text
}

fn scheduler(context: &Context) -> Scheduler {
    Scheduler::new(context, SchedulerOptions::default())
}

fn run(scheduler: &mut Scheduler, context: &mut Context) -> Vec<StepReport> {
    let mut reports = Vec::new();
    loop {
        let report = scheduler.step(context, None).expect("a step");
        reports.push(report);
        if report.n_active() == 0 {
            return reports;
        }
    }
}

fn result(scheduler: &Scheduler, id: u64) -> RequestResult {
    scheduler.requests().take_result(id).expect("a result")
}

#[test]
fn text_is_that_without_guesses_while_others_join_and_leave() {
    let model = tales();
    let mut context = several(&model, 3);
    let mut scheduler = scheduler(&context);
    // Of different lengths, the second some steps later, the third when the first has left.
    let lengths = [24, 40, 30];
    let mut heard = Vec::new();
    for (prompt, n) in PROMPTS.into_iter().zip(lengths) {
        let (request, text) = request(prompt, n, LOOKUP);
        scheduler.requests().submit(request).expect("a request");
        heard.push(text);
        for _ in 0..4 {
            scheduler.step(&mut context, None).expect("a step");
        }
    }
    run(&mut scheduler, &mut context);
    let mut n_accepted = 0;
    for (at, (prompt, n)) in PROMPTS.into_iter().zip(lengths).enumerate() {
        let expected = alone(&model, (prompt, n), 0.0, Lookup::default());
        assert_eq!(*heard[at].lock().unwrap(), expected, "request {at}");
        let result = result(&scheduler, at as u64 + 1);
        assert_eq!(result.n_tokens, n);
        n_accepted += result.drafts.n_accepted;
    }
    assert!(n_accepted > 5, "{n_accepted}");
}

#[test]
fn what_is_counted_adds_up() {
    let model = tales();
    let mut context = several(&model, 2);
    let mut scheduler = scheduler(&context);
    for prompt in &PROMPTS[..2] {
        let (request, _) = request(prompt, 40, LOOKUP);
        scheduler.requests().submit(request).expect("a request");
    }
    let reports = run(&mut scheduler, &mut context);
    let [first, second] = [1, 2].map(|id| result(&scheduler, id));
    let n_drafted: usize = reports.iter().map(|report| report.n_drafted).sum();
    assert_eq!(first.drafts.n_drafted + second.drafts.n_drafted, n_drafted);
    assert!(n_drafted > 0);
    let n_decoded: usize = reports.iter().map(|report| report.n_decode_tokens).sum();
    // A request's last token may have been guessed, and then it was evaluated.
    let most = first.n_tokens + second.n_tokens;
    assert!((most - 2..=most).contains(&n_decoded), "{n_decoded}");
    let perf = context.perf();
    assert_eq!(perf.n_drafted as usize, n_drafted);
    let n_accepted = first.drafts.n_accepted + second.drafts.n_accepted;
    assert_eq!(perf.n_accepted as usize, n_accepted);
    assert_eq!(perf.n_decode_tokens as usize, most - 2);
}

#[test]
fn nobody_guesses_while_a_prompt_is_read_or_many_decode() {
    let model = tales();
    let mut context = several(&model, 13);
    let mut scheduler = scheduler(&context);
    let submit = |scheduler: &Scheduler| {
        let (request, _) = request(PROMPTS[1], 30, LOOKUP);
        scheduler.requests().submit(request).expect("a request");
    };
    submit(&scheduler);
    for _ in 0..3 {
        scheduler.step(&mut context, None).expect("a step");
    }
    submit(&scheduler);
    let report = scheduler.step(&mut context, None).expect("a step");
    assert!(report.n_prompt_tokens > 0 && report.n_drafted == 0);
    for _ in 0..11 {
        submit(&scheduler);
    }
    scheduler.step(&mut context, None).expect("a step");
    let report = scheduler.step(&mut context, None).expect("a step");
    assert_eq!((report.n_running, report.n_drafted), (13, 0));
    let rows = |report: &StepReport| report.n_running + report.n_drafted;
    let reports = run(&mut scheduler, &mut context);
    assert!(reports.iter().all(|report| rows(report) <= 13));
}

#[test]
fn a_request_that_is_cancelled_keeps_only_what_is_certain() {
    let model = tales();
    let whole = alone(&model, (PROMPTS[1], 40), 0.0, Lookup::default());
    for n_pieces in [1, 4, 9] {
        let mut context = several(&model, 2);
        let mut scheduler = scheduler(&context);
        let cancel = Cancel::new();
        let (listening, heard) = request(PROMPTS[1], 40, LOOKUP);
        let (trigger, ear, mut left) = (cancel.clone(), heard.clone(), n_pieces);
        let kept = Request {
            keeps_sequence: true,
            cancel: Some(cancel),
            receive: Some(Box::new(move |text, _| {
                ear.lock().unwrap().push_str(text);
                left -= 1;
                if left == 0 {
                    trigger.trigger();
                }
                Flow::Continue
            })),
            ..listening
        };
        let id = scheduler.requests().submit(kept).expect("a request");
        let (other, beside) = request(PROMPTS[2], 20, LOOKUP);
        scheduler.requests().submit(other).expect("a request");
        run(&mut scheduler, &mut context);
        let result = result(&scheduler, id);
        let error = result.outcome.expect_err("an error");
        assert_eq!(error.status(), Status::Cancelled);
        let heard = heard.lock().unwrap();
        assert!(whole.starts_with(&*heard), "{heard:?}");
        let n_held = context.sequence_length(0).expect("a sequence");
        assert_eq!(n_held, result.n_prompt_tokens + result.n_tokens - 1);
        let expected = alone(&model, (PROMPTS[2], 20), 0.0, Lookup::default());
        assert_eq!(*beside.lock().unwrap(), expected);
    }
}

#[test]
fn a_step_that_is_cancelled_leaves_no_guesses_behind() {
    let model = tales();
    let mut context = several(&model, 1);
    let mut scheduler = scheduler(&context);
    let (request, heard) = request(PROMPTS[1], 30, LOOKUP);
    scheduler.requests().submit(request).expect("a request");
    let cancel = Cancel::new();
    loop {
        cancel.trigger();
        let error = scheduler.step(&mut context, Some(&cancel));
        assert_eq!(error.expect_err("an error").status(), Status::Cancelled);
        cancel.reset();
        let report = scheduler.step(&mut context, Some(&cancel)).expect("a step");
        if report.n_active() == 0 {
            break;
        }
    }
    let expected = alone(&model, (PROMPTS[1], 30), 0.0, Lookup::default());
    assert_eq!(*heard.lock().unwrap(), expected);
    assert!(result(&scheduler, 1).drafts.n_accepted > 0);
}

#[test]
fn a_seed_gives_a_request_what_it_gives_alone_with_guesses() {
    let model = tales();
    let mut context = several(&model, 2);
    let mut scheduler = scheduler(&context);
    let (greedy, heard) = request(PROMPTS[0], 40, LOOKUP);
    let sampled = Request {
        sampler: Arc::new(Mutex::new(sampler(0.8))),
        ..greedy
    };
    scheduler.requests().submit(sampled).expect("a request");
    run(&mut scheduler, &mut context);
    let expected = alone(&model, (PROMPTS[0], 40), 0.8, LOOKUP);
    assert_eq!(*heard.lock().unwrap(), expected);
}

#[test]
fn what_is_no_way_to_guess_is_refused_when_handed_in() {
    let context = several(&tales(), 1);
    let scheduler = scheduler(&context);
    for (ngram, n_draft, part) in [(1, 0, "ngram is 1"), (2, 12, "n_draft is 12")] {
        let (request, _) = request(PROMPTS[0], 4, Lookup { ngram, n_draft });
        let error = scheduler.requests().submit(request).expect_err("an error");
        assert_eq!(error.status(), Status::InvalidArgument);
        assert!(error.message().contains(part), "{error}");
    }
}
