//! Files with something wrong in them.

use std::fs;

use proptest::prelude::*;
use umrt::error::Status;

use crate::common::process::uses_of;
use crate::common::{assert_fails, try_open};
use crate::{behind, damaged, file, put};

#[track_caller]
fn refused(change: impl FnOnce(&mut Vec<u8>), status: Status, parts: &[&str]) {
    let (_directory, path) = damaged("llama-mixed", change);
    assert_fails(try_open(&path), status, parts);
    assert_eq!(uses_of(&path), 0, "nothing stays open or mapped");
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let format = Status::Format;
    refused(|bytes| put(bytes, 0, b"GGML"), format, &["not a GGUF file"]);
    refused(
        |bytes| put(bytes, 4, &[1]),
        Status::Unsupported,
        &["version 1"],
    );
    let big_endian = [0, 0, 0, 3];
    refused(
        |bytes| put(bytes, 4, &big_endian),
        Status::Unsupported,
        &["big-endian"],
    );
    refused(
        |bytes| put(bytes, 8, &[255; 8]),
        format,
        &["tensors", "limit"],
    );
    refused(
        |bytes| put(bytes, 16, &[255; 8]),
        format,
        &["entries", "limit"],
    );
    refused(|bytes| put(bytes, 16, &[255, 255]), format, &["model.gguf"]);
    refused(|bytes| put(bytes, 24, &[255; 8]), format, &["limit"]);
    for kept in [0, 3, 4, 7, 20, 100, 500] {
        refused(|bytes| bytes.truncate(kept), format, &["truncated"]);
    }
    let whole = fs::metadata(file("llama-mixed")).expect("a file").len() as usize;
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(whole - 100);
    refused(cut, format, &["truncated", "the file has"]);
}

#[test]
fn metadata_that_makes_no_sense_is_refused() {
    let value_of = |bytes: &[u8], key: &str| behind(bytes, key) + 4;
    let unknown_kind = |bytes: &mut Vec<u8>| {
        let at = behind(bytes, "llama.block_count");
        put(bytes, at, &[77]);
    };
    refused(
        unknown_kind,
        Status::Format,
        &["block_count", "unknown type 77"],
    );
    let other_architecture = |bytes: &mut Vec<u8>| {
        let at = behind(bytes, "general.architecture") + 4 + 8;
        put(bytes, at, b"mamba");
    };
    refused(
        other_architecture,
        Status::Unsupported,
        &["\"mamba\"", "qwen3"],
    );
    let no_layers = |bytes: &mut Vec<u8>| {
        let at = value_of(bytes, "llama.block_count");
        put(bytes, at, &[0; 4]);
    };
    refused(no_layers, Status::Format, &["num_hidden_layers"]);
    let without_key = |bytes: &mut Vec<u8>| {
        let at = behind(bytes, "llama.block_count") - 5;
        put(bytes, at, b"xxxxx");
    };
    refused(without_key, Status::Format, &["llama.block_count"]);
    let more_layers = |bytes: &mut Vec<u8>| {
        let at = value_of(bytes, "llama.block_count");
        put(bytes, at, &[3]);
    };
    refused(more_layers, Status::Format, &["no tensor", "layers.2."]);
}

#[test]
fn tensors_that_make_no_sense_are_refused() {
    /// Behind its name a matrix has its rank, two lengths, its type and its offset.
    const TYPE: usize = 4 + 2 * 8;
    const OFFSET: usize = TYPE + 4;
    let with = |name: &'static str, field: usize, with: &'static [u8]| {
        move |bytes: &mut Vec<u8>| {
            let at = behind(bytes, name) + field;
            put(bytes, at, with);
        }
    };
    let name = "blk.0.attn_q.weight";
    let change = with(name, TYPE, &[16]);
    refused(change, Status::Unsupported, &[name, "IQ2_XXS", "Q8_0"]);
    let change = with(name, TYPE, &[200]);
    refused(change, Status::Unsupported, &[name, "number 200"]);
    refused(with(name, OFFSET, &[1]), Status::Format, &[name, "aligned"]);
    refused(with(name, OFFSET, &[0; 8]), Status::Format, &["overlap"]);
    let far = &[0, 0, 0, 0, 0, 0, 0, 0x7f];
    refused(with(name, OFFSET, far), Status::Format, &["truncated"]);
    let beyond = &[0xe0, 255, 255, 255, 255, 255, 255, 255];
    refused(
        with(name, OFFSET, beyond),
        Status::Format,
        &[name, "overflow"],
    );
    refused(with(name, 0, &[9]), Status::Format, &[name, "9 dimensions"]);
    refused(
        with(name, 4, &[33]),
        Status::Format,
        &[name, "33 values", "blocks of 32"],
    );
    refused(
        with(name, 4, &[255; 8]),
        Status::Unsupported,
        &[name, "limit"],
    );
    let longer = with(name, 4, &[32]);
    refused(longer, Status::Format, &["shape"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Weights begin at about 10,200.
    #[test]
    fn a_damaged_header_is_an_error_or_another_model(
        changes in prop::collection::vec((0_usize..10_200, any::<u8>()), 1..4),
    ) {
        let change = |bytes: &mut Vec<u8>| {
            for (at, byte) in &changes {
                bytes[*at] = *byte;
            }
        };
        let (_directory, path) = damaged("llama-chat-q4_0", change);
        match try_open(&path) {
            Ok(model) => drop(model.text().tokenizer().map(|_| ())),
            Err(error) => prop_assert!(
                matches!(error.status(), Status::Format | Status::Unsupported),
                "{error}"
            ),
        }
    }
}
