//! The code for GPUs, on GPUs that are the CPU: weights are sent, decoding runs one
//! step ahead, and failures of MLX are put in its mouth.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    Batch, Context, ContextOptions, DeviceChoice, Flow, GenerateOptions, Model, ModelOptions,
    Prompt, SamplingDevice, Speculation, estimate, generate,
};
use crate::checkpoint::LoadMode;
use crate::error::Status;
use crate::mlx::{CpuOps, Device, FIRST_PRETENDED_GPU};
use crate::sample::{Sampler, SamplerParams};

const GPU: usize = FIRST_PRETENDED_GPU;
/// Of a test that loses it.
const LOST_GPU: usize = FIRST_PRETENDED_GPU + 1;

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models/umrt-tales-4bit")
}

fn open(device: DeviceChoice) -> Arc<Model> {
    let options = ModelOptions {
        device,
        cpu_ops: CpuOps::Stock,
        ..ModelOptions::default()
    };
    Model::open(&bundled(), options).expect("a model")
}

fn context_on(device: DeviceChoice) -> Context {
    Context::new(&open(device), &ContextOptions::default()).expect("a context")
}

fn generated(
    context: &mut Context,
    sampling_device: SamplingDevice,
) -> (Vec<i32>, crate::error::Result<()>) {
    let mut sampler = Sampler::new(SamplerParams::default()).expect("greedy");
    let options = GenerateOptions {
        prompt: Prompt::Text("The little dog"),
        sequence: 0,
        max_tokens: 20,
        stop: &[],
        ignore_end: true,
        sampling_device,
        constraint: None,
    };
    let mut tokens = Vec::new();
    let result = generate(
        context,
        &mut sampler,
        &options,
        Speculation::default(),
        None,
        Some(&mut |_, token| {
            tokens.push(token);
            Flow::Continue
        }),
    );
    (tokens, result.map(drop))
}

#[test]
fn a_gpu_computes_what_the_cpu_does() {
    let mut contexts = [DeviceChoice::Cpu, DeviceChoice::Gpu(GPU)].map(context_on);
    let tokens = [5, 9, 300, 17];
    let [expected, found] = contexts.each_mut().map(|context| {
        context.eval(&Batch::of(&tokens), None).expect("evaluated");
        context.logits(0).expect("logits").to_vec()
    });
    assert_eq!(found, expected);
    let [expected, found] = contexts
        .each_mut()
        .map(|context| generated(context, SamplingDevice::Auto).0);
    assert_eq!(found, expected);
    assert!(found.len() > 10);
}

#[test]
fn a_gpu_draws_the_tokens_of_the_sampler() {
    let drawn = |sampling_device| {
        let params = SamplerParams {
            temperature: 0.8,
            top_k: 50,
            top_p: 0.95,
            seed: 11,
            ..SamplerParams::default()
        };
        let mut sampler = Sampler::new(params).expect("valid");
        let mut context = context_on(DeviceChoice::Gpu(GPU));
        let options = GenerateOptions {
            prompt: Prompt::Text("The little dog"),
            sequence: 0,
            max_tokens: 20,
            stop: &[],
            ignore_end: true,
            sampling_device,
            constraint: None,
        };
        let speculation = Speculation::default();
        generate(
            &mut context,
            &mut sampler,
            &options,
            speculation,
            None,
            None,
        )
        .expect("tokens");
        context.sequence_tokens(0).expect("there")
    };
    let expected = drawn(SamplingDevice::Cpu);
    assert_eq!(drawn(SamplingDevice::Gpu), expected);
    assert_eq!(drawn(SamplingDevice::Auto), expected);
}

#[test]
fn weights_on_a_gpu_are_counted_there_and_not_here() {
    let model = open(DeviceChoice::Gpu(GPU));
    assert_eq!(model.device(), Device::Gpu(GPU));
    let memory = model.memory().expect("figures");
    let weight_bytes = model.info().weight_bytes;
    assert_eq!(memory.weights_mapped, 0);
    assert_eq!(
        (memory.weights_copied, memory.on_gpu),
        (weight_bytes, weight_bytes)
    );
    let mut context = Context::new(&model, &ContextOptions::default()).expect("a context");
    context.eval(&Batch::of(&[1, 2]), None).expect("evaluated");
    let held = context.memory();
    assert_eq!(held.on_gpu, held.total());
    assert_eq!(context.planned_bytes().gpu_index, Some(GPU));
    let demand = context.planned_bytes().demand();
    assert_eq!(demand.scratch, 0);
    assert!(demand.gpu > 0 && demand.gpu_scratch > 0);
    assert_eq!(demand.gpu_index, GPU);
    assert_eq!(demand.private, context.planned_bytes().tables);
}

#[test]
fn weights_that_are_made_or_read_are_counted_here_and_on_the_gpu() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (folder, load) in [
        ("foreign/awq", LoadMode::Map),
        ("foreign/fp8-blocks", LoadMode::Map),
        ("models/llama3-f32", LoadMode::Read),
    ] {
        let path = fixtures.join(folder);
        let options = || ModelOptions {
            device: DeviceChoice::Gpu(GPU),
            cpu_ops: CpuOps::Stock,
            load,
            ..ModelOptions::default()
        };
        let estimated = estimate(&path, &options(), &ContextOptions::default()).expect(folder);
        let model = Model::open(&path, options()).expect(folder);
        let memory = model.memory().expect("figures");
        assert_eq!(memory.weights_mapped, 0, "{folder}");
        assert_eq!(memory.on_gpu, model.info().weight_bytes, "{folder}");
        assert_eq!(memory.on_gpu, estimated.model.on_gpu, "{folder}");
        assert!(estimated.model.copied > 0, "{folder}");
        let here = memory.weights_copied - memory.on_gpu;
        assert!(here >= estimated.model.copied, "{folder}: {here}");
        let demand = estimated.model.demand(options().caps());
        assert_eq!((demand.gpu, demand.gpu_index), (memory.on_gpu, GPU));
        assert!(demand.private >= estimated.model.copied, "{folder}");
    }
}

#[test]
fn blocks_of_gguf_files_are_counted_where_they_become_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/llama-mixed.gguf");
    let options = || ModelOptions {
        device: DeviceChoice::Gpu(GPU),
        cpu_ops: CpuOps::Stock,
        ..ModelOptions::default()
    };
    let predicted = estimate(&path, &options(), &ContextOptions::default());
    let predicted = predicted.expect("figures").model;
    let model = Model::open(&path, options()).expect("a model");
    let memory = model.memory().expect("figures");
    assert_eq!((memory.weights_mapped, predicted.mapped), (0, 0));
    // The factors of the rotation are in the file, but no weights.
    let unused = predicted.on_gpu - memory.on_gpu;
    assert!(unused <= 64, "{unused}");
    assert_eq!(memory.weights_copied, memory.on_gpu + predicted.copied);
}

#[test]
fn a_gpu_without_memory_is_a_status_and_the_context_goes_on() {
    let mut context = context_on(DeviceChoice::Gpu(GPU));
    let (expected, _) = generated(
        &mut context_on(DeviceChoice::Gpu(GPU)),
        SamplingDevice::Auto,
    );
    context
        .ops()
        .stream()
        .fail_next("cudaMallocAsync(&data, size, stream) failed: out of memory");
    let (tokens, result) = generated(&mut context, SamplingDevice::Auto);
    let error = result.expect_err("no memory");
    assert_eq!(error.status(), Status::OutOfMemory, "{error}");
    assert!(tokens.is_empty());
    context.trim(0, 0).expect("empty");
    let (tokens, result) = generated(&mut context, SamplingDevice::Auto);
    result.expect("works again");
    assert_eq!(tokens, expected);
}

#[test]
fn a_gpu_that_fails_while_decoding_ahead_leaves_what_was_finished() {
    let mut context = context_on(DeviceChoice::Gpu(GPU));
    let mut sampler = Sampler::new(SamplerParams::default()).expect("greedy");
    let options = GenerateOptions {
        prompt: Prompt::Tokens(&[5, 9, 300]),
        sequence: 0,
        max_tokens: 20,
        stop: &[],
        ignore_end: true,
        sampling_device: SamplingDevice::Auto,
        constraint: None,
    };
    let ops = context.ops().clone();
    let mut n_texts = 0;
    let result = generate(
        &mut context,
        &mut sampler,
        &options,
        Speculation::default(),
        None,
        Some(&mut |_, _| {
            n_texts += 1;
            if n_texts == 3 {
                ops.stream().fail_next("[matmul] refused");
            }
            Flow::Continue
        }),
    );
    let error = result.expect_err("refused");
    assert_eq!(error.status(), Status::Backend, "{error}");
    assert!(error.message().contains("[matmul] refused"), "{error}");
    let length = context.sequence_length(0).expect("there");
    // Arrays of a step that was not computed are lost, and the message says so.
    assert_eq!(length == 0, error.message().contains("was lost"), "{error}");
    context.trim(0, 0).expect("empty");
    context.eval(&Batch::of(&[1, 2]), None).expect("goes on");
}

#[test]
fn a_gpu_that_is_lost_is_said_so_by_every_later_call() {
    let mut context = context_on(DeviceChoice::Gpu(LOST_GPU));
    let model = context.model().clone();
    context
        .ops()
        .stream()
        .fail_next("cudaGraphLaunch(graph_exec, stream_) failed: unspecified launch failure");
    let first = context
        .eval(&Batch::of(&[1, 2]), None)
        .expect_err("the GPU has failed");
    assert_eq!(first.status(), Status::Backend);
    assert!(first.message().contains("cannot be used again"), "{first}");
    let again = context.eval(&Batch::of(&[1]), None).expect_err("lost");
    let another = Context::new(&model, &ContextOptions::default()).err();
    for later in [again, another.expect("lost")] {
        assert_eq!(later.status(), Status::Backend, "{later}");
        assert!(
            later.message().contains("start the process anew"),
            "{later}"
        );
    }
    context.trim(0, 0).expect("empty");
    drop(context);
    let mut elsewhere = context_on(DeviceChoice::Cpu);
    elsewhere
        .eval(&Batch::of(&[1]), None)
        .expect("the CPU goes on");
}
