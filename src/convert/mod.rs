//! Checkpoints of floats as quantized ones, in MLX's formats and with mlx-lm's
//! choices and names.
//!
//! - `plan`: which tensors there will be, and of what in the source; `names`, `experts`,
//!   `apart` and `turned`: what mlx-lm calls or stores otherwise
//! - `recipe`: which of them are quantized, and how
//! - `settings`: config.json and the files beside it
//! - `pieces`: reads, quantizes and writes, a few rows at a time
//!
//! The new directory is complete or not there. Before a weight is read, the decoder
//! has accepted its headers.

mod apart;
mod experts;
mod names;
mod pieces;
mod plan;
mod recipe;
mod settings;
mod turned;

use std::path::Path;
use std::sync::Arc;

pub use recipe::{Choice, Recipe};

use self::pieces::Shard;
use self::plan::{Output, Plan};
use crate::checkpoint::{Checkpoint, Mode, NewDirectory, TensorShape};
use crate::decoder::{Decoder, DecoderSpec, Precision};
use crate::error::{Error, Result, ResultExt};
use crate::kernels::{Float, Pool};
use crate::mlx::{CpuOps, Device, Stream};

/// How to quantize a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeSettings {
    pub mode: Mode,
    /// `None`: mlx-lm's default for the mode.
    pub bits: Option<usize>,
    pub group_size: Option<usize>,
    /// Chooses the bits of each module instead.
    pub recipe: Option<Recipe>,
    /// Of what stays floats, and of scales and biases; `None`: what config.json
    /// says under `torch_dtype`, or else each tensor's own.
    pub float: Option<Float>,
    /// A model at the target is replaced.
    pub replaces_model: bool,
    /// Of a file at most, unless a tensor is larger.
    pub max_shard_bytes: usize,
    /// 0: as many as suit the machine.
    pub n_threads: usize,
}

/// As in mlx-lm.
pub const MAX_SHARD_BYTES: usize = 5 << 30;

impl Default for QuantizeSettings {
    fn default() -> Self {
        QuantizeSettings {
            mode: Mode::Affine,
            bits: None,
            group_size: None,
            recipe: None,
            float: None,
            replaces_model: false,
            max_shard_bytes: MAX_SHARD_BYTES,
            n_threads: 0,
        }
    }
}

/// Writes the checkpoint at `source` to the directory `target`, quantized.
/// `progress(done, total)` gets bytes of the source and may stop it.
pub fn quantize(
    source: &Path,
    target: &Path,
    settings: &QuantizeSettings,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<()> {
    let checkpoint = Checkpoint::open(source)?;
    refuse_unfit(&checkpoint, target)?;
    let spec = DecoderSpec::from_config(checkpoint.config())?;
    let choice = Choice::new(settings, checkpoint.config(), &spec)?;
    let plan = Plan::new(&checkpoint, &spec, &choice)?;
    let directory = NewDirectory::create(target, settings.replaces_model)?;
    let shards = shards(&plan, settings.max_shard_bytes);
    let files = create_files(&directory, &plan, &shards)?;
    settings::write(&directory, &checkpoint, &choice, &plan)?;
    directory.write(INDEX, &index(&plan, &shards)?)?;
    check(directory.path()).at("the quantized model")?;
    let pool = Pool::shared(settings.n_threads);
    pieces::fill(&checkpoint, &plan, files, &pool, progress)?;
    directory.finish()
}

const INDEX: &str = "model.safetensors.index.json";

fn refuse_unfit(checkpoint: &Checkpoint, target: &Path) -> Result<()> {
    let directory = checkpoint.directory();
    if directory.is_gguf() {
        return Err(Error::unsupported(
            "GGUF files are not quantized again; give the directory with the safetensors files \
             that it was made from",
        ));
    }
    let sections = ["quantization", "quantization_config"];
    for key in sections {
        let section = checkpoint.config().opt_object(key)?;
        if section.is_some_and(|section| section.entries().next().is_some()) {
            return Err(Error::unsupported(format!(
                "{} is quantized already; quantize the checkpoint of floats that it was made from",
                directory.root().display()
            )));
        }
    }
    let root = directory.root();
    let holds = |outer: &Path, inner: &Path| {
        let real = |path: &Path| std::fs::canonicalize(path).ok();
        real(outer)
            .zip(real(inner))
            .is_some_and(|(outer, inner)| inner.starts_with(outer))
    };
    if holds(target, root) {
        return Err(Error::invalid(format!(
            "{} would replace the checkpoint that it is made from",
            target.display()
        )));
    }
    Ok(())
}

/// Indices of the plan's stored tensors, by file.
fn shards(plan: &Plan, max_bytes: usize) -> Vec<Vec<(usize, usize)>> {
    let mut shards: Vec<Vec<(usize, usize)>> = Vec::new();
    let mut shard_bytes = 0_usize;
    for (index, output) in plan.outputs.iter().enumerate() {
        for (part, stored) in output.stored().iter().enumerate() {
            let is_full = shard_bytes.saturating_add(stored.bytes()) > max_bytes;
            if shards.is_empty() || is_full {
                shards.push(Vec::new());
                shard_bytes = 0;
            }
            shards.last_mut().expect("one").push((index, part));
            shard_bytes += stored.bytes();
        }
    }
    shards
}

fn shard_name(index: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    }
}

fn create_files(
    directory: &NewDirectory,
    plan: &Plan,
    shards: &[Vec<(usize, usize)>],
) -> Result<Vec<Shard>> {
    let create = |(index, tensors): (usize, &Vec<(usize, usize)>)| {
        let stored: Vec<_> = tensors
            .iter()
            .map(|(output, part)| plan.outputs[*output].stored()[*part].clone())
            .collect();
        let shapes: Vec<_> = stored
            .iter()
            .map(|tensor| TensorShape {
                name: &tensor.name,
                dtype: tensor.dtype,
                shape: &tensor.shape,
            })
            .collect();
        let name = shard_name(index, shards.len());
        Ok(Shard {
            file: directory.safetensors(&name, &shapes, &[("format", "mlx")])?,
            tensors: tensors.clone(),
        })
    };
    shards.iter().enumerate().map(create).collect()
}

/// Which file each tensor is in, as mlx-lm and transformers write it.
fn index(plan: &Plan, shards: &[Vec<(usize, usize)>]) -> Result<Vec<u8>> {
    let mut weight_map = serde_json::Map::new();
    let mut total_bytes = 0;
    for (index, tensors) in shards.iter().enumerate() {
        for (output, part) in tensors {
            let stored = &plan.outputs[*output].stored()[*part];
            total_bytes += stored.bytes();
            weight_map.insert(stored.name.clone(), shard_name(index, shards.len()).into());
        }
    }
    weight_map.sort_keys();
    let n_parameters: usize = plan.outputs.iter().map(Output::elements).sum();
    let index = serde_json::json!({
        "metadata": {"total_size": total_bytes, "total_parameters": n_parameters},
        "weight_map": weight_map,
    });
    settings::pretty(&index)
}

/// Whether the decoder takes what the headers say. The weights are zeros yet.
fn check(path: &Path) -> Result<()> {
    let checkpoint = Arc::new(Checkpoint::open(path)?);
    let spec = DecoderSpec::from_config(checkpoint.config())?;
    let stream = Stream::acquire(Device::Cpu)?;
    let place = (&stream, CpuOps::Kernels);
    Decoder::load(&checkpoint, spec, Precision::Native, place, &mut |_, _| {
        Ok(())
    })?;
    Ok(())
}
