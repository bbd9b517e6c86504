//! Adapters, up to logits of a model that has them.

use std::sync::{Arc, OnceLock};

use umrt::error::Result;
use umrt::runtime::{Adapter, Batch, Context, ContextOptions, Model, ModelOptions};

use super::files::{Folder, header_of};
use super::{fixture_folders, fixtures, join, parts, read};

/// All of the weights of the seeds.
const DATA_BYTES: usize = 64 << 10;
/// The model that most fixtures are for.
const BASE: &str = "models/llama3-f32";

fn base() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| Model::open(&fixtures(BASE), ModelOptions::default()).expect("a model"))
}

/// The settings, the header of the weights, and what they consist of.
pub fn run(input: &[u8]) -> Result<()> {
    let [config, header, fill] = parts(input);
    let folder = Folder::new()
        .with("adapter_config.json", config)
        .with_weights("adapters.safetensors", header, fill, DATA_BYTES)
        .with_weights("adapter_model.safetensors", header, fill, DATA_BYTES);
    let adapter = Adapter::open(base(), folder.path())?;
    let options = ContextOptions {
        n_ctx: 8,
        n_threads: 1,
        ..ContextOptions::default()
    };
    let mut context = Context::new(base(), &options)?;
    context.set_adapters(&[(adapter, 1.0)])?;
    context.eval(&Batch::of(&[1, 2]), None)?;
    context.eval(&Batch::of(&[3]), None)
}

pub fn seeds() -> Vec<Vec<u8>> {
    let seed = |folder: std::path::PathBuf| {
        let facts: serde_json::Value =
            serde_json::from_slice(&read(&folder.join("fixture.json"))).expect("JSON");
        let base = facts["base"].as_str().expect("a base");
        let files = ["adapters.safetensors", "adapter_model.safetensors"];
        let weights = files.map(|file| folder.join(file));
        let weights = weights.iter().find(|file| file.exists()).expect("weights");
        let config = read(&folder.join("adapter_config.json"));
        BASE.ends_with(base)
            .then(|| join(&[&config, &header_of(weights), b"2"]))
    };
    let folders = fixture_folders("adapters").into_iter();
    folders.filter_map(seed).collect()
}
