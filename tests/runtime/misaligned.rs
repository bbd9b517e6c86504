//! Where a tensor starts in its file makes no difference.

use umrt::mlx::Device;

use crate::common::damaged::Damaged;
use crate::common::{assert_identical, context, eval_all, open, token_ids};

/// Logits with the tensors at addresses that are `remainder` modulo 8.
fn logits(fixture: &str, remainder: usize) -> Vec<f32> {
    let copy = Damaged::copy_of(fixture).with_weights(|weights| weights.misalign(remainder));
    let model = open(copy.path());
    let info = model.checkpoint();
    let offsets = info.tensors().iter().map(|tensor| tensor.offset);
    let odd = offsets.filter(|offset| offset % 2 == 1).count();
    assert_eq!(odd > info.tensors().len() / 2, remainder % 2 == 1);
    if model.device() == Device::Cpu {
        let memory = model.memory().expect("figures");
        assert_eq!(memory.weights_copied, 0, "used where they are mapped");
        assert_eq!(memory.weights_mapped, model.info().weight_bytes);
    }
    let mut context = context(&model);
    let tokens = token_ids(1, 24, 128);
    let mut logits = eval_all(&mut context, &tokens[..20]);
    for token in &tokens[20..] {
        logits.extend(eval_all(&mut context, &[*token]));
    }
    logits
}

fn misaligned_tensors_give_identical_logits(fixtures: &[&str]) {
    for fixture in fixtures {
        let aligned = logits(fixture, 0);
        for remainder in 1..8 {
            assert_identical(&logits(fixture, remainder), &aligned);
        }
    }
}

#[test]
fn misaligned_float32_tensors_give_identical_logits() {
    misaligned_tensors_give_identical_logits(&["llama3-f32", "qwen3-f32", "llama-bias-f32"]);
}

#[test]
fn misaligned_half_precision_tensors_give_identical_logits() {
    misaligned_tensors_give_identical_logits(&["mistral-bf16", "llama3-tied-bf16", "qwen2-f16"]);
}

#[test]
fn misaligned_quantized_tensors_give_identical_logits() {
    misaligned_tensors_give_identical_logits(&[
        "llama-q4-mixed-bf16",
        "llama-q8-g32-f32",
        "qwen3-q8-g128-f16",
        "llama-q3-q6-mixed-bf16",
        "llama-mxfp4-mixed-bf16",
    ]);
}
