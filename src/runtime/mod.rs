//! What the handles of the C API do, in Rust.
//!
//! - `cancel`: [`Cancel`], stops a running call from another thread
//! - `model`: [`Model`], an opened checkpoint, shared by its contexts
//! - `batch`: [`Batch`], which tokens of which sequences to evaluate
//! - `context`: [`Context`], sequences and their evaluation
//! - `generate`: prompt in, streamed text out
//! - `stats`: what memory is used for

mod batch;
mod cancel;
mod context;

mod model;
mod stats;

pub use batch::{Batch, Want};
pub use cancel::Cancel;
pub use context::{Context, ContextOptions, Perf};

pub use model::{DeviceChoice, Model, ModelInfo, ModelOptions, inspect};
pub use stats::{ContextMemory, MemoryStats, ModelMemory, memory_stats};
