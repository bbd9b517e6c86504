//! Generations under a constraint: whatever the model would rather say, and whoever runs
//! beside them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use umrt::decoder::Precision;
use umrt::error::{Result, Status};
use umrt::grammar::{Constraint, ConstraintKind};
use umrt::mlx::CpuOps;
use umrt::runtime::{
    Batch, Context, ContextOptions, Flow, GenerateOptions, Generated, Lookup, Model, ModelOptions,
    Prompt, Request, SamplingDevice, Scheduler, SchedulerOptions, Speculation, StopReason,
    generate, sample,
};
use umrt::sample::{Sampler, SamplerParams};

use crate::common::{assert_fails, context_of, open, open_with};

const PERSON: &str = r#"{"type": "object", "properties": {
    "name": {"type": "string", "maxLength": 12},
    "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "pets": {"type": "array", "items": {"enum": ["cat", "dog", "Wölfchen 🐺"]}, "maxItems": 2}},
    "required": ["name", "age", "pets"], "additionalProperties": false}"#;
const DATE: &str = "(19|20)[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9]";

fn bundled(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/models")
        .join(name)
}

fn tales() -> Arc<Model> {
    open(&bundled("umrt-tales-4bit"))
}

fn small(model: &Arc<Model>, n_sequences: usize) -> Context {
    let options = ContextOptions {
        n_ctx: 256,
        n_sequences,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

fn constraint(model: &Model, kind: ConstraintKind, text: &str) -> Constraint {
    model.text().constraint(kind, text).expect("a constraint")
}

fn person(model: &Model) -> Constraint {
    constraint(model, ConstraintKind::JsonSchema, PERSON)
}

fn warm(seed: u64) -> Sampler {
    let params = SamplerParams {
        temperature: 1.0,
        seed,
        ..SamplerParams::default()
    };
    Sampler::new(params).expect("a sampler")
}

fn greedy() -> Sampler {
    Sampler::new(SamplerParams::default()).expect("a sampler")
}

fn options(constraint: Option<&Constraint>) -> GenerateOptions<'_> {
    GenerateOptions {
        prompt: Prompt::Text("Once upon a time there was"),
        sequence: 0,
        max_tokens: 150,
        stop: &[],
        ignore_end: false,
        sampling_device: SamplingDevice::Auto,
        constraint,
    }
}

fn try_run(
    context: &mut Context,
    sampler: &mut Sampler,
    options: &GenerateOptions<'_>,
    speculation: Speculation<'_>,
) -> Result<(String, Generated)> {
    let mut text = String::new();
    let mut receive = |part: &str, _| {
        text.push_str(part);
        Flow::Continue
    };
    let receive = Some(&mut receive as _);
    context.trim(0, 0)?;
    let generated = generate(context, sampler, options, speculation, None, receive)?;
    Ok((text, generated))
}

fn run(
    context: &mut Context,
    sampler: &mut Sampler,
    options: &GenerateOptions<'_>,
) -> (String, Generated) {
    try_run(context, sampler, options, Speculation::default()).expect("a text")
}

#[track_caller]
fn assert_person(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let keys = ["name", "age", "pets"];
    assert!(keys.iter().all(|key| value.get(key).is_some()), "{text}");
    assert!(
        value["age"].as_u64().is_some_and(|age| age <= 120),
        "{text}"
    );
    assert!(
        value["name"]
            .as_str()
            .is_some_and(|name| name.chars().count() <= 12),
        "{text}"
    );
}

#[track_caller]
fn assert_date(text: &str) {
    let bytes = text.as_bytes();
    assert_eq!(bytes.len(), 10, "{text}");
    assert!(text.starts_with("19") || text.starts_with("20"), "{text}");
    assert_eq!((bytes[4], bytes[7]), (b'-', b'-'), "{text}");
}

#[test]
fn texts_follow_a_schema_at_any_temperature() {
    let model = tales();
    let person = person(&model);
    let mut context = context_of(
        &model,
        ContextOptions {
            n_ctx: 512,
            ..ContextOptions::default()
        },
    );
    let mut n_ended = 0;
    for mut sampler in (0..5).map(warm).chain([greedy()]) {
        let options = GenerateOptions {
            max_tokens: 300,
            ..options(Some(&person))
        };
        let (text, generated) = run(&mut context, &mut sampler, &options);
        match generated.stop_reason {
            StopReason::End => {
                n_ended += 1;
                assert_person(&text);
            }
            reason => assert_eq!(reason, StopReason::MaxTokens),
        }
    }
    assert!(n_ended >= 3, "{n_ended}");
}

#[test]
fn a_text_ends_with_the_token_that_nothing_can_follow() {
    let model = tales();
    let date = constraint(&model, ConstraintKind::Regex, DATE);
    let mut context = small(&model, 1);
    for seed in 0..4 {
        let (text, generated) = run(&mut context, &mut warm(seed), &options(Some(&date)));
        assert_eq!(generated.stop_reason, StopReason::End);
        assert_date(&text);
        let n_held = context.sequence_length(0).expect("a length");
        assert_eq!(n_held, generated.n_prompt_tokens + generated.n_tokens - 1);
    }
}

#[test]
fn what_ends_a_text_early_leaves_a_beginning() {
    let model = tales();
    let date = constraint(&model, ConstraintKind::Regex, DATE);
    let mut context = small(&model, 1);
    let whole = run(&mut context, &mut warm(1), &options(Some(&date))).0;
    let few = GenerateOptions {
        max_tokens: 3,
        ..options(Some(&date))
    };
    let (text, generated) = run(&mut context, &mut warm(1), &few);
    assert_eq!(generated.stop_reason, StopReason::MaxTokens);
    assert!(
        whole.starts_with(&text) && text.len() < whole.len(),
        "{text}"
    );
    let stopping = GenerateOptions {
        stop: &["-"],
        ..options(Some(&date))
    };
    let (text, generated) = run(&mut context, &mut warm(1), &stopping);
    assert_eq!(
        (text.as_str(), generated.stop_reason),
        (&whole[..4], StopReason::StopString)
    );
}

fn by_draft(draft: &mut Context) -> Speculation<'_> {
    Speculation {
        draft: Some(draft),
        lookup: Lookup::default(),
    }
}

#[test]
fn guesses_are_checked_against_the_constraint() {
    let model = tales();
    let draft_model = open(&bundled("umrt-tales-draft-4bit"));
    let list = constraint(
        &model,
        ConstraintKind::Regex,
        "(the little dog, ){4}(the cat|a bird)",
    );
    let person = person(&model);
    let mut context = small(&model, 1);
    let mut draft = small(&draft_model, 1);
    for constraint in [&list, &person] {
        let options = options(Some(constraint));
        let plain = run(&mut context, &mut greedy(), &options);
        let lookup = Lookup {
            ngram: 2,
            n_draft: 0,
        };
        let by_lookup = Speculation {
            draft: None,
            lookup,
        };
        let (text, generated) =
            try_run(&mut context, &mut greedy(), &options, by_lookup).expect("a text");
        assert_eq!(text, plain.0);
        assert_eq!(generated.n_tokens, plain.1.n_tokens);
        if std::ptr::eq(constraint, &list) {
            assert!(generated.drafts.n_accepted > 0, "{:?}", generated.drafts);
        }
        let (text, _) =
            try_run(&mut context, &mut greedy(), &options, by_draft(&mut draft)).expect("a text");
        assert_eq!(text, plain.0);
        for seed in 0..3 {
            let (text, generated) = try_run(
                &mut context,
                &mut warm(seed),
                &options,
                by_draft(&mut draft),
            )
            .expect("a text");
            if generated.stop_reason == StopReason::End && std::ptr::eq(constraint, &person) {
                assert_person(&text);
            }
        }
    }
}

#[test]
fn requests_with_different_constraints_give_what_they_give_alone() {
    // It makes no difference then how many tokens are computed together.
    let options_of_model = ModelOptions {
        precision: Precision::Float32,
        ..ModelOptions::default()
    };
    let model = Model::open(&bundled("umrt-tales-4bit"), options_of_model).expect("a model");
    let (person, date) = (
        person(&model),
        constraint(&model, ConstraintKind::Regex, DATE),
    );
    let jobs = [
        Some(&person),
        None,
        Some(&date),
        Some(&person),
        Some(&date),
        None,
    ];
    let job_options = |job| GenerateOptions {
        max_tokens: 40,
        ..options(job)
    };
    let mut alone = small(&model, 1);
    let expected: Vec<String> = (0..)
        .zip(jobs)
        .map(|(seed, job)| run(&mut alone, &mut warm(seed), &job_options(job)).0)
        .collect();
    let mut context = small(&model, 3);
    let mut scheduler = Scheduler::new(&context, SchedulerOptions::default());
    let heard: Vec<Arc<Mutex<String>>> = jobs.iter().map(|_| Arc::default()).collect();
    for ((seed, job), heard) in (0..).zip(jobs).zip(&heard) {
        let heard = heard.clone();
        let request = Request {
            options: job_options(job),
            keeps_sequence: false,
            lookup: Lookup {
                ngram: [0, 2][seed as usize % 2],
                n_draft: 0,
            },
            sampler: Arc::new(Mutex::new(warm(seed))),
            cancel: None,
            receive: Some(Box::new(move |text, _| {
                heard.lock().expect("a text").push_str(text);
                Flow::Continue
            })),
            finished: None,
        };
        scheduler.requests().submit(request).expect("a request");
    }
    while scheduler
        .step(&mut context, None)
        .expect("a step")
        .n_active()
        > 0
    {}
    for (index, (heard, expected)) in heard.iter().zip(&expected).enumerate() {
        let heard = heard.lock().expect("a text");
        match jobs[index] {
            Some(_) if std::ptr::eq(jobs[index].unwrap(), &date) => assert_date(&heard),
            _ => {}
        }
        // Guesses take other random numbers.
        if index % 2 == 0 {
            assert_eq!(*heard, *expected, "{index}");
        }
    }
}

#[test]
fn threads_share_a_constraint() {
    let model = tales();
    let person = person(&model);
    let text = |seed| {
        run(
            &mut small(&model, 1),
            &mut warm(seed),
            &options(Some(&person)),
        )
        .0
    };
    let expected: Vec<String> = (0..4).map(text).collect();
    let found: Vec<String> = thread::scope(|scope| {
        let text = &text;
        let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || text(seed))).collect();
        threads
            .into_iter()
            .map(|one| one.join().expect("a text"))
            .collect()
    });
    assert_eq!(found, expected);
}

#[test]
fn a_sampler_is_free_again_behind_a_generation_with_a_constraint() {
    let model = tales();
    let date = constraint(&model, ConstraintKind::Regex, DATE);
    let mut context = small(&model, 1);
    let mut sampler = warm(3);
    run(&mut context, &mut sampler, &options(Some(&date)));
    assert!(sampler.constraint().is_none());
    let mut failing = GenerateOptions {
        max_tokens: 5,
        ..options(None)
    };
    run(&mut context, &mut sampler, &failing);
    failing.constraint = Some(&date);
    failing.ignore_end = true;
    let refused = try_run(&mut context, &mut sampler, &failing, Speculation::default());
    assert_fails(refused, Status::InvalidArgument, &["ignore_end"]);
    assert!(sampler.constraint().is_none());
}

#[test]
fn a_loop_of_ones_own_follows_a_constraint() {
    let model = tales();
    let date = constraint(&model, ConstraintKind::Regex, DATE);
    let mut context = small(&model, 1);
    context
        .eval(&Batch::of(&[1, 2, 3]), None)
        .expect("a prompt");
    let mut sampler = warm(5);
    sampler.constrain(Some(date.begin()));
    let mut tokens = Vec::new();
    loop {
        let token = sample(&context, &mut sampler, 0).expect("a token");
        if model.text().is_end(token) {
            break;
        }
        tokens.push(token);
        context.eval(&Batch::of(&[token]), None).expect("a step");
    }
    let tokenizer = model.text().tokenizer().expect("a tokenizer");
    assert_date(&tokenizer.decode(&tokens, true).expect("a text"));
    sampler.reset();
    assert!(sampler.constraint().is_none());
}

#[test]
fn constraints_of_another_model_are_refused() {
    let (model, other) = (tales(), tales());
    let date = constraint(&other, ConstraintKind::Regex, DATE);
    let mut context = small(&model, 1);
    let refused = try_run(
        &mut context,
        &mut greedy(),
        &options(Some(&date)),
        Speculation::default(),
    );
    assert_fails(refused, Status::InvalidArgument, &["another model"]);
    context.eval(&Batch::of(&[1]), None).expect("a token");
    let mut sampler = greedy();
    sampler.constrain(Some(date.begin()));
    let refused = sample(&context, &mut sampler, 0);
    assert_fails(refused, Status::InvalidArgument, &["another model"]);
}

/// MLX's operations on the CPU are what GPUs run.
#[test]
fn on_a_gpu_tokens_are_chosen_on_the_cpu_or_not_at_all() {
    let model = open_with(&bundled("umrt-tales-4bit"), CpuOps::Stock);
    let date = constraint(&model, ConstraintKind::Regex, DATE);
    let mut context = small(&model, 1);
    let (text, _) = run(&mut context, &mut warm(2), &options(Some(&date)));
    assert_date(&text);
    let on_device = GenerateOptions {
        sampling_device: SamplingDevice::Gpu,
        ..options(Some(&date))
    };
    let refused = try_run(
        &mut context,
        &mut greedy(),
        &on_device,
        Speculation::default(),
    );
    assert_fails(
        refused,
        Status::Unsupported,
        &["constraints", "sampling_device"],
    );
}

#[test]
fn a_vocabulary_is_taken_apart_once_and_counted() {
    let model = tales();
    let text = || model.memory().expect("figures").text;
    model.text().tokenizer().expect("a tokenizer");
    let before = text();
    let first = person(&model);
    let with_vocabulary = text();
    assert!(
        with_vocabulary > before + 2048 * 12,
        "{before} {with_vocabulary}"
    );
    drop(constraint(&model, ConstraintKind::Json, ""));
    drop(first);
    assert_eq!(text(), with_vocabulary);
}
