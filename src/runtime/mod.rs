//! What the handles of the C API do, in Rust.
//!
//! - `cancel`: [`Cancel`], stops a running call from another thread
//! - `model`: [`Model`], an opened checkpoint, shared by its contexts
//! - `batch`: [`Batch`], which tokens of which sequences to evaluate
//! - `context`: [`Context`], sequences and their evaluation
//! - `generate`: prompt in, streamed text out
//! - `text`: [`ModelText`], tokenizer and chat template of a model
//! - `stats`: what memory is used for

mod batch;
mod cancel;
mod context;
mod generate;

mod model;
mod stats;
mod text;

pub use batch::{Batch, Want};
pub use cancel::Cancel;
pub use context::{Context, ContextOptions, Perf};

pub use generate::{Flow, GenerateOptions, Generated, Prompt, StopReason, generate};
pub use model::{DeviceChoice, Model, ModelInfo, ModelOptions, inspect};
pub use stats::{ContextMemory, MemoryStats, ModelMemory, memory_stats};
pub use text::ModelText;
