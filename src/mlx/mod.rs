//! The only room that names `mlx_sys`: arrays, streams, operations and memory
//! of MLX behind safe Rust types.
//!
//! - `error`: MLX's error handler (the default one ends the process) and `check`
//! - `array`: [`Array`], an owned reference to a node of MLX's graph
//! - `stream`: [`Stream`], where work runs, and the evaluation boundary
//! - `ops`: [`Ops`], the operations the decoder is made of
//! - `products`: matrix products by our own kernels
//! - `mapped`: weights as arrays over mapped files
//! - `memory`: what MLX's allocator holds
//! - `bridge`, `primitive`: the two C++ files, for what mlx-c does not offer:
//!   arrays over foreign memory, and kernels of ours as nodes of the graph

mod array;
mod bridge;
mod error;
mod mapped;
mod memory;
mod ops;
mod primitive;
mod products;
mod stream;

pub use array::{Array, Dtype};
pub use mapped::{MappedArrays, TensorView};
pub use memory::{MemoryUse, clear_cache, memory_use, reset_peak, set_cache_limit};
pub use ops::{AttentionMask, CpuOps, Ops, QuantizedWeight};
pub use stream::{Device, Stream, gpu_available, version};
