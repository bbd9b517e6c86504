//! Model directories with something wrong in them: opening says what, where,
//! and leaves nothing behind.

#[path = "../common/mod.rs"]
mod common;

mod configs;
mod files;
mod quantizations;
mod random;

use std::path::Path;

use common::damaged::Damaged;
use common::process::uses_of;
use common::{assert_fails, context, eval, open, open_fixture, try_open};
use serde_json::Value;
use umrt::error::{Error, Status};
use umrt::runtime::inspect;

const FLOATS: &str = "llama3-f32";

const TIED: &str = "llama3-tied-bf16";

const RECURRENT: &str = "lfm2-f32";

const QUANTIZED: &str = "llama3-q4-g64-f16";

const MXFP4: &str = "qwen3-mxfp4-bf16";

const PROMPT: [i32; 4] = [1, 2, 3, 4];

#[track_caller]
fn refused(path: &Path, status: Status, parts: &[&str]) -> Error {
    let error = assert_fails(try_open(path), status, parts);
    if path.exists() {
        assert_eq!(uses_of(path), 0, "nothing stays open or mapped");
    }
    let mut healthy = context(&open_fixture(FLOATS));
    eval(&mut healthy, &PROMPT);
    error
}

#[track_caller]
fn refused_config(fixture: &str, key: &str, value: Value, status: Status, parts: &[&str]) {
    let damaged = Damaged::copy_of(fixture).with_config(key, value);
    refused(damaged.path(), status, parts);
    let inspected = inspect(damaged.path());
    assert!(inspected.is_err() || status == Status::Format);
}

fn logits_of(path: &Path) -> Vec<f32> {
    eval(&mut context(&open(path)), &PROMPT)
}
