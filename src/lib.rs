//! umrt, the unified-memory runtime: language models in the memory that the CPU
//! and the GPU share.

pub mod checkpoint;
pub mod decoder;
pub mod error;
mod kv;
pub mod memory;
pub mod mlx;
pub mod runtime;
