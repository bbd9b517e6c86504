//! Whether a model fits, before it is opened: from headers and settings alone.

use std::path::Path;

use super::admission::{
    ContextBytes, ContextPlan, ModelBytes, ModelCaps, apply_limits, look_at, within,
};
use super::context::ContextOptions;
use super::model::{ModelInfo, ModelOptions, info_of, manifest_for};
use super::prefix_cache;
use crate::checkpoint::{Dtype, Manifest};
use crate::decoder::{DecoderSpec, Precision};
use crate::error::{Error, Result};
use crate::host;
use crate::memory::{Demand, Share, Snapshot, Usable, budget, largest};
use crate::mlx;

/// Bytes of weights by the type they are stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeBytes {
    pub float32: usize,
    pub float16: usize,
    pub bfloat16: usize,
    /// Codes of quantized weights.
    pub packed: usize,
    /// Scales of eight bits, and anything else.
    pub other: usize,
}

/// What would fit instead; 0: nothing of the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WouldFit {
    /// The largest context with as many sequences, at most what the model was
    /// trained for or what was asked for. Also where all fits.
    pub n_ctx: usize,
    /// Sequences of the length that was asked for.
    pub n_sequences: usize,
    /// Bits of keys and values: 8 or 4.
    pub kv_bits: usize,
    /// Bits of weights in groups of 64.
    pub weight_bits: usize,
}

/// What a model and one context take, and whether there is as much.
#[derive(Clone, Copy, Debug)]
pub struct MemoryEstimate {
    pub model: ModelBytes,
    pub weights: TypeBytes,
    pub context: ContextBytes,
    pub n_ctx: usize,
    pub n_sequences: usize,
    pub kv_bytes_per_token: usize,
    /// Freed buffers that MLX keeps beside the context's scratch memory.
    pub mlx_cache: usize,
    pub total: usize,
    pub usable: Usable,
    /// Of the total, what is in the memory of a GPU that has its own.
    pub gpu: usize,
    /// What models may use there.
    pub gpu_usable: Option<usize>,
    /// Of the usable bytes, promised to models and contexts already.
    pub taken: usize,
    /// 0: it fits.
    pub missing: usize,
    pub would_fit: WouldFit,
}

/// Scales and biases of 16 bits per 64 values.
const GROUP_BITS: f64 = 0.5;

/// Reads a checkpoint's headers and says what opening it and making one context
/// would take.
pub fn estimate(
    path: &Path,
    model: &ModelOptions<'_>,
    context: &ContextOptions,
) -> Result<MemoryEstimate> {
    host::ensure_not_forked()?;
    let device = model.device.resolve();
    let place = (device, model.cpu_ops);
    let manifest = manifest_for(path, place)?;
    let spec = DecoderSpec::from_config(manifest.config())?;
    let info = info_of(&manifest, spec)?;
    let dtype = match model.precision {
        Precision::Native => info.spec.native_dtype(&manifest)?,
        Precision::Float32 => mlx::Dtype::F32,
    };
    look_at(device)?;
    let plan = ContextPlan::new(&info, dtype, context, place)?;
    let bytes = ModelBytes::of(&manifest, model.load, device)?;
    let candidate = Candidate {
        info: &info,
        plan,
        bytes,
        caps: model.caps(),
        snapshot: &budget().snapshot(),
    };
    Ok(MemoryEstimate {
        weights: by_type(&manifest),
        ..candidate.estimate()
    })
}

fn by_type(manifest: &Manifest) -> TypeBytes {
    let mut by_type = TypeBytes::default();
    for tensor in manifest.tensors() {
        let bytes = match tensor.dtype {
            Dtype::F32 => &mut by_type.float32,
            Dtype::F16 => &mut by_type.float16,
            Dtype::BF16 => &mut by_type.bfloat16,
            Dtype::U32 => &mut by_type.packed,
            _ if tensor.blocks.is_some() => &mut by_type.packed,
            _ => &mut by_type.other,
        };
        *bytes += tensor.bytes;
    }
    by_type
}

/// A model and a context that may fit.
struct Candidate<'a> {
    info: &'a ModelInfo,
    plan: ContextPlan,
    bytes: ModelBytes,
    caps: ModelCaps,
    snapshot: &'a Snapshot,
}

impl Candidate<'_> {
    fn estimate(&self) -> MemoryEstimate {
        let context = self.plan.bytes();
        let demand = self.bytes.demand(self.caps).plus(&context.demand());
        let mlx_cache = self.snapshot.mlx_cache_bytes(&context.demand());
        let missing = self.missing(&demand);
        MemoryEstimate {
            model: self.bytes,
            weights: TypeBytes::default(),
            context,
            n_ctx: self.plan.n_ctx(),
            n_sequences: self.plan.n_sequences,
            kv_bytes_per_token: self.plan.cache.bytes_per_token(),
            mlx_cache,
            total: demand.total().saturating_add(mlx_cache),
            usable: self.snapshot.usable(),
            gpu: match context.gpu_index {
                Some(_) => demand.gpu + demand.gpu_scratch + mlx_cache,
                None => 0,
            },
            gpu_usable: context
                .gpu_index
                .and_then(|index| self.snapshot.gpu_memory(index)),
            taken: self.snapshot.taken(),
            missing,
            would_fit: self.would_fit(missing == 0),
        }
    }

    /// Bytes that the budget, or a limit of the caller's, lacks.
    fn missing(&self, demand: &Demand) -> usize {
        let shortage = self.snapshot.shortage(demand);
        let of_model = within(self.caps.memory_limit, &self.bytes.demand(self.caps));
        let of_context = within(self.plan.memory_limit, &self.plan.bytes().demand());
        [
            shortage.map(|shortage| shortage.missing),
            of_model.map(|over| over.missing),
            of_context.map(|over| over.missing),
        ]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(0)
    }

    fn would_fit(&self, fits: bool) -> WouldFit {
        let model = self.bytes.demand(self.caps);
        let most = self.info.spec.max_context.max(self.plan.n_ctx());
        let n_ctx = self.plan.max_n_ctx(self.snapshot, &model, most);
        if fits {
            return WouldFit {
                n_ctx,
                ..WouldFit::default()
            };
        }
        WouldFit {
            n_ctx,
            n_sequences: largest(1, self.plan.n_sequences, |n| {
                self.plan.with_n_sequences(n).fits(self.snapshot, &model)
            }),
            kv_bits: self.kv_bits().unwrap_or(0),
            weight_bits: self.weight_bits().unwrap_or(0),
        }
    }

    fn kv_bits(&self) -> Option<usize> {
        let model = self.bytes.demand(self.caps);
        let now = self.plan.bytes().kv;
        [8, 4].into_iter().find(|&bits| {
            let plan = self.plan.with_kv_bits(&self.info.spec, bits);
            plan.is_some_and(|plan| plan.bytes().kv < now && plan.fits(self.snapshot, &model))
        })
    }

    fn weight_bits(&self) -> Option<usize> {
        let context = self.plan.bytes().demand();
        let now = self.info.weight_bytes as f64 * 8.0;
        [8, 6, 5, 4, 3, 2].into_iter().find(|&bits| {
            let then = self.info.n_parameters as f64 * (bits as f64 + GROUP_BITS);
            let scaled = |bytes: usize| (bytes as f64 * then / now) as usize;
            let smaller = ModelBytes {
                mapped: scaled(self.bytes.mapped),
                copied: scaled(self.bytes.copied),
                on_gpu: scaled(self.bytes.on_gpu),
                ..self.bytes
            };
            then < now && self.missing(&smaller.demand(self.caps).plus(&context)) == 0
        })
    }
}

/// The budget of the process, for people and programs.
#[derive(Clone, Copy, Debug)]
pub struct BudgetInfo {
    pub usable: Usable,
    pub reserved: Demand,
    pub mlx_cache: usize,
    pub taken: usize,
}

pub fn budget_info() -> Result<BudgetInfo> {
    host::ensure_not_forked()?;
    let snapshot = budget().snapshot();
    Ok(BudgetInfo {
        usable: snapshot.usable(),
        reserved: snapshot.reserved(),
        mlx_cache: snapshot.mlx_cache_bytes(&Demand::default()),
        taken: snapshot.taken(),
    })
}

/// Sets what models may use; `None`: the default share of physical memory. What
/// is open stays open.
pub fn set_budget(share: Option<Share>) -> Result<()> {
    host::ensure_not_forked()?;
    if let Some(Share::Fraction(fraction)) = share
        && !(fraction > 0.0 && fraction <= 1.0)
    {
        return Err(Error::invalid(format!(
            "the fraction of memory is {fraction}; it is above 0 and at most 1"
        )));
    }
    budget().set_share(share);
    prefix_cache::fit();
    apply_limits()
}

/// Sets how many bytes of freed buffers MLX may keep.
pub fn set_mlx_cache(bytes: usize) -> Result<()> {
    host::ensure_not_forked()?;
    budget().set_mlx_cache(Some(bytes));
    apply_limits()
}
