use std::path::Path;
use std::sync::Arc;

use super::{LoadedBytes, Mixer, Weights};
use crate::checkpoint::Checkpoint;
use crate::decoder::spec::DecoderSpec;
use crate::mlx::{Array, CpuOps, Device, Stream, Weight};

fn load(fixture: &str) -> (Arc<Checkpoint>, Weights, LoadedBytes) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/models")
        .join(fixture);
    let checkpoint = Arc::new(Checkpoint::open(&path).expect("a checkpoint"));
    let spec = DecoderSpec::from_config(checkpoint.config()).expect("a spec");
    let stream = Stream::acquire(Device::Cpu).expect("a stream");
    let (weights, bytes) = Weights::load(
        &checkpoint,
        &spec,
        (&stream, CpuOps::Kernels),
        &mut |_, _| Ok(()),
    )
    .expect("weights");
    (checkpoint, weights, bytes)
}

fn assert_in_place(checkpoint: &Checkpoint, name: &str, array: &Array) {
    let tensor = checkpoint.required(name).expect(name);
    let mapped = checkpoint.tensor_bytes(tensor);
    assert_eq!(
        array.data_address().expect("there"),
        mapped.as_ptr(),
        "{name}"
    );
    assert_eq!(array.bytes(), mapped.len(), "{name}");
}

#[test]
fn weights_are_used_where_the_file_is_mapped() {
    let (checkpoint, weights, bytes) = load("llama3-f32");
    assert_eq!(bytes.copied, 0);
    let norm = weights.final_norm.weight.as_ref().expect("a weight");
    assert_in_place(&checkpoint, "model.norm.weight", norm);
    let mixer = weights.layers[1].mixer.as_ref();
    let Some(Mixer::Heads(heads)) = mixer.map(|mixer| &mixer.inputs) else {
        panic!("neither latent vectors nor states");
    };
    let Weight::Float(query) = &heads.linears[0].weight else {
        panic!("stored as floats");
    };
    assert_in_place(&checkpoint, "model.layers.1.self_attn.q_proj.weight", query);
}

#[test]
fn quantized_weights_are_used_where_the_file_is_mapped() {
    let (checkpoint, weights, bytes) = load("qwen3-q4-g32-bf16");
    assert_eq!(bytes.copied, 0);
    let Weight::Quantized(table) = &weights.embedding.weight else {
        panic!("stored in groups");
    };
    for (part, array) in [
        ("weight", &table.codes),
        ("scales", &table.scales),
        ("biases", table.biases.as_ref().expect("affine")),
    ] {
        assert_in_place(&checkpoint, &format!("model.embed_tokens.{part}"), array);
    }
}

#[test]
fn the_map_lives_until_the_last_weight_is_gone() {
    let (checkpoint, weights, _) = load("llama3-f32");
    let held = Arc::downgrade(&checkpoint);
    drop(checkpoint);
    assert!(held.upgrade().is_some(), "the arrays hold it");
    drop(weights);
    assert!(held.upgrade().is_none(), "nothing holds it any more");
}
