//! CPU kernels. Pure Rust over slices; nothing here knows MLX or models.
//!
//! - `linear`: [`linear`], `x W^T` for float and quantized `W`, with the norm
//!   before and the addition or gate behind it
//! - `low_rank`: [`add_low_rank`], what adapters add to such products
//! - `experts`: [`mix_experts`], the feed-forward networks that a router chooses
//! - `cache`: [`CacheBlock`], memory of keys and values
//! - `attention`: [`attention`] over such memory, which stores new keys and values
//! - `latent`: [`absorb`] and [`expand`], what latent attention does before and behind it
//! - `recurrent`: [`short_conv`] and others whose past is a state of fixed size
//! - `norm`, `residual`, `rope`, `activation`, `embedding`, `convert`: what is computed row by
//!   row, written once for all vectors (`lanes`, `math`)
//! - `log_sum`: [`log_sum_exp`], from logits to log-probabilities
//! - `quantized`: rows of codes as floats or whole numbers
//! - `float`, `floats`: 16-bit and 32-bit floats as bytes at any alignment
//! - `level`: which vector instructions may be used
//! - `pool`, `share`, `output`, `aligned`: threads that share the work, and what they
//!   write and need in between;
//!   `threads`: how many
//! - `stop`: [`Stop`], which ends the work early
//!
//! Everything is computed in float32 and rounded once, at the end.

mod activation;
mod aligned;
mod altup;
mod attention;
mod cache;
mod convert;
mod embedding;
mod experts;
mod float;
mod floats;
mod lanes;
mod latent;
mod level;
mod linear;
mod log_sum;
mod low_rank;
mod math;
mod norm;
mod output;
mod pool;
mod prefetch;
mod quantized;
mod recurrent;
mod residual;
mod rope;
mod share;
mod stop;
#[cfg(test)]
mod testing;
mod threads;

pub use activation::{Activation, Gate};
pub use altup::{LEAST_SQUARE, States};
pub use attention::{
    AttentionShape, AttentionStep, PositionScale, Reach, RowContents, Segment, attention,
};
pub use cache::{
    CacheBlock, CacheFormat, CacheLayout, CacheRows, LayerLayout, LayerShape, PartLayout,
    RowsLayout, Shift, shift_tokens,
};
pub use embedding::{float_rows, gather};
pub use experts::{
    Choice, Expert, Experts, GateUp, Groups, MixtureShape, Routing, Scores, Shares, mix_experts,
};
pub use float::Float;
pub use floats::{Floats, FloatsMut};
pub use latent::{HeadMatrices, LatentRows, LatentShape, absorb, expand};
pub use level::Level;
pub use linear::{
    Activations, Arithmetic, Columns, Finish, MAX_DOT_ROWS, Matrix, ProductShape, Projection, Rows,
    Stored, linear,
};
pub use log_sum::log_sum_exp;
pub use low_rank::{Factor, Gains, LowRank, add_low_rank};
pub use norm::{Norm, normalize_parts};
pub use pool::Pool;
pub use quantized::{BlockFormat, Format, QuantizedRows, quantize, quantize_small_floats};
pub use recurrent::{
    DeltaShape, DeltaStep, GatedNorm, GroupNorm, HeadParts, MOST_TAPS, PartPlace, ScanShape,
    ScanStep, ShortConv, StateLayout, StateMemory, StatePart, StateSegment, gated_delta, regroup,
    selective_scan, short_conv,
};
pub use residual::{add_onto, scale};
pub use rope::{Pairing, RopeTable};
pub use stop::{Stop, StopCause, StopPlace};
pub use threads::default_threads;
