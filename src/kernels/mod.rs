//! CPU kernels: matrix products over weights as they lie in the file. Pure Rust
//! over slices; nothing here knows MLX or models.
//!
//! - `pool`: [`Pool`], the threads that share the work
//! - `level`: which vector instructions may be used
//! - `output`: a buffer that several threads fill
//! - `float`: 16-bit and 32-bit floats as bytes at any alignment
//! - `linear`: [`linear`], `x W^T + b` for float and quantized `W`
//! - `rows`: products of one row of `W`; `scalar` is what they mean, `avx2` is
//!   how they are done on x86
//!
//! Activations are computed in float32; results are rounded once, at the end.

mod float;
mod level;
mod linear;
mod output;
mod pool;
mod rows;

pub use float::Float;
pub use linear::{Activations, Matrix, linear};
pub use pool::Pool;
