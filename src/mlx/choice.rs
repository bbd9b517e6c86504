//! The choice of a token where the logits are, so that the next step can be built
//! before anybody has seen it: the CPU sampler's stages in MLX's operations.
//!
//! - here: the largest logit
//! - `drawing`: a draw, after temperature, top-k, top-p and min-p

mod drawing;

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::elementwise::scalar;
use super::ops::Ops;
use crate::error::Result;

pub use drawing::Draw;

/// No logit was above minus infinity.
pub const NO_TOKEN: i32 = -1;

/// Bytes that choosing takes for each logit, at most: the results of all its
/// operations, and what sorting needs beside them.
pub const CHOICE_BYTES_PER_LOGIT: usize = 128;

/// How a token is chosen from a row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// The first of the largest.
    Largest,
    Drawn(Draw),
}

impl Ops {
    /// From one row f32 `[1, n]`: the token, i32 `[1]`, or [`NO_TOKEN`]. NaN is never
    /// chosen.
    pub fn chosen_token(&self, logits: &Array, choice: &Choice) -> Result<Array> {
        let least = scalar(f32::NEG_INFINITY)?;
        let is_nan = self.unary(sys::mlx_isnan, logits)?;
        let logits = self.select(&is_nan, &least, logits)?;
        let logits = self.reshape(&logits, &[logits.dim(1)])?;
        let first_largest = self.first_largest(&logits)?;
        let largest = self.take_along_rows(&logits, &first_largest)?;
        let token = match choice {
            Choice::Largest => first_largest,
            Choice::Drawn(draw) => self.drawn_token(&logits, &largest, draw)?,
        };
        let is_there = self.binary(sys::mlx_greater, &largest, &least)?;
        let none = Array::from_i32(&[NO_TOKEN], &[1])?;
        self.select(&is_there, &self.astype(&token, Dtype::I32)?, &none)
    }

    /// Where the largest value of `[n]` is, `[1]`; the first of equals.
    fn first_largest(&self, values: &Array) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: live handles; mlx-c keeps references of its own.
            unsafe { sys::mlx_argmax_axis(out, values.raw(), -1, true, self.stream().raw()) }
        })
    }

    fn select(&self, condition: &Array, yes: &Array, no: &Array) -> Result<Array> {
        Array::build(|out| {
            let stream = self.stream().raw();
            // SAFETY: as above.
            unsafe { sys::mlx_where(out, condition.raw(), yes.raw(), no.raw(), stream) }
        })
    }
}

#[cfg(test)]
mod tests;
