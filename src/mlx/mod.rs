//! The only room that names `mlx_sys`: arrays, streams, operations and memory
//! of MLX behind safe Rust types.
//!
//! - `error`: MLX's error handler (the default one ends the process) and `check`
//! - `array`: [`Array`], an owned reference to a node of MLX's graph
//! - `stream`: [`Stream`], where work runs, and the evaluation boundary
//! - `ops`: [`Ops`], the operations the decoder is made of
//! - `mapped`: weights as arrays over mapped files
//! - `memory`: what MLX's allocator holds
//! - `bridge`: the one C++ file, for what mlx-c does not offer

mod array;
mod bridge;
mod error;
mod mapped;
mod memory;
mod ops;
mod stream;

pub use array::{Array, Dtype};
pub use mapped::{MappedArrays, TensorView};
pub use memory::{MemoryUse, clear_cache, memory_use, reset_peak, set_cache_limit};
pub use ops::{AttentionMask, Ops, QuantizedWeight};
pub use stream::{Device, Stream, gpu_available, version};
