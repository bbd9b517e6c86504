//! [`Model`]: an opened checkpoint, shared by its contexts.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::admission::{ModelBytes, ModelCaps, look_at};
use super::cancel::Cancel;
use super::prefix_cache::PrefixCache;
use super::pressure;
use super::residency::{Residence, make_room};
use super::scratch::float_of;
use super::stats::ModelMemory;
use super::text::ModelText;
use crate::checkpoint::{Checkpoint, LoadMode, Manifest, Mode, QuantSpec};
use crate::decoder::{Decoder, DecoderSpec, Precision};
use crate::error::{Error, Result};
use crate::kernels::{BlockFormat, Float, Format, Stored};
use crate::log;
use crate::memory::{self, Category, Entry};
use crate::mlx::{self, CpuOps, Device, Stream};

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The GPU if there is one, otherwise the CPU.
    #[default]
    Auto,
    Cpu,
    /// By its number among the GPUs.
    Gpu(usize),
}

impl DeviceChoice {
    pub(super) fn resolve(self) -> Device {
        match self {
            DeviceChoice::Cpu => Device::Cpu,
            DeviceChoice::Gpu(index) => Device::Gpu(index),
            DeviceChoice::Auto if mlx::gpu_available() => Device::Gpu(0),
            DeviceChoice::Auto => Device::Cpu,
        }
    }

    /// Tells the log why a GPU that may be expected is not used.
    fn explain(self) {
        if self == DeviceChoice::Auto
            && let Some(why) = mlx::why_no_gpu()
        {
            log::info(format_args!("computing on the CPU: {why}"));
        }
    }
}

/// How to open a model.
#[derive(Default)]
pub struct ModelOptions<'a> {
    pub device: DeviceChoice,
    pub precision: Precision,
    pub cpu_ops: CpuOps,
    /// How the weights come into memory.
    pub load: LoadMode,
    /// Bytes that the model may take at most, without its contexts; 0: what the
    /// budget of the process leaves.
    pub memory_limit: usize,
    /// Opens the model even if its weights exceed the budget: what does not stay in
    /// memory is read from disk for every token.
    pub allow_paging: bool,
    /// Called with (done, total) while the model is opened: bytes where weights
    /// are read, otherwise layers.
    pub progress: Option<&'a mut dyn FnMut(usize, usize)>,
    pub cancel: Option<&'a Cancel>,
}

impl ModelOptions<'_> {
    pub(super) fn caps(&self) -> ModelCaps {
        ModelCaps {
            memory_limit: self.memory_limit,
            allow_paging: self.allow_paging,
        }
    }
}

/// What a checkpoint is, known from its headers alone.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    pub spec: DecoderSpec,
    /// Values in all weights, before any quantization.
    pub n_parameters: u64,
    pub weight_bytes: usize,
    /// Keys and values of one token, in the type the decoder computes in.
    pub kv_bytes_per_token: usize,
    /// Bits of the default quantization; 0: the weights are floats.
    pub quant_bits: usize,
    pub quant_group_size: usize,
    /// How most weights are stored.
    pub stored: Stored,
    pub has_tokenizer: bool,
    pub has_chat_template: bool,
}

/// Reads a checkpoint's headers, none of its weights.
pub fn inspect(path: &Path) -> Result<ModelInfo> {
    let manifest = Checkpoint::inspect(path)?;
    let spec = DecoderSpec::from_config(manifest.config())?;
    info_of(&manifest, spec)
}

/// A checkpoint's headers, with weights as this place computes with them.
pub(super) fn manifest_for(path: &Path, (device, cpu_ops): (Device, CpuOps)) -> Result<Manifest> {
    let manifest = Checkpoint::inspect(path)?;
    match cpu_ops.are_kernels(device) {
        true => Ok(manifest),
        false => manifest.without_blocks(),
    }
}

pub(super) fn info_of(manifest: &Manifest, spec: DecoderSpec) -> Result<ModelInfo> {
    let quant = manifest.quantization().default;
    let directory = manifest.directory();
    let blocks = most_blocks(manifest);
    Ok(ModelInfo {
        n_parameters: parameters(manifest),
        weight_bytes: manifest.tensor_bytes_total(),
        kv_bytes_per_token: spec.kv_elements_per_token() * spec.native_dtype(manifest)?.bytes(),
        quant_bits: quant.map_or(blocks.map_or(0, BlockFormat::bits), |quant| quant.bits),
        quant_group_size: quant.map_or(blocks.map_or(0, BlockFormat::group_size), |quant| {
            quant.group_size
        }),
        stored: stored_as(float_of(spec.native_dtype(manifest)?), quant, blocks),
        has_tokenizer: directory.tokenizer().is_some()
            || directory.vocabulary().is_some()
            || manifest.embedded_vocabulary_bytes().is_some(),
        has_chat_template: !manifest.chat_templates()?.is_empty(),
        spec,
    })
}

/// As what kernels read most of the weights.
fn stored_as(float: Float, quant: Option<QuantSpec>, blocks: Option<BlockFormat>) -> Stored {
    let Some(QuantSpec {
        mode,
        bits,
        group_size,
    }) = quant
    else {
        return match blocks {
            Some(blocks) if blocks.group_size() < 32 => Stored::Other,
            Some(blocks) => Stored::Codes(Format::Blocks(blocks)),
            None => Stored::Float(float),
        };
    };
    match mode {
        Mode::Mxfp8 => Stored::Other,
        Mode::Mxfp4 => Stored::Codes(Format::Mxfp4),
        Mode::Nvfp4 => Stored::Codes(Format::Nvfp4),
        Mode::Affine => Stored::Codes(Format::Affine {
            bits,
            group_size,
            float,
        }),
    }
}

/// The type of blocks that has most of the weights, if any has some.
fn most_blocks(manifest: &Manifest) -> Option<BlockFormat> {
    let bytes_of = |format: &BlockFormat| -> usize {
        let tensors = manifest.tensors().iter();
        let tensors = tensors.filter(|tensor| tensor.blocks == Some(*format));
        tensors.map(|tensor| tensor.bytes).sum()
    };
    let most = BlockFormat::ALL.into_iter().max_by_key(bytes_of)?;
    (bytes_of(&most) > 0).then_some(most)
}

/// Values in all weights. Packed codes count as the values they stand for; the
/// scales and biases of a quantization are no parameters.
fn parameters(manifest: &Manifest) -> u64 {
    let quantization = manifest.quantization();
    let values = |tensor: &crate::checkpoint::TensorInfo| {
        let module = |suffix| tensor.name.strip_suffix(suffix);
        let has_scales = |module: &str| manifest.tensor(&format!("{module}.scales")).is_some();
        if module(".scales")
            .or(module(".biases"))
            .is_some_and(has_scales)
        {
            return 0;
        }
        let quant =
            module(".weight").and_then(|name| quantization.spec_for(name, has_scales(name)));
        match quant {
            Some(quant) => (tensor.bytes * 8 / quant.bits) as u64,
            None => tensor.elements() as u64,
        }
    };
    manifest.tensors().iter().map(values).sum()
}

/// An opened checkpoint. Immutable.
pub struct Model {
    checkpoint: Arc<Checkpoint>,
    decoder: Decoder,
    text: ModelText,
    device: Device,
    cpu_ops: CpuOps,
    info: ModelInfo,
    residence: Arc<Residence>,
    prefix_cache: Arc<PrefixCache>,
    weights_mapped: Entry,
    weights_copied: Entry,
    weights_read: Entry,
}

impl Model {
    pub fn open(path: &Path, options: ModelOptions<'_>) -> Result<Arc<Model>> {
        pressure::ensure_accepting("open a model")?;
        let device = options.device.resolve();
        let manifest = manifest_for(path, (device, options.cpu_ops))?;
        let spec = DecoderSpec::from_config(manifest.config())?;
        let mut info = info_of(&manifest, spec.clone())?;
        options.device.explain();
        let stream = Stream::acquire(device)?;
        look_at(device)?;
        let bytes = ModelBytes::of(&manifest, options.load, device)?;
        let reservation = bytes.admit(options.caps())?;
        let mut report = options.progress;
        let mut progress = |done: usize, total: usize| {
            if let Some(report) = report.as_mut() {
                report(done, total);
            }
            options.cancel.map_or(Ok(()), Cancel::check)
        };
        let is_private = options.load != LoadMode::Map;
        if is_private {
            make_room(info.weight_bytes, memory::usable().usable_bytes, None)?;
        }
        let checkpoint = Arc::new(manifest.load(options.load, &mut progress)?);
        let mut progress_of_layers = |done, total| match is_private {
            true => options.cancel.map_or(Ok(()), Cancel::check),
            false => progress(done, total),
        };
        let (decoder, bytes) = Decoder::load(
            &checkpoint,
            spec,
            options.precision,
            (&stream, options.cpu_ops),
            &mut progress_of_layers,
        )?;
        if device.has_own_memory() {
            // They were read for the last time.
            checkpoint
                .maps()
                .iter()
                .try_for_each(|map| map.release(false))?;
            mlx::clear_cache()?;
        }
        info.kv_bytes_per_token = info.spec.kv_elements_per_token() * decoder.dtype().bytes();
        let private_bytes = checkpoint.private_bytes();
        let mapped_bytes = match is_private {
            true => 0,
            false => bytes.mapped,
        };
        log::info(format_args!(
            "opened {} ({}): {mapped_bytes} bytes of weights mapped, {} copied, computing on the \
             {device:?}",
            path.display(),
            info.spec.model_type,
            bytes.copied + private_bytes
        ));
        Ok(Arc::new(Model {
            decoder,
            text: ModelText::new(&checkpoint, info.spec.vocab_size)?,
            device,
            cpu_ops: options.cpu_ops,
            info,
            residence: Residence::register(&checkpoint, reservation),
            prefix_cache: PrefixCache::register(),
            weights_mapped: Entry::new(Category::WeightsMapped, mapped_bytes),
            weights_copied: Entry::new(Category::WeightsCopied, bytes.copied),
            weights_read: Entry::new(Category::WeightsRead, private_bytes),
            checkpoint,
        }))
    }

    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// The weights' place in memory, and who gives way to whom.
    pub fn residence(&self) -> &Arc<Residence> {
        &self.residence
    }

    /// What its contexts find of texts that were evaluated before.
    pub fn prefix_cache(&self) -> &Arc<PrefixCache> {
        &self.prefix_cache
    }

    pub(super) fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    pub fn text(&self) -> &ModelText {
        &self.text
    }

    pub fn device(&self) -> Device {
        self.device
    }

    pub(super) fn cpu_ops(&self) -> CpuOps {
        self.cpu_ops
    }

    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// A value of config.json by its path of keys ("rope_scaling.factor"): a
    /// string as it is, anything else as JSON.
    pub fn metadata(&self, path: &str) -> Result<String> {
        let mut keys = path.split('.');
        let first = keys.next().unwrap_or_default();
        let found = keys.try_fold(self.checkpoint.config().get(first), |value, key| {
            Some(Some(value?.get(key)?))
        });
        match found.flatten() {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value) => Ok(value.to_string()),
            None => Err(Error::not_found(format!(
                "config.json has no value at {path:?}"
            ))),
        }
    }

    pub fn memory(&self) -> Result<ModelMemory> {
        Ok(ModelMemory {
            weights_mapped: self.weights_mapped.bytes(),
            weights_copied: self.weights_copied.bytes() + self.weights_read.bytes(),
            weights_resident: self.checkpoint.residency()?,
            weights_locked: self.residence.locked_bytes(),
            text: self.text.bytes(),
            on_gpu: match self.device.has_own_memory() {
                true => self.weights_copied.bytes(),
                false => 0,
            },
        })
    }
}
