//! Every call of MLX's fails once, one after the other, in everything that handles
//! do: each failure is a status, nothing is lost without a word, and the next try works.

#[allow(dead_code)]
#[path = "../../tests/common/process.rs"]
mod process;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    Batch, Context, ContextOptions, DeviceChoice, GenerateOptions, Model, ModelOptions, Prompt,
    SamplingDevice, Speculation, budget_info, generate, memory_stats,
};
use crate::error::{Result, Status};
use crate::memory::Demand;
use crate::mlx::{self, CpuOps, failing_at};
use crate::sample::{Sampler, SamplerParams};

const TOKENS: [i32; 7] = [35, 10, 38, 59, 4, 7, 12];
const FIXTURES: [&str; 4] = [
    "lfm2-q4-g32-bf16",
    "llama3-chat-f16",
    "llama3-q4-g64-f16",
    "mixtral-q4-g32-bf16",
];

struct Place {
    fixture: &'static str,
    cpu_ops: CpuOps,
}

impl Place {
    fn path(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/models")
            .join(self.fixture)
    }

    fn try_open(&self) -> Result<Arc<Model>> {
        let options = ModelOptions {
            device: DeviceChoice::Cpu,
            cpu_ops: self.cpu_ops,
            ..ModelOptions::default()
        };
        Model::open(&self.path(), options)
    }

    fn open(&self) -> Arc<Model> {
        self.try_open().expect("a model")
    }

    fn context(&self) -> Context {
        try_context(&self.open()).expect("a context")
    }
}

fn try_context(model: &Arc<Model>) -> Result<Context> {
    let options = ContextOptions {
        n_ctx: 64,
        n_sequences: 2,
        prefill_chunk: 4,
        // What threads keep for the next step would differ from run to run.
        n_threads: 1,
        ..ContextOptions::default()
    };
    Context::new(model, &options)
}

/// Everything that is counted, which has to be back when all is freed.
#[derive(Debug, PartialEq)]
struct Held([usize; 6], Demand);

impl Held {
    fn now() -> Held {
        mlx::clear_cache().expect("cleared");
        let stats = memory_stats().expect("figures");
        let held = [
            stats.weights.weights_mapped,
            stats.weights.weights_copied,
            stats.contexts.kv_reserved,
            stats.contexts.logits,
            stats.scratch(),
            stats.mlx.active,
        ];
        Held(held, budget_info().expect("figures").reserved)
    }
}

/// Does `act` with its first call of MLX's failing, then with its second and so on, of
/// many with fewer and fewer, until there are no more. `go_on` is told of the failure, and
/// has to find what `act` used usable. Returns how many calls failed.
fn each_failure<S>(
    make: impl Fn() -> S,
    act: impl Fn(&mut S) -> Result<()>,
    go_on: impl Fn(&mut S, Result<()>),
) -> usize {
    let mut warm = make();
    act(&mut warm).expect("nothing fails");
    drop(warm);
    let before = Held::now();
    let mut n = 1;
    for n_failures in 0.. {
        let mut state = make();
        let (result, has_failed) = failing_at(n, || act(&mut state));
        if let Err(error) = &result {
            assert!(has_failed, "call {n}: {error}");
            assert_eq!(error.status(), Status::Backend, "call {n}: {error}");
        }
        go_on(&mut state, result);
        drop(state);
        assert_eq!(Held::now(), before, "after call {n} failed");
        if !has_failed {
            return n_failures;
        }
        n += 1 + n / 64;
    }
    unreachable!("everything ends")
}

fn eval(context: &mut Context) -> Result<Vec<f32>> {
    context.eval(&Batch::of(&TOKENS), None)?;
    context.logits(0).map(<[f32]>::to_vec)
}

fn eval_anew(context: &mut Context) -> Vec<f32> {
    context.trim(0, 0).expect("a sequence");
    eval(context).expect("evaluated")
}

/// The tokens of the prompt and those behind it.
fn generate_tokens(context: &mut Context) -> Result<Vec<i32>> {
    let mut sampler = Sampler::new(SamplerParams::default())?;
    let options = GenerateOptions {
        prompt: Prompt::Tokens(&TOKENS),
        sequence: 0,
        max_tokens: 4,
        stop: &[],
        ignore_end: true,
        sampling_device: SamplingDevice::Auto,
        constraint: None,
    };
    generate(
        context,
        &mut sampler,
        &options,
        Speculation::default(),
        None,
        None,
    )?;
    context.sequence_tokens(0)
}

/// Whether a failed evaluation left a sequence as it was, or said that it did not.
fn assert_kept_or_told(context: &Context, length: usize, error: &crate::error::Error) {
    let is_told = error.message().contains("was lost");
    let expected = if is_told { 0 } else { length };
    assert_eq!(
        context.sequence_length(0).expect("there"),
        expected,
        "{error}"
    );
}

fn opening(place: &Place) -> usize {
    let open = |model: &mut Option<Arc<Model>>| {
        *model = Some(place.try_open()?);
        Ok(())
    };
    each_failure(
        || None,
        open,
        |model, result| {
            assert_eq!(model.is_some(), result.is_ok());
            *model = None;
            open(model).expect("opened");
        },
    )
}

fn making_a_context(place: &Place) -> usize {
    each_failure(
        || (place.open(), None),
        |(model, context)| {
            *context = Some(try_context(model)?);
            Ok(())
        },
        |(model, _), _| drop(try_context(model).expect("a context")),
    )
}

fn evaluating(place: &Place) -> usize {
    let expected = eval(&mut place.context()).expect("evaluated");
    each_failure(
        || place.context(),
        |context| eval(context).map(|logits| assert_eq!(logits, expected)),
        |context, result| {
            if let Err(error) = result {
                // It may have come from reading the logits.
                let length = context.sequence_length(0).expect("there");
                assert!([0, TOKENS.len()].contains(&length), "{length}: {error}");
            }
            assert_eq!(eval_anew(context), expected);
        },
    )
}

fn evaluating_behind_tokens(place: &Place) -> usize {
    let mut context = place.context();
    eval(&mut context).expect("evaluated");
    let expected = eval(&mut context).expect("evaluated");
    drop(context);
    each_failure(
        || {
            let mut context = place.context();
            eval(&mut context).expect("evaluated");
            context
        },
        |context| context.eval(&Batch::of(&TOKENS), None),
        |context, result| {
            if let Err(error) = result {
                assert_kept_or_told(context, TOKENS.len(), &error);
                if context.sequence_length(0).expect("there") == 0 {
                    eval(context).expect("evaluated");
                }
                context.eval(&Batch::of(&TOKENS), None).expect("evaluated");
            }
            assert_eq!(context.logits(0).expect("logits"), expected);
        },
    )
}

fn generating(place: &Place) -> usize {
    let expected = generate_tokens(&mut place.context()).expect("generated");
    each_failure(
        || place.context(),
        |context| generate_tokens(context).map(|tokens| assert_eq!(tokens, expected)),
        |context, _| {
            context.trim(0, 0).expect("a sequence");
            assert_eq!(generate_tokens(context).expect("generated"), expected);
        },
    )
}

fn saving(place: &Place) -> usize {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let make = || {
        let mut context = place.context();
        eval(&mut context).expect("evaluated");
        context.save(0, file.path()).expect("saved");
        context
    };
    let expected = {
        let mut context = make();
        std::fs::read(file.path()).map(|bytes| (bytes, eval(&mut context).expect("evaluated")))
    };
    let (bytes, logits) = expected.expect("read");
    each_failure(
        make,
        |context| context.save(0, file.path()),
        |context, _| {
            assert_eq!(std::fs::read(file.path()).expect("the former file"), bytes);
            context.save(0, file.path()).expect("saved");
            assert_eq!(std::fs::read(file.path()).expect("read"), bytes);
            assert_eq!(eval(context).expect("evaluated"), logits);
        },
    )
}

fn loading(place: &Place) -> usize {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut saved = place.context();
    eval(&mut saved).expect("evaluated");
    saved.save(0, file.path()).expect("saved");
    let expected = eval(&mut saved).expect("evaluated");
    drop(saved);
    each_failure(
        || {
            let mut context = place.context();
            context
                .eval(&Batch::of(&TOKENS[..2]), None)
                .expect("evaluated");
            context
        },
        |context| context.load(0, file.path()),
        |context, result| {
            if let Err(error) = result {
                assert_kept_or_told(context, 2, &error);
                context.load(0, file.path()).expect("loaded");
            }
            assert_eq!(eval(context).expect("evaluated"), expected);
        },
    )
}

fn changing_sequences(place: &Place) -> usize {
    let expected = eval(&mut place.context()).expect("evaluated");
    each_failure(
        || {
            let mut context = place.context();
            eval(&mut context).expect("evaluated");
            context
        },
        |context| {
            context.fork(0, 1)?;
            // What a recurrent layer knows of tokens cannot be taken back.
            let has_states = place.fixture.starts_with("lfm2");
            context.trim(1, if has_states { TOKENS.len() } else { 3 })?;
            let batch = Batch {
                sequences: Some(&[1]),
                ..Batch::of(&TOKENS[..1])
            };
            context.eval(&batch, None)
        },
        |context, _| assert_eq!(eval_anew(context), expected),
    )
}

/// Freeing cannot fail; it has to give everything back nevertheless.
fn freeing(place: &Place) -> usize {
    each_failure(
        || {
            let mut context = place.context();
            eval(&mut context).expect("evaluated");
            Some(context)
        },
        |context| {
            *context = None;
            Ok(())
        },
        |_, result| result.expect("freed"),
    )
}

/// Gives how many calls of MLX's it saw fail.
type Operation = fn(&Place) -> usize;

const OPERATIONS: [(&str, Operation); 9] = [
    ("open", opening),
    ("make a context", making_a_context),
    ("evaluate", evaluating),
    ("evaluate behind tokens", evaluating_behind_tokens),
    ("generate", generating),
    ("save", saving),
    ("load", loading),
    ("change sequences", changing_sequences),
    ("free", freeing),
];

fn all_operations(test: &str, cpu_ops: CpuOps) {
    process::isolated(&format!("runtime::failure_tests::{test}"), || {
        for fixture in FIXTURES {
            let place = Place { fixture, cpu_ops };
            for (name, operation) in OPERATIONS {
                let n_failed = operation(&place);
                println!(r#"mlx-failures ["{fixture}", "{cpu_ops:?}", "{name}", {n_failed}]"#);
            }
        }
    });
}

#[test]
fn any_call_of_mlx_may_fail_with_kernels() {
    all_operations("any_call_of_mlx_may_fail_with_kernels", CpuOps::Kernels);
}

#[test]
fn any_call_of_mlx_may_fail_with_operations_of_mlx() {
    all_operations(
        "any_call_of_mlx_may_fail_with_operations_of_mlx",
        CpuOps::Stock,
    );
}
