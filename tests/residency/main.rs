//! Accounting for memory, controlling where weights are, and reacting to memory
//! pressure. Each test measures in a process of its own.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod accounting;
mod files;
mod loading;
mod prefixes;
mod pressure;
mod reducing;
mod several;
mod spilling;

use std::path::Path;
use std::sync::Arc;

use common::random_model::RandomModel;
use umrt::checkpoint::{Dtype, LoadMode};
use umrt::error::Result;
use umrt::memory::process_memory;
use umrt::runtime::{MemoryStats, Model, ModelOptions, Residency, ResidencyOptions, memory_stats};

const MIB: usize = 1 << 20;

/// 150 MiB of bfloat16.
fn large() -> RandomModel {
    RandomModel {
        hidden_size: 1024,
        intermediate_size: 4096,
        n_layers: 4,
        n_heads: 16,
        n_kv_heads: 4,
        head_dim: 64,
        vocab_size: 8192,
        dtype: Dtype::BF16,
    }
}

fn open_as(path: &Path, load: LoadMode) -> Arc<Model> {
    let options = ModelOptions {
        load,
        ..ModelOptions::default()
    };
    Model::open(path, options).expect("a model")
}

fn file_bytes(directory: &Path) -> usize {
    let metadata = std::fs::metadata(directory.join("model.safetensors")).expect("weights");
    metadata.len() as usize
}

fn stats() -> MemoryStats {
    memory_stats().expect("figures")
}

fn mapped_by_process() -> usize {
    process_memory().resident_file
}

fn set(model: &Model, residency: Residency) -> Result<()> {
    model
        .residence()
        .set(residency, ResidencyOptions::default())
}

#[track_caller]
fn assert_within(found: usize, expected: usize, percent: usize) {
    let difference = 100.0 * (found as f64 / expected as f64 - 1.0);
    println!("{found} of {expected}: {difference:+.2}%");
    assert!(
        difference.abs() <= percent as f64,
        "{found} is {difference:+.2}% from {expected}"
    );
}
