//! Where models are, and what their headers say.

use std::fs;

use umrt::decoder::Precision;
use umrt::error::Status;
use umrt::runtime::{Adapter, ContextOptions, Model, ModelOptions, estimate, inspect};

use crate::common::process::uses_of;
use crate::common::{self, assert_fails, context, eval_all, relative_difference, try_open};
use crate::logits::{FLOAT32_BOUND, expected};
use crate::{damaged, file, folder};

#[test]
fn headers_say_what_a_model_is_and_takes() {
    let info = inspect(&file("llama-chat-q4_0")).expect("a header");
    assert_eq!((info.quant_bits, info.quant_group_size), (4, 32));
    assert!(info.has_tokenizer && info.has_chat_template);
    assert_eq!(info.spec.vocab_size, 320);
    let source = inspect(&common::fixture("llama3-chat-f16")).expect("headers");
    assert_eq!(info.n_parameters, source.n_parameters);

    let options = (ModelOptions::default(), ContextOptions::default());
    let estimated = estimate(&file("llama-mixed"), &options.0, &options.1).expect("figures");
    assert_eq!(estimated.model.copied, 0);
    assert!(estimated.weights.packed > estimated.weights.float32);
}

#[test]
fn a_directory_with_one_gguf_file_is_a_model() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::copy(file("llama-mixed"), directory.path().join("a.gguf")).expect("a copy");
    let model = common::open(directory.path());
    assert_eq!(model.info().spec.n_layers, 2);
    fs::copy(file("llama-mixed"), directory.path().join("b.gguf")).expect("a copy");
    let opened = try_open(directory.path());
    assert_fails(opened, Status::InvalidArgument, &["2 GGUF files"]);
}

#[test]
fn a_model_in_parts_is_opened_by_any_of_them_or_by_their_directory() {
    let part = |number: usize| format!("parts-{number:05}-of-00003.gguf");
    let directory = tempfile::tempdir().expect("a directory");
    for number in 1..=3 {
        let name = part(number);
        fs::copy(folder().join(&name), directory.path().join(&name)).expect("a copy");
    }
    let (ids, logits) = expected("parts");
    let options = || ModelOptions {
        precision: Precision::Float32,
        ..ModelOptions::default()
    };
    let second = directory.path().join(part(2));
    for path in [directory.path(), &second] {
        let model = Model::open(path, options()).expect("a model");
        let found = eval_all(&mut context(&model), &ids);
        assert!(relative_difference(&found, &logits) < FLOAT32_BOUND);
        assert_eq!(model.memory().expect("figures").weights_copied, 0);
    }
    fs::copy(directory.path().join(part(3)), &second).expect("a copy");
    let opened = try_open(directory.path());
    assert_fails(opened, Status::Format, &["parts-00002", "number 1"]);
    fs::remove_file(&second).expect("removed");
    let opened = try_open(directory.path());
    assert_fails(opened, Status::NotFound, &["parts-00002-of-00003.gguf"]);
    let renamed = directory.path().join("whole.gguf");
    fs::rename(directory.path().join(part(1)), &renamed).expect("renamed");
    assert_fails(try_open(&renamed), Status::Unsupported, &["one of 3 parts"]);
}

#[test]
fn adapters_are_refused() {
    let model = common::open(&file("llama-mixed"));
    let adapter = Adapter::open(&model, &common::fixture("llama3-f32")).map(|_| ());
    assert_fails(adapter, Status::Unsupported, &["GGUF"]);
}

#[test]
fn a_file_that_was_closed_leaves_no_mapping() {
    let (_directory, path) = damaged("llama-mixed", |_| {});
    let model = common::open(&path);
    let mut context = context(&model);
    eval_all(&mut context, &[1, 2, 3]);
    drop(context);
    drop(model);
    assert_eq!(uses_of(&path), 0);
}
