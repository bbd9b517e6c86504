//! Generations that run together give what they give alone, whoever joins or leaves.

use std::sync::{Arc, Mutex};

use umrt::decoder::Precision;
use umrt::error::Status;
use umrt::mlx::CpuOps;
use umrt::runtime::{
    Cancel, Context, ContextOptions, Flow, GenerateOptions, Lookup, Model, ModelOptions, Prompt,
    Request, RequestResult, Requests, SamplingDevice, Scheduler, SchedulerOptions, Speculation,
    StopReason, generate,
};
use umrt::sample::{Sampler, SamplerParams};

use crate::common::{Random, append, context_of, fixture, token_ids};

const VOCAB_SIZE: usize = 300;

/// With a tokenizer; in float32, so that it makes no difference how many tokens are
/// computed together.
fn exact_model(cpu_ops: CpuOps) -> Arc<Model> {
    let options = ModelOptions {
        cpu_ops,
        precision: Precision::Float32,
        ..ModelOptions::default()
    };
    Model::open(&fixture("llama3-chat-f16"), options).expect("a model")
}

fn several(model: &Arc<Model>, n_sequences: usize) -> Context {
    let options = ContextOptions {
        n_ctx: 64,
        n_sequences,
        ..ContextOptions::default()
    };
    context_of(model, options)
}

fn scheduler(context: &Context, step_tokens: usize) -> Scheduler {
    Scheduler::new(context, SchedulerOptions { step_tokens })
}

type Heard = Arc<Mutex<Vec<(String, i32)>>>;

/// A job for a request, and what it gives alone.
struct Job {
    prompt: Vec<i32>,
    max_tokens: usize,
    /// Of guesses, once it runs beside others.
    ngram: usize,
    expected: Vec<(String, i32)>,
    heard: Heard,
}

impl Job {
    fn new(model: &Arc<Model>, prompt: Vec<i32>, max_tokens: usize) -> Job {
        let mut job = Job {
            prompt,
            max_tokens,
            ngram: 0,
            expected: Vec::new(),
            heard: Heard::default(),
        };
        let mut expected = Vec::new();
        let mut receive = |text: &str, token| {
            expected.push((text.to_owned(), token));
            Flow::Continue
        };
        let mut alone = several(model, 1);
        let options = job.options();
        generate(
            &mut alone,
            &mut greedy(),
            &options,
            Speculation::default(),
            None,
            Some(&mut receive),
        )
        .expect("a text");
        job.expected = expected;
        job
    }

    fn options(&self) -> GenerateOptions<'_> {
        GenerateOptions {
            prompt: Prompt::Tokens(&self.prompt),
            sequence: 0,
            max_tokens: self.max_tokens,
            stop: &[],
            ignore_end: true,
            sampling_device: SamplingDevice::Auto,
            constraint: None,
        }
    }

    fn request(&self) -> Request<'_> {
        let heard = self.heard.clone();
        Request {
            options: self.options(),
            keeps_sequence: false,
            lookup: Lookup {
                ngram: self.ngram,
                n_draft: 0,
            },
            sampler: Arc::new(Mutex::new(greedy())),
            cancel: None,
            receive: Some(Box::new(move |text, token| {
                heard.lock().unwrap().push((text.to_owned(), token));
                Flow::Continue
            })),
            finished: None,
        }
    }

    #[track_caller]
    fn assert_whole(&self) {
        assert_eq!(*self.heard.lock().unwrap(), self.expected);
    }

    #[track_caller]
    fn assert_beginning(&self) {
        let heard = self.heard.lock().unwrap();
        assert!(self.expected.starts_with(&heard), "{heard:?}");
    }
}

fn greedy() -> Sampler {
    Sampler::new(SamplerParams::default()).expect("a sampler")
}

/// Ids that the tokenizer knows.
fn prompt(seed: u64, n: usize) -> Vec<i32> {
    token_ids(seed, n, VOCAB_SIZE)
}

fn run(scheduler: &mut Scheduler, context: &mut Context) -> usize {
    let mut n_steps = 0;
    loop {
        n_steps += 1;
        let report = scheduler.step(context, None).expect("a step");
        if report.n_active() == 0 {
            return n_steps;
        }
    }
}

#[track_caller]
fn taken(requests: &Requests, id: u64) -> RequestResult {
    requests.take_result(id).expect("a result")
}

#[track_caller]
fn assert_ended_with(result: &RequestResult, status: Status) {
    let error = result.outcome.as_ref().expect_err("an error");
    assert_eq!(error.status(), status, "{error}");
}

fn assert_empty(context: &Context) {
    for sequence in 0..context.n_sequences() as i32 {
        assert_eq!(context.sequence_length(sequence).expect("a sequence"), 0);
    }
}

/// When requests of a pattern come, which of them guess, and when some are cancelled.
/// Gives how many tokens were guessed.
fn random_pattern(model: &Arc<Model>, random: &mut Random) -> usize {
    let mut below = |n: u64| (random.next() % n) as usize;
    let mut context = several(model, 1 + below(4));
    let mut scheduler = scheduler(&context, 1 + below(24));
    let requests = scheduler.requests().clone();
    let jobs: Vec<Job> = (0..8)
        .map(|seed| Job {
            ngram: [0, 2, 3][below(3)],
            ..Job::new(model, prompt(seed, 1 + below(40)), 1 + below(20))
        })
        .collect();
    let arrivals: Vec<usize> = jobs.iter().map(|_| below(30)).collect();
    let cancelled: Vec<Option<usize>> = jobs
        .iter()
        .map(|_| (below(4) == 0).then(|| below(20)))
        .collect();
    let mut ids = vec![None; jobs.len()];
    for step in 0.. {
        for (at, job) in jobs.iter().enumerate() {
            if arrivals[at] == step {
                ids[at] = Some(requests.submit(job.request()).expect("a request"));
            }
            if let (Some(id), Some(after)) = (ids[at], cancelled[at])
                && arrivals[at] + after == step
            {
                // It may have ended by now.
                let _ = requests.cancel(id);
            }
        }
        let report = scheduler.step(&mut context, None).expect("a step");
        if report.n_active() == 0 && step > 30 {
            break;
        }
    }
    let mut n_drafted = 0;
    for (at, job) in jobs.iter().enumerate() {
        let result = taken(&requests, ids[at].expect("an id"));
        assert!(job.ngram > 0 || result.drafts.n_drafted == 0);
        n_drafted += result.drafts.n_drafted;
        match result.outcome {
            Ok(_) => job.assert_whole(),
            Err(error) => {
                assert_eq!(error.status(), Status::Cancelled);
                assert!(cancelled[at].is_some());
                job.assert_beginning();
            }
        }
    }
    assert_empty(&context);
    n_drafted
}

#[test]
fn requests_give_what_they_give_alone_whoever_joins_or_leaves() {
    for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
        let model = exact_model(cpu_ops);
        let n_drafted = (0..3).map(|seed| random_pattern(&model, &mut Random(seed)));
        assert!(n_drafted.sum::<usize>() > 0, "some guessed");
    }
}

#[test]
fn nobody_who_decodes_waits_for_a_prompt() {
    let model = exact_model(CpuOps::Kernels);
    for step_tokens in [1, 2, 7] {
        let mut context = several(&model, 4);
        let mut scheduler = scheduler(&context, step_tokens);
        let requests = scheduler.requests().clone();
        let talker = Job::new(&model, prompt(1, 1), 30);
        let readers: Vec<Job> = (2..4)
            .map(|seed| Job::new(&model, prompt(seed, 40), 4))
            .collect();
        let id = requests.submit(talker.request()).expect("a request");
        scheduler.step(&mut context, None).expect("a step");
        for reader in &readers {
            requests.submit(reader.request()).expect("a request");
        }
        for step in 1..30 {
            assert_eq!(
                requests.take_result(id).expect_err("busy").status(),
                Status::Busy
            );
            let report = scheduler.step(&mut context, None).expect("a step");
            assert!(report.n_decode_tokens >= 1);
            let is_reading = step <= 80 / step_tokens.max(2);
            assert!(!is_reading || report.n_prompt_tokens >= 1, "step {step}");
        }
        assert_eq!(taken(&requests, id).n_tokens, 30);
        run(&mut scheduler, &mut context);
        readers.iter().chain([&talker]).for_each(Job::assert_whole);
    }
}

#[test]
fn a_step_has_no_more_tokens_than_it_may() {
    let model = exact_model(CpuOps::Kernels);
    let mut context = several(&model, 3);
    let mut scheduler = scheduler(&context, 16);
    let requests = scheduler.requests().clone();
    let jobs: Vec<Job> = (0..6)
        .map(|seed| Job::new(&model, prompt(seed, 37), 9))
        .collect();
    for job in &jobs {
        requests.submit(job.request()).expect("a request");
    }
    let mut n_tokens = 0;
    loop {
        let report = scheduler.step(&mut context, None).expect("a step");
        assert!(
            report.n_prompt_tokens + report.n_decode_tokens <= 16,
            "{report:?}"
        );
        assert!(report.n_running <= 3);
        n_tokens += report.n_prompt_tokens + report.n_decode_tokens;
        if report.n_active() == 0 {
            break;
        }
    }
    assert_eq!(n_tokens, 6 * (37 + 9 - 1));
}

#[test]
fn requests_begin_in_the_order_in_which_they_came() {
    let model = exact_model(CpuOps::Kernels);
    let mut context = several(&model, 1);
    let mut scheduler = scheduler(&context, 0);
    let requests = scheduler.requests().clone();
    let order = Arc::new(Mutex::new(Vec::new()));
    let jobs: Vec<Job> = (0..4)
        .map(|seed| Job::new(&model, prompt(seed, 5), 3))
        .collect();
    for job in &jobs {
        let order = order.clone();
        let request = Request {
            finished: Some(Box::new(move |result| {
                order.lock().unwrap().push(result.id)
            })),
            ..job.request()
        };
        requests.submit(request).expect("a request");
    }
    run(&mut scheduler, &mut context);
    assert_eq!(*order.lock().unwrap(), [1, 2, 3, 4]);
}

#[test]
fn times_tell_waiting_from_computing() {
    let model = exact_model(CpuOps::Kernels);
    let mut context = several(&model, 1);
    let mut scheduler = scheduler(&context, 0);
    let requests = scheduler.requests().clone();
    let jobs: Vec<Job> = (0..2)
        .map(|seed| Job::new(&model, prompt(seed, 5), 8))
        .collect();
    for job in &jobs {
        requests.submit(job.request()).expect("a request");
    }
    run(&mut scheduler, &mut context);
    let (first, second) = (taken(&requests, 1), taken(&requests, 2));
    assert_eq!(first.outcome.expect("an end"), StopReason::MaxTokens);
    assert_eq!((first.n_prompt_tokens, first.n_tokens), (5, 8));
    assert!(second.queue_time >= first.prompt_time + first.decode_time);
    assert!(first.queue_time < first.prompt_time + first.decode_time);
}

#[test]
fn a_cancelled_step_leaves_all_requests_where_they_were() {
    for cpu_ops in [CpuOps::Kernels, CpuOps::Stock] {
        let model = exact_model(cpu_ops);
        let mut context = several(&model, 2);
        let mut scheduler = scheduler(&context, 7);
        let requests = scheduler.requests().clone();
        let jobs: Vec<Job> = (0..3)
            .map(|seed| Job::new(&model, prompt(seed, 20), 9))
            .collect();
        for job in &jobs {
            requests.submit(job.request()).expect("a request");
        }
        let cancel = Cancel::new();
        loop {
            cancel.trigger();
            let error = scheduler
                .step(&mut context, Some(&cancel))
                .expect_err("an error");
            assert_eq!(error.status(), Status::Cancelled);
            cancel.reset();
            let report = scheduler.step(&mut context, Some(&cancel)).expect("a step");
            if report.n_active() == 0 {
                break;
            }
        }
        jobs.iter().for_each(Job::assert_whole);
    }
}

#[test]
fn a_request_in_a_callers_sequence_goes_on_behind_it() {
    let model = exact_model(CpuOps::Kernels);
    let mut context = several(&model, 2);
    let mut scheduler = scheduler(&context, 4);
    let requests = scheduler.requests().clone();
    let job = Job::new(&model, prompt(1, 30), 9);
    append(&mut context, 1, &job.prompt[..11]);
    let in_sequence = |sequence| Request {
        options: GenerateOptions {
            prompt: Prompt::Tokens(&job.prompt[11..]),
            sequence,
            ..job.options()
        },
        keeps_sequence: true,
        ..job.request()
    };
    let outside = requests.submit(in_sequence(2)).expect_err("an error");
    assert_eq!(outside.status(), Status::InvalidArgument);
    requests.submit(in_sequence(1)).expect("a request");
    let other = Job::new(&model, prompt(2, 9), 5);
    requests.submit(other.request()).expect("a request");
    run(&mut scheduler, &mut context);
    job.assert_whole();
    other.assert_whole();
    assert_eq!(context.sequence_length(1).expect("a sequence"), 30 + 9 - 1);

    // What does not fit behind it ends that request alone.
    let whole = Request {
        options: GenerateOptions {
            sequence: 1,
            ..job.options()
        },
        ..in_sequence(1)
    };
    let too_long = requests.submit(whole).expect("a request");
    let fitting = requests.submit(in_sequence(1)).expect("a request");
    run(&mut scheduler, &mut context);
    assert_ended_with(&taken(&requests, too_long), Status::NoSpace);
    let end = taken(&requests, fitting).outcome.expect("an end");
    assert_eq!(end, StopReason::ContextFull);
}

#[test]
fn a_sequence_changed_by_others_ends_its_request_alone() {
    let model = exact_model(CpuOps::Kernels);
    let mut context = several(&model, 2);
    let mut scheduler = scheduler(&context, 0);
    let requests = scheduler.requests().clone();
    let jobs: Vec<Job> = (0..2)
        .map(|seed| Job::new(&model, prompt(seed, 9), 9))
        .collect();
    for job in &jobs {
        requests.submit(job.request()).expect("a request");
    }
    scheduler.step(&mut context, None).expect("a step");
    context.trim(0, 3).expect("a sequence");
    run(&mut scheduler, &mut context);
    assert_ended_with(&taken(&requests, 1), Status::InvalidArgument);
    jobs[0].assert_beginning();
    jobs[1].assert_whole();
    assert_empty(&context);
}

#[test]
fn many_results_come_in_the_order_of_their_requests() {
    let model = exact_model(CpuOps::Kernels);
    let mut context = several(&model, 2);
    let jobs: Vec<Job> = (0..4)
        .map(|at| Job::new(&model, prompt(at, 9), 9 - at as usize))
        .collect();
    let scheduler = scheduler(&context, 0);
    let requests = scheduler.requests().clone();
    let bad = Request {
        options: GenerateOptions {
            prompt: Prompt::Tokens(&[]),
            ..jobs[0].options()
        },
        ..jobs[0].request()
    };
    let mut submitted: Vec<_> = jobs
        .iter()
        .map(|job| requests.submit(job.request()))
        .collect();
    submitted.insert(2, requests.submit(bad));
    let (results, outcome) = scheduler.run(&mut context, submitted, None);
    outcome.expect("all steps");
    let ids: Vec<u64> = results.iter().map(|result| result.id).collect();
    assert_eq!(ids, [1, 2, 0, 3, 4]);
    assert_ended_with(&results[2], Status::InvalidArgument);
    jobs.iter().for_each(Job::assert_whole);
}
