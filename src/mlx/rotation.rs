//! Rotary position embeddings.

use std::sync::Arc;

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::ops::Ops;
use crate::error::Result;
use crate::kernels::{Pairing, RopeTable};

/// How positions rotate queries and keys.
pub struct Rope {
    pairing: Pairing,
    /// Positions per radian of each pair: `[rotated dimensions / 2]`
    wavelengths: Array,
    values: Vec<f32>,
    /// What rotated dimensions are multiplied with.
    magnitude: f32,
}

/// How the positions of a step's tokens do.
pub struct Rotation<'a> {
    pub(super) rope: &'a Rope,
    /// Cosines and sines for our kernels.
    pub(super) table: Option<Arc<RopeTable>>,
}

impl Rope {
    pub fn new(pairing: Pairing, wavelengths: &[f32], magnitude: f32) -> Result<Rope> {
        Ok(Rope {
            pairing,
            wavelengths: Array::from_f32(wavelengths, &[wavelengths.len() as i32])?,
            values: wavelengths.to_vec(),
            magnitude,
        })
    }

    /// What turns keys that move from one position to another.
    pub fn between(&self, positions: impl IntoIterator<Item = [usize; 2]>) -> RopeTable {
        RopeTable::between(self.pairing, &self.values, positions)
    }

    fn rotated_dims(&self) -> i32 {
        self.wavelengths.dim(0) * 2
    }

    /// By dimension of a head: what it is multiplied with.
    fn magnitudes(&self, head_dim: i32) -> Result<Array> {
        let factor = |dim| match dim < self.rotated_dims() {
            true => self.magnitude,
            false => 1.0,
        };
        let factors: Vec<f32> = (0..head_dim).map(factor).collect();
        Array::from_f32(&factors, &[head_dim])
    }
}

impl Ops {
    /// For tokens at these positions.
    pub fn rotation<'a>(
        &self,
        rope: &'a Rope,
        positions: impl IntoIterator<Item = usize>,
    ) -> Rotation<'a> {
        let table = || RopeTable::new(rope.pairing, &rope.values, rope.magnitude, positions);
        Rotation {
            rope,
            table: self.pool().map(|_| Arc::new(table())),
        }
    }

    /// Rotates pairs of the last axis of `[1, heads, n, head_dim]` by position /
    /// wavelength; the first of the n has position `offset`.
    pub(super) fn rotate(&self, x: &Array, rope: &Rope, offset: i32) -> Result<Array> {
        if rope.magnitude == 1.0 {
            return self.stock_rope(x, rope, offset);
        }
        let wide = self.astype(x, Dtype::F32)?;
        let magnified = self.multiply(&wide, &rope.magnitudes(x.dim(3))?)?;
        self.astype(&self.stock_rope(&magnified, rope, offset)?, x.dtype()?)
    }

    fn stock_rope(&self, x: &Array, rope: &Rope, offset: i32) -> Result<Array> {
        let no_base = sys::mlx_optional_float {
            value: 0.0,
            has_value: false,
        };
        Array::build(|out| {
            // SAFETY: live handles; mlx-c keeps references of its own.
            unsafe {
                sys::mlx_fast_rope(
                    out,
                    x.raw(),
                    rope.rotated_dims(),
                    rope.pairing == Pairing::Neighbours,
                    no_base,
                    1.0,
                    offset,
                    rope.wavelengths.raw(),
                    self.stream().raw(),
                )
            }
        })
    }
}
