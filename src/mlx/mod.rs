//! The only room that names `mlx_sys`: arrays, streams, operations and memory
//! of MLX behind safe Rust types.
//!
//! - `error`: MLX's error handler (the default one ends the process) and `check`
//! - `array`: [`Array`], an owned reference to a node of MLX's graph
//! - `stream`: [`Stream`], where work runs, and the evaluation boundary
//! - `ops`: [`Ops`], the operations the decoder is made of
//! - `projections`, `attention`: those that our kernels fuse: products with weights,
//!   attention and its cache; `stock_attention`: that of MLX's operations
//! - `quantized`: [`QuantizedWeight`]
//! - `mapped`: weights as arrays over mapped files
//! - `memory`: what MLX's allocator holds
//! - `bridge`, `primitive`: the two C++ files, for what mlx-c does not offer:
//!   arrays over foreign memory, and kernels of ours as nodes of the graph

mod array;
mod attention;
mod bridge;
mod error;
mod mapped;
mod memory;
mod ops;
mod primitive;
mod projections;
mod quantized;
mod stock_attention;
mod stream;

pub use array::{Array, Dtype};
pub use attention::{AttentionLayer, Place, Rope, Rotation, StepBlocks};
pub use mapped::{MappedArrays, TensorView};
pub use memory::{MemoryUse, clear_cache, memory_use, reset_peak, set_cache_limit};
pub use ops::{CpuOps, Ops};
pub use projections::{Linear, Norm, Projected, Weight};
pub use quantized::{QuantMode, QuantizedWeight};
pub use stock_attention::CachedArrays;
pub use stream::{Device, Stream, gpu_available, version};
