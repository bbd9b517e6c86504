//! Settings and weights that are described by them, up to logits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use umrt::checkpoint::Checkpoint;
use umrt::decoder::DecoderSpec;
use umrt::error::{Result, Status};
use umrt::runtime::{Batch, Context, ContextOptions, Model, ModelOptions, estimate};
use umrt::text::{Tokenizer, TokenizerConfig};

use super::files::{Folder, header_of};
use super::{fixture_folders, join, parts, read};

/// All of the weights of the seeds.
const DATA_BYTES: usize = 320 << 10;

/// `config.json` alone: everything that is known without a tensor that fits.
pub fn run_config(input: &[u8]) -> Result<()> {
    let [config, generation] = parts(input);
    let folder = Folder::new()
        .with("config.json", config)
        .with_some("generation_config.json", generation)
        .with_weights("model.safetensors", ANY_TENSOR, b"", 8);
    let spec = DecoderSpec::from_config(Checkpoint::inspect(folder.path())?.config())?;
    assert!(spec.vocab_size > 0);
    assert!(spec.kv_elements_per_token() > 0 || spec.has_states());
    assert_eq!(spec.cache_layers().len(), spec.n_layers);
    match estimate(folder.path(), &ModelOptions::default(), &small_context()) {
        // The one tensor has no type to compute in.
        Err(error) if error.status() == Status::Format => Ok(()),
        estimated => estimated.map(drop),
    }
}

const ANY_TENSOR: &[u8] =
    br#"{"model.norm.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#;

pub fn config_seeds() -> Vec<Vec<u8>> {
    let folders = fixture_folders("models");
    let config = |folder: &PathBuf| read(&folder.join("config.json"));
    folders.iter().map(config).collect()
}

/// `config.json`, the header of the weights, and what they consist of.
pub fn run(input: &[u8]) -> Result<()> {
    let [config, header, fill] = parts(input);
    let folder = Folder::new().with("config.json", config).with_weights(
        "model.safetensors",
        header,
        fill,
        DATA_BYTES,
    );
    compute(&Model::open(folder.path(), ModelOptions::default())?)
}

pub fn seeds() -> Vec<Vec<u8>> {
    const ONE_OF_EACH_KIND: [&str; 12] = [
        "deepseek-v2-q4-g32-bf16",
        "deepseek-v3-f32",
        "gemma2-f32",
        "gemma3-nested-bf16",
        "gpt-neox-f32",
        "gpt-oss-mxfp4-bf16",
        "llama-nvfp4-bf16",
        "llama3-f32",
        "llama3-q4-g64-f16",
        "mistral-window-f32",
        "mixtral-q4-g32-bf16",
        "phi3-long-f32",
    ];
    let folders = fixture_folders("models").into_iter();
    let chosen =
        folders.filter(|folder| ONE_OF_EACH_KIND.iter().any(|name| folder.ends_with(name)));
    seeds_of(chosen.collect())
}

pub fn foreign_seeds() -> Vec<Vec<u8>> {
    seeds_of(fixture_folders("foreign"))
}

fn seeds_of(folders: Vec<PathBuf>) -> Vec<Vec<u8>> {
    let seed = |folder: &PathBuf| {
        let config = read(&folder.join("config.json"));
        let header = header_of(&folder.join("model.safetensors"));
        ["0", "2"].map(|fill| join(&[&config, &header, fill.as_bytes()]))
    };
    folders.iter().flat_map(seed).collect()
}

/// Four of them are 0.75, since factors of rotations are tensors and must not be zero.
const ANY_FACTOR: u8 = 0x3f;

/// Everything in front of the weights of a GGUF file.
pub fn run_gguf(input: &[u8]) -> Result<()> {
    let folder = Folder::new().with(
        "model.gguf",
        &[input, &vec![ANY_FACTOR; DATA_BYTES]].concat(),
    );
    let path = folder.file("model.gguf");
    let checkpoint = Checkpoint::open(&path)?;
    if checkpoint.embedded_vocabulary_bytes().is_some() {
        let config = TokenizerConfig::from_json(&checkpoint.embedded_tokenizer_config()?)?;
        let tokenizer = Tokenizer::from_bytes(&checkpoint.embedded_tokenizer()?, &config)?;
        let ids = tokenizer.encode("Hello, world", Default::default())?;
        tokenizer.decode(&ids, false)?;
    }
    if checkpoint.tensors().is_empty() {
        return Ok(());
    }
    let model = Model::open(&path, ModelOptions::default())?;
    compute(&model)?;
    if model.info().has_chat_template {
        model
            .text()
            .render_chat(r#"{"messages": [{"role": "user", "content": "Hi"}]}"#)?;
    }
    Ok(())
}

pub fn gguf_seeds() -> Vec<Vec<u8>> {
    let files = fixture_folders("gguf").into_iter();
    let whole = files.filter(|file| is_gguf(file) && !is_part(file));
    let header = |file: PathBuf| {
        let manifest = Checkpoint::inspect(&file).ok()?;
        Some(read(&file)[..manifest.files()[0].header_bytes].to_vec())
    };
    whole.filter_map(header).collect()
}

fn is_gguf(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "gguf")
}

fn is_part(file: &Path) -> bool {
    file.to_string_lossy().contains("-of-")
}

fn small_context() -> ContextOptions {
    ContextOptions {
        n_ctx: 8,
        n_threads: 1,
        prefill_chunk: 2,
        ..ContextOptions::default()
    }
}

/// A prompt in two steps, and a token.
fn compute(model: &Arc<Model>) -> Result<()> {
    let last = model.info().spec.vocab_size as i32 - 1;
    let mut context = Context::new(model, &small_context())?;
    context.eval(&Batch::of(&[0, last, 0]), None)?;
    context.eval(&Batch::of(&[last]), None)?;
    assert_eq!(context.logits(0)?.len(), last as usize + 1);
    Ok(())
}
