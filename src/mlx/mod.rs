//! The only room that names `mlx_sys`: arrays, streams, operations and memory
//! of MLX behind safe Rust types.
//!
//! - `error`: MLX's error handler (the default one ends the process) and `check`
//! - `array`: [`Array`], an owned reference to a node of MLX's graph
//! - `device`: [`Device`], where to compute, and why there is no GPU; `driver`:
//!   NVIDIA's; `lost`: GPUs that failed for good
//! - `stream`: [`Stream`], where work runs, and the evaluation boundary
//! - `ops`: [`Ops`], the operations the decoder is made of
//! - `projections`, `norms`, `experts`, `attention`, `gates`: those that our kernels fuse:
//!   products with weights, norms, mixtures of experts, attention and its cache;
//!   `stock_experts`, `stock_attention`, `stock_capped`: those of MLX's operations
//! - `cached`: the arrays of such a cache, and their bytes
//! - `recurrent`, `gated_delta`, `selective_scan`: mixers whose past is a state of fixed
//!   size; `stock_recurrent`, `stock_memories`: by MLX's operations; `head_parts`: where
//!   the parts of heads are, and their gates
//! - `latent`: what latent attention does around its cache
//! - `low_rank`: [`LowRank`], what adapters add to projections; [`Gains`], what they multiply
//!   them with
//! - `choice`: [`Choice`] of a token where the logits are
//! - `elementwise`: stock arithmetic; `inputs`: what a kernel's node reads
//! - `quantized`: [`QuantizedWeight`]
//! - `mapped`: weights as arrays over mapped files
//! - `memory`: what MLX's allocator holds
//! - `bridge`, `primitive`: the two C++ files, for what mlx-c does not offer:
//!   arrays over foreign memory, and kernels of ours as nodes of the graph

mod altup;
mod array;
mod attention;
mod bridge;
mod cached;
mod choice;
mod compiled;
mod device;
mod driver;
mod elementwise;
mod error;
mod experts;
mod gains;
mod gated_delta;
mod gates;
mod head_parts;
mod inputs;
mod latent;
mod lost;
mod low_rank;
mod mapped;
mod memory;
mod norms;
mod ops;
mod primitive;
mod projections;
mod quantized;
mod recurrent;
mod rotation;
mod selective_scan;
mod stock_attention;
mod stock_capped;
mod stock_experts;
mod stock_memories;
mod stock_recurrent;
mod stream;
mod visible;

pub use crate::kernels::{
    Activation, Gate, Groups, LatentShape, Pairing, PositionScale, Reach, Routing, RowContents,
    Scores, Shares, States,
};
pub use altup::Coefficients;
pub use array::{Array, Dtype};
pub use attention::{AttentionLayer, Place, SequenceBlocks, StepBlocks};
pub use cached::{CachedArrays, cached_bytes, cached_from_bytes};
pub use choice::{CHOICE_BYTES_PER_LOGIT, Choice, Draw, NO_TOKEN};
#[cfg(test)]
pub(crate) use device::FIRST_PRETENDED_GPU;
pub use device::{Device, DeviceFacts, device_facts, gpu_available, gpu_count, why_no_gpu};
#[cfg(test)]
pub(crate) use error::failing_at;
pub use experts::{
    ExpertLinears, ExpertWeights, Experts, GatedLinears, JoinedLinears, RowOrder, SharedExpert,
};
pub use gains::Gains;
pub use gated_delta::DeltaLayer;
pub use head_parts::{GateLayer, GroupNormLayer};
pub use latent::{HeadLinears, LatentHeads};
pub use low_rank::LowRank;
pub use mapped::{MappedArrays, TensorView, maps_in_place};
pub use memory::{
    MemoryUse, arrays_are_in_device_memory, clear_cache, gpu_free_bytes, gpu_working_set,
    memory_use, reset_peak, set_cache_limit, set_memory_limit,
};
pub use norms::{Norm, NormKind};
pub use ops::{CpuOps, Ops};
pub use projections::{Linear, Projected, TransposedWeight, Weight};
pub use quantized::{BlockWeight, QuantMode, QuantizedWeight};
pub use recurrent::{ConvLayer, StepStates};
pub use rotation::{Rope, Rotation};
pub use selective_scan::ScanLayer;
pub use stream::{Stream, version};
