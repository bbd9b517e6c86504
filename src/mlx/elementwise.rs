//! Stock operations on elements: arithmetic, activations and gates. Functions of
//! several steps are computed in float32 and rounded once.

use std::ffi::c_int;

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::ops::Ops;
use crate::error::Result;
use crate::kernels::{Activation, Gate};

type Unary = unsafe extern "C" fn(*mut sys::mlx_array, sys::mlx_array, sys::mlx_stream) -> c_int;
type Binary = unsafe extern "C" fn(
    *mut sys::mlx_array,
    sys::mlx_array,
    sys::mlx_array,
    sys::mlx_stream,
) -> c_int;

const SQRT_2_OVER_PI: f32 = 0.797_884_6;

impl Ops {
    pub fn add(&self, a: &Array, b: &Array) -> Result<Array> {
        self.binary(sys::mlx_add, a, b)
    }

    pub(super) fn multiply(&self, a: &Array, b: &Array) -> Result<Array> {
        self.binary(sys::mlx_multiply, a, b)
    }

    pub(super) fn matmul(&self, a: &Array, b: &Array) -> Result<Array> {
        self.binary(sys::mlx_matmul, a, b)
    }

    /// Over the last axis, in float32.
    pub(super) fn softmax(&self, x: &Array) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: live handles; mlx-c keeps references of its own.
            unsafe { sys::mlx_softmax_axis(out, x.raw(), -1, true, self.stream().raw()) }
        })
    }

    /// In `a`'s type.
    pub(super) fn scale(&self, a: &Array, factor: f32) -> Result<Array> {
        let product = self.multiply(&self.astype(a, Dtype::F32)?, &scalar(factor)?)?;
        self.astype(&product, a.dtype()?)
    }

    pub(super) fn sigmoid(&self, a: &Array) -> Result<Array> {
        self.unary(sys::mlx_sigmoid, a)
    }

    /// `activation(x)` by stock operations.
    pub(super) fn stock_activation(&self, activation: Activation, x: &Array) -> Result<Array> {
        if activation == Activation::Silu {
            return self.multiply(x, &self.sigmoid(x)?);
        }
        let y = self.activation_f32(activation, &self.astype(x, Dtype::F32)?)?;
        self.astype(&y, x.dtype()?)
    }

    fn activation_f32(&self, activation: Activation, x: &Array) -> Result<Array> {
        match activation {
            Activation::Silu => self.multiply(x, &self.sigmoid(x)?),
            Activation::ScaledSilu { factor } => {
                let x = self.multiply(x, &scalar(factor)?)?;
                self.multiply(&x, &self.sigmoid(&x)?)
            }
            Activation::Sigmoid => self.sigmoid(x),
            Activation::Gelu => {
                let scaled = self.multiply(x, &scalar(0.5_f32.sqrt())?)?;
                let erf = self.unary(sys::mlx_erf, &scaled)?;
                let cdf = self.multiply(&self.add(&erf, &scalar(1.0)?)?, &scalar(0.5)?)?;
                self.multiply(x, &cdf)
            }
            Activation::GeluTanh => {
                let cube = self.multiply(&self.multiply(x, x)?, x)?;
                let cubic = self.add(x, &self.multiply(&cube, &scalar(0.044_715)?)?)?;
                let twice = self.multiply(&cubic, &scalar(2.0 * SQRT_2_OVER_PI)?)?;
                self.multiply(x, &self.sigmoid(&twice)?)
            }
            Activation::Relu => self.binary(sys::mlx_maximum, x, &scalar(0.0)?),
            Activation::ReluSquared => {
                let positive = self.binary(sys::mlx_maximum, x, &scalar(0.0)?)?;
                self.multiply(&positive, &positive)
            }
            Activation::Xielu {
                positive,
                negative,
                beta,
            } => {
                let above = self.binary(sys::mlx_maximum, x, &scalar(0.0)?)?;
                let below = self.binary(sys::mlx_minimum, x, &scalar(0.0)?)?;
                let grown = self.unary(sys::mlx_expm1, &below)?;
                let square = self.multiply(&self.multiply(&above, &above)?, &scalar(positive)?)?;
                let decay = self.binary(sys::mlx_subtract, &grown, &below)?;
                let decay = self.multiply(&decay, &scalar(negative)?)?;
                let line = self.multiply(x, &scalar(beta)?)?;
                self.add(&self.add(&square, &decay)?, &line)
            }
            Activation::SoftCap { cap } => {
                let bounded = self.unary(
                    sys::mlx_tanh,
                    &self.binary(sys::mlx_divide, x, &scalar(cap)?)?,
                )?;
                self.multiply(&bounded, &scalar(cap)?)
            }
            Activation::Clamp { limit } => {
                let above = self.binary(sys::mlx_maximum, x, &scalar(-limit)?)?;
                self.binary(sys::mlx_minimum, &above, &scalar(limit)?)
            }
        }
    }

    /// `up` through the gate by stock operations.
    pub(super) fn stock_gate(&self, function: Gate, gate: &Array, up: &Array) -> Result<Array> {
        match self.compiled_gates() {
            Some(compiled) => compiled.apply(self, function, gate, up),
            None => self.plain_gate(function, gate, up),
        }
    }

    /// The same, node by node.
    pub(super) fn plain_gate(&self, function: Gate, gate: &Array, up: &Array) -> Result<Array> {
        match function {
            Gate::Times(activation) => self.multiply(&self.stock_activation(activation, gate)?, up),
            Gate::Absent(activation) => self.stock_activation(activation, up),
            Gate::ClampedSwiglu { alpha, limit } => {
                let wide = |x: &Array| self.astype(x, Dtype::F32);
                let gated = self.clamped_swiglu(&wide(gate)?, &wide(up)?, alpha, limit)?;
                self.astype(&gated, gate.dtype()?)
            }
        }
    }

    fn clamped_swiglu(&self, gate: &Array, up: &Array, alpha: f32, limit: f32) -> Result<Array> {
        let at_most = |x: &Array| self.binary(sys::mlx_minimum, x, &scalar(limit)?);
        let gate = at_most(gate)?;
        let up = self.binary(sys::mlx_maximum, &at_most(up)?, &scalar(-limit)?)?;
        let opening = self.sigmoid(&self.multiply(&gate, &scalar(alpha)?)?)?;
        let up = self.add(&up, &scalar(1.0)?)?;
        self.multiply(&self.multiply(&gate, &opening)?, &up)
    }

    pub(super) fn unary(&self, function: Unary, a: &Array) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: a live handle and stream; mlx-c keeps references of its own.
            unsafe { function(out, a.raw(), self.stream().raw()) }
        })
    }

    pub(super) fn binary(&self, function: Binary, a: &Array, b: &Array) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: as above.
            unsafe { function(out, a.raw(), b.raw(), self.stream().raw()) }
        })
    }
}

/// A float32 that broadcasts.
pub(super) fn scalar(value: f32) -> Result<Array> {
    Array::from_f32(&[value], &[])
}
