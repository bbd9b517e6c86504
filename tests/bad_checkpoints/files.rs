//! Files that are missing, cut off or of another shape.

use std::fs;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};
use umrt::error::Status;

use crate::common::damaged::Damaged;
use crate::common::{Random, assert_fails, assert_identical, fixture, open};
use crate::{FLOATS, TIED, logits_of, refused};

#[test]
fn a_pipe_in_place_of_a_tokenizer_is_refused_and_not_waited_for() {
    let damaged = Damaged::copy_of(FLOATS);
    let pipe = damaged.path().join("tokenizer.json");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let model = open(damaged.path());
    // Whoever waited would get this, and the writer waits for whoever reads.
    thread::spawn(move || fs::write(pipe, "{}"));
    let tokenizer = model.text().tokenizer().map(drop);
    assert_fails(
        tokenizer,
        Status::Format,
        &["tokenizer.json", "not a regular file"],
    );
}

#[test]
fn a_path_that_is_no_model_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("nowhere");
    refused(&missing, Status::NotFound, &["nowhere"]);
    refused(directory.path(), Status::NotFound, &["no config.json"]);
    fs::write(directory.path().join("config.json"), "{}").expect("a file");
    refused(
        directory.path(),
        Status::NotFound,
        &["no safetensors files"],
    );
    let text = directory.path().join("readme.txt");
    fs::write(&text, "hello").expect("a file");
    refused(
        &text,
        Status::InvalidArgument,
        &["readme.txt", "not a model directory"],
    );
}

#[test]
fn truncated_weights_are_refused_with_both_lengths() {
    let whole = fs::metadata(fixture(FLOATS).join("model.safetensors"))
        .expect("weights")
        .len();
    for kept in [0, 7, 8, 100, whole - 1] {
        let damaged =
            Damaged::copy_of(FLOATS).with_weight_bytes(|bytes| bytes.truncate(kept as usize));
        let length = format!("the file has {kept}");
        refused(
            damaged.path(),
            Status::Format,
            &["model.safetensors", "truncated", &length],
        );
    }
}

#[test]
fn a_wrong_header_length_is_refused() {
    for length in [0, 1, 40, 1 << 27, u64::MAX] {
        let damaged = Damaged::copy_of(FLOATS)
            .with_weight_bytes(|bytes| bytes[..8].copy_from_slice(&length.to_le_bytes()));
        refused(
            damaged.path(),
            Status::Format,
            &["model.safetensors", "header"],
        );
    }
}

#[test]
fn a_missing_tensor_is_named() {
    for name in [
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ] {
        let damaged = Damaged::copy_of(FLOATS).with_weights(|weights| weights.remove(name));
        refused(damaged.path(), Status::Format, &[name, "model.safetensors"]);
    }
}

#[test]
fn a_shape_that_does_not_fit_config_json_is_named_with_the_one_that_would() {
    let shape = |name: &'static str, shape: Value| {
        Damaged::copy_of(FLOATS).with_weights(|weights| weights.entry(name)["shape"] = shape)
    };
    #[rustfmt::skip]
    let cases = [
        ("model.layers.1.self_attn.k_proj.weight", json!([64, 32]), ["[64, 32]", "[32, 64]"]),
        ("model.layers.0.input_layernorm.weight", json!([8, 8]), ["[8, 8]", "[64]"]),
        ("lm_head.weight", json!([64, 128]), ["[64, 128]", "[128, 64]"]),
        ("model.embed_tokens.weight", json!([1, 128, 64]), ["[1, 128, 64]", "[128, 64]"]),
    ];
    for (name, stored, [found, expected]) in cases {
        let damaged = shape(name, stored);
        refused(damaged.path(), Status::Format, &[name, found, expected]);
    }
    let vocabulary = Damaged::copy_of(FLOATS).with_config("vocab_size", json!(127));
    refused(
        vocabulary.path(),
        Status::Format,
        &["model.embed_tokens.weight", "[128, 64]", "[127, 64]"],
    );
}

#[test]
fn element_types_that_cannot_be_computed_with_are_named() {
    let name = "model.layers.0.mlp.up_proj.weight";
    for stored in ["I32", "U32"] {
        let damaged = Damaged::copy_of(FLOATS)
            .with_weights(|weights| weights.entry(name)["dtype"] = stored.into());
        refused(damaged.path(), Status::Unsupported, &[name, stored]);
    }
}

#[test]
fn tied_embeddings_need_no_output_projection_and_ignore_one() {
    let expected = logits_of(&fixture(TIED));
    let superfluous = Damaged::copy_of(TIED).with_weights(|weights| {
        let mut random = Random(1);
        let bytes: Vec<u8> = (0..128 * 64 * 2).map(|_| random.next() as u8).collect();
        weights.add("lm_head.weight", "BF16", &[128, 64], &bytes);
    });
    assert_identical(&logits_of(superfluous.path()), &expected);

    let untied = Damaged::copy_of(TIED).with_config("tie_word_embeddings", json!(false));
    refused(untied.path(), Status::Format, &["lm_head.weight"]);
}

#[cfg(unix)]
#[test]
fn a_model_behind_symbolic_links_is_the_model() {
    let directory = tempfile::tempdir().expect("a directory");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(fixture(FLOATS), &link).expect("a link");
    assert_identical(&logits_of(&link), &logits_of(&fixture(FLOATS)));

    // As in the cache of the Hugging Face hub: links to files elsewhere.
    let snapshot = directory.path().join("snapshot");
    fs::create_dir(&snapshot).expect("a directory");
    for file in ["config.json", "model.safetensors"] {
        let target = fixture(FLOATS).join(file);
        std::os::unix::fs::symlink(target, snapshot.join(file)).expect("a link");
    }
    assert_identical(&logits_of(&snapshot), &logits_of(&fixture(FLOATS)));
    fs::remove_file(snapshot.join("model.safetensors")).expect("a link");
    std::os::unix::fs::symlink("gone", snapshot.join("model.safetensors")).expect("a link");
    refused(&snapshot, Status::NotFound, &["model.safetensors"]);
}
