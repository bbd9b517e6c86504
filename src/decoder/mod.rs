//! The decoder: one transformer, described by data.
//!
//! - `spec`: config.json -> [`DecoderSpec`]
//! - `rope`: rotary position embeddings
//! - `weights`: the checkpoint's tensors, mapped in place
//! - `attention`: a step's tokens over the caches of their sequences
//! - `forward`: tokens -> hidden states -> logits, as MLX graphs

mod attention;
mod forward;
mod rope;
mod spec;
mod weights;

pub use forward::{Decoder, Precision, Segment};
pub use rope::Rope;
pub use spec::DecoderSpec;
pub use weights::LoadedBytes;
