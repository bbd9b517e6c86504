//! umrt, the unified-memory runtime: language models in the memory that the CPU
//! and the GPU share, behind a C ABI.
//!
//! The rooms, in the order in which data flows:
//!
//! - [`checkpoint`]: a model directory, mapped and validated
//! - [`decoder`]: config.json as a [`decoder::DecoderSpec`], weights, forward pass
//! - [`mlx`]: arrays, streams and operations; the only room that knows MLX
//! - [`kernels`]: products, attention and the rest on the CPU; know slices,
//!   nothing of MLX
//! - [`kv`]: keys and values by sequence, updated in place
//! - [`grammar`]: what a text may be
//! - [`sample`]: from logits to a token
//! - [`text`]: tokenizer, streaming text, stop strings, chat templates
//! - [`convert`]: checkpoints of floats as quantized ones
//! - [`memory`]: what there is and who uses it
//! - [`runtime`]: models, contexts, generation
//! - [`capi`]: the C API, `umrt.h`
//! - [`error`], [`log`], `host`, `panics`: what everybody uses
//!
//! The smallest program in Rust:
//!
//! ```no_run
//! use umrt::runtime::{Batch, Context, ContextOptions, Model, ModelOptions};
//!
//! # fn main() -> umrt::error::Result<()> {
//! let model = Model::open("path/to/model".as_ref(), ModelOptions::default())?;
//! let mut context = Context::new(&model, &ContextOptions::default())?;
//! context.eval(&Batch::of(&[1, 2, 3]), None)?;
//! println!("{:?}", &context.logits(0)?[..8]);
//! # Ok(())
//! # }
//! ```

pub mod capi;
pub mod checkpoint;
pub mod convert;
pub mod decoder;
pub mod error;
pub mod grammar;
mod host;
pub mod kernels;
pub mod kv;
pub mod log;
pub mod memory;
pub mod mlx;
mod panics;
pub mod runtime;
pub mod sample;
pub mod text;

/// Of the library for C, which must not end the process of its host.
#[cfg(any(feature = "capi", test))]
#[global_allocator]
static ALLOCATOR: memory::EmergencyAllocator = memory::EmergencyAllocator(std::alloc::System);
