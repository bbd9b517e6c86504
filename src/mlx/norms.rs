//! Norms, and what stands between a block's output and the residual stream.

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::elementwise::scalar;
use super::inputs::{Inputs, float_of};
use super::ops::{NULL, Ops};
use super::primitive::kernel;
use super::projections::Projected;
use crate::error::Result;
use crate::kernels::{self, Activation, Floats, FloatsMut};

/// A norm with its parameters.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    pub kind: NormKind,
    /// `None`: 1, whatever is added to weights.
    pub weight: Option<&'a Array>,
    /// Layer norms may have one.
    pub bias: Option<&'a Array>,
    pub eps: f32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// Root mean square; `offset` is added to the weight.
    Rms { offset: f32 },
    /// The mean is taken off first; `offset` is added to the weight.
    Layer { offset: f32 },
}

impl NormKind {
    pub(super) fn kernel<'a>(
        self,
        weight: Option<Floats<'a>>,
        bias: Option<Floats<'a>>,
        eps: f32,
    ) -> kernels::Norm<'a> {
        match self {
            NormKind::Rms { offset } => kernels::Norm::Rms {
                weight,
                offset,
                eps,
            },
            NormKind::Layer { offset } => kernels::Norm::Layer {
                weight,
                offset,
                bias,
                eps,
            },
        }
    }
}

impl Ops {
    /// Normalized rows.
    pub fn normalize(&self, x: &Array, norm: Norm<'_>) -> Result<Array> {
        let Some(pool) = self.pool() else {
            return self.stock_norm(x, norm);
        };
        let mut inputs = Inputs::default();
        let (rows, norm) = (inputs.floats(x)?, inputs.norm(norm)?);
        let (pool, columns) = (pool.clone(), x.dim(1) as usize);
        let (dtype, float) = (x.dtype()?, float_of(x)?);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let out = FloatsMut::new(float, out);
            norm.of(inputs).rows(&pool, rows.of(inputs), columns, out);
        };
        kernel(self.stream(), inputs.as_slice(), x.shape(), dtype, body)
    }

    /// `residual + factor * norm(x)`. A norm that is shorter than the rows is for their
    /// pieces.
    pub fn add_onto(
        &self,
        residual: &Array,
        x: &Array,
        norm: Option<Norm<'_>>,
        factor: f32,
    ) -> Result<Array> {
        let Some(pool) = self.pool() else {
            return self.stock_add_onto(residual, x, norm, factor);
        };
        let mut inputs = Inputs::default();
        let (sums, addends) = (inputs.floats(residual)?, inputs.floats(x)?);
        let (pool, columns) = (pool.clone(), piece_columns(x, norm));
        let norm = norm.map(|norm| inputs.norm(norm)).transpose()?;
        let (dtype, float) = (residual.dtype()?, float_of(residual)?);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let rows = (sums.of(inputs), addends.of(inputs));
            let norm = norm.map(|norm| norm.of(inputs));
            let out = FloatsMut::new(float, out);
            kernels::add_onto(&pool, rows, norm.as_ref(), factor, columns, out);
        };
        kernel(self.stream(), inputs.as_slice(), x.shape(), dtype, body)
    }

    /// In float32, rounded once.
    fn stock_add_onto(
        &self,
        residual: &Array,
        x: &Array,
        norm: Option<Norm<'_>>,
        factor: f32,
    ) -> Result<Array> {
        let wide = |x: &Array| self.astype(x, Dtype::F32);
        let addend = match norm {
            Some(norm) => {
                let pieces = self.reshape(&wide(x)?, &[-1, piece_columns(x, Some(norm)) as i32])?;
                self.reshape(&self.stock_norm(&pieces, norm)?, x.shape())?
            }
            None => wide(x)?,
        };
        let addend = self.multiply(&addend, &scalar(factor)?)?;
        self.astype(&self.add(&wide(residual)?, &addend)?, residual.dtype()?)
    }

    /// `x * factor`
    pub fn scaled(&self, x: &Array, factor: f32) -> Result<Array> {
        let Some(pool) = self.pool() else {
            return self.scale(x, factor);
        };
        let mut inputs = Inputs::default();
        let rows = inputs.floats(x)?;
        let (pool, columns) = (pool.clone(), x.dim(1) as usize);
        let (dtype, float) = (x.dtype()?, float_of(x)?);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let out = FloatsMut::new(float, out);
            kernels::scale(&pool, rows.of(inputs), factor, columns, out);
        };
        kernel(self.stream(), inputs.as_slice(), x.shape(), dtype, body)
    }

    /// Normalizes the first parts of what was projected, each by its norm.
    pub fn normalize_parts(
        &self,
        projected: Projected,
        norms: [Option<Norm<'_>>; 2],
    ) -> Result<Projected> {
        let x = match projected {
            Projected::Separate(mut parts) => {
                for (part, norm) in parts.iter_mut().zip(norms) {
                    if let Some(norm) = norm {
                        *part = self.stock_norm(part, norm)?;
                    }
                }
                return Ok(Projected::Separate(parts));
            }
            Projected::Joined(x) => x,
        };
        let mut inputs = Inputs::default();
        let rows = inputs.floats(&x)?;
        let mut parts = Vec::new();
        for norm in norms.into_iter().flatten() {
            let length = norm.weight.map_or(0, |weight| weight.dim(0));
            parts.push((length as usize, inputs.norm(norm)?));
        }
        let pool = self.pool().expect("our kernels are in use").clone();
        let (float, columns) = (float_of(&x)?, x.dim(1) as usize);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let norms: Vec<_> = parts
                .iter()
                .map(|(length, norm)| (*length, norm.of(inputs)))
                .collect();
            let out = FloatsMut::new(float, out);
            kernels::normalize_parts(&pool, rows.of(inputs), columns, &norms, out);
        };
        let dtype = x.dtype()?;
        kernel(self.stream(), inputs.as_slice(), x.shape(), dtype, body).map(Projected::Joined)
    }

    /// All that was projected, between `-limit` and `limit`.
    pub fn clamped(&self, projected: Projected, limit: f32) -> Result<Projected> {
        let clamp = |x: &Array| self.activate(Activation::Clamp { limit }, x);
        Ok(match projected {
            Projected::Joined(x) => Projected::Joined(clamp(&x)?),
            Projected::Separate(parts) => {
                Projected::Separate(parts.iter().map(clamp).collect::<Result<_>>()?)
            }
        })
    }

    /// `x * scale`, softly bounded by `cap`.
    pub fn scale_and_cap(&self, x: Array, scale: f32, cap: Option<f32>) -> Result<Array> {
        let scaled = if scale == 1.0 {
            x
        } else {
            self.scale(&x, scale)?
        };
        match cap {
            Some(cap) => self.activate(Activation::SoftCap { cap }, &scaled),
            None => Ok(scaled),
        }
    }

    pub(super) fn stock_norm(&self, x: &Array, norm: Norm<'_>) -> Result<Array> {
        let (NormKind::Rms { offset } | NormKind::Layer { offset }) = norm.kind;
        let apply = |x: &Array, weight: Option<&Array>| match norm.kind {
            NormKind::Rms { .. } => self.rms_norm(x, weight, norm.eps),
            NormKind::Layer { .. } => self.layer_norm(x, weight, norm),
        };
        match norm.weight {
            Some(weight) if offset != 0.0 => {
                // A sum in 16 bits would round the weight.
                let weight = self.add(&self.astype(weight, Dtype::F32)?, &scalar(offset)?)?;
                let normalized = apply(&self.astype(x, Dtype::F32)?, Some(&weight));
                self.astype(&normalized?, x.dtype()?)
            }
            weight => apply(x, weight),
        }
    }

    fn layer_norm(&self, x: &Array, weight: Option<&Array>, norm: Norm<'_>) -> Result<Array> {
        Array::build(|out| {
            let [weight, bias] = [weight, norm.bias].map(|part| part.map_or(NULL, Array::raw));
            let stream = self.stream().raw();
            // SAFETY: live handles or null; mlx-c keeps references of its own.
            unsafe { sys::mlx_fast_layer_norm(out, x.raw(), weight, bias, norm.eps, stream) }
        })
    }

    fn rms_norm(&self, x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array> {
        let weight = weight.map_or(NULL, Array::raw);
        Array::build(|out| {
            // SAFETY: as above.
            unsafe { sys::mlx_fast_rms_norm(out, x.raw(), weight, eps, self.stream().raw()) }
        })
    }
}

/// How long the pieces of a row are that the norm is for.
fn piece_columns(x: &Array, norm: Option<Norm<'_>>) -> usize {
    let weight = norm.and_then(|norm| norm.weight);
    weight.map_or(x.dim(1), |weight| weight.dim(0)) as usize
}
