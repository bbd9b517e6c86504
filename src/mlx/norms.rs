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
    pub weight: &'a Array,
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
        weight: Floats<'a>,
        bias: Option<Floats<'a>>,
        eps: f32,
    ) -> kernels::Norm<'a> {
        let weight = Some(weight);
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

    /// `residual + factor * norm(x)`
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
        let norm = norm.map(|norm| inputs.norm(norm)).transpose()?;
        let (pool, columns) = (pool.clone(), x.dim(1) as usize);
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
            Some(norm) => self.stock_norm(&wide(x)?, norm)?,
            None => wide(x)?,
        };
        let addend = self.multiply(&addend, &scalar(factor)?)?;
        self.astype(&self.add(&wide(residual)?, &addend)?, residual.dtype()?)
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
            parts.push((norm.weight.dim(0) as usize, inputs.norm(norm)?));
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
        match norm.kind {
            NormKind::Rms { offset: 0.0 } => self.rms_norm(x, norm.weight, norm.eps),
            NormKind::Layer { offset: 0.0 } => self.layer_norm(x, norm.weight, norm),
            NormKind::Rms { offset } | NormKind::Layer { offset } => {
                // A sum in 16 bits would round the weight.
                let weight = self.add(&self.astype(norm.weight, Dtype::F32)?, &scalar(offset)?)?;
                let wide = self.astype(x, Dtype::F32)?;
                let normalized = match norm.kind {
                    NormKind::Rms { .. } => self.rms_norm(&wide, &weight, norm.eps),
                    NormKind::Layer { .. } => self.layer_norm(&wide, &weight, norm),
                };
                self.astype(&normalized?, x.dtype()?)
            }
        }
    }

    fn layer_norm(&self, x: &Array, weight: &Array, norm: Norm<'_>) -> Result<Array> {
        Array::build(|out| {
            let bias = norm.bias.map_or(NULL, Array::raw);
            let stream = self.stream().raw();
            // SAFETY: live handles or null; mlx-c keeps references of its own.
            unsafe { sys::mlx_fast_layer_norm(out, x.raw(), weight.raw(), bias, norm.eps, stream) }
        })
    }

    fn rms_norm(&self, x: &Array, weight: &Array, eps: f32) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: as above.
            unsafe { sys::mlx_fast_rms_norm(out, x.raw(), weight.raw(), eps, self.stream().raw()) }
        })
    }
}
