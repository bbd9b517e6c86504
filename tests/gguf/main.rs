//! GGUF files: logits against transformers' for the same weights, texts against the
//! tokenizers that the files were made of, and files with something wrong in them.
//! `tools/oracles/gguf_fixture.py` makes the fixtures.

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod files;
mod logits;
mod texts;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use umrt::decoder::Precision;
use umrt::mlx::CpuOps;
use umrt::runtime::{Model, ModelOptions};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf")
}

fn file(name: &str) -> PathBuf {
    folder().join(format!("{name}.gguf"))
}

fn open(name: &str, precision: Precision, cpu_ops: CpuOps) -> Arc<Model> {
    let options = ModelOptions {
        precision,
        cpu_ops,
        ..ModelOptions::default()
    };
    Model::open(&file(name), options).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A file of which some bytes are others.
fn damaged(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> (tempfile::TempDir, PathBuf) {
    let mut bytes = fs::read(file(name)).expect("a fixture");
    change(&mut bytes);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    fs::write(&path, bytes).expect("a file");
    (directory, path)
}

fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
}

/// Where the bytes behind the first `text` are.
fn behind(bytes: &[u8], text: &str) -> usize {
    let found = bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes());
    found.expect(text) + text.len()
}
