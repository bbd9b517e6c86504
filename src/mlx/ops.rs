//! [`Ops`]: the operations the decoder is made of, and the one place that
//! decides how each of them is computed.
//!
//! All of them build graph nodes; nothing runs before `Stream::eval`.

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::Arc;

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::error::last_error;
use super::products::{affine_product, float_product};
use super::stream::{Device, Stream};
use crate::error::Result;
use crate::kernels::Pool;

/// A weight matrix `[rows, columns]` in MLX's affine quantization: each group of
/// `group_size` columns has a scale and a bias; codes are packed into u32.
#[derive(Clone)]
pub struct QuantizedWeight {
    /// u32 `[rows, columns * bits / 32]`
    pub codes: Array,
    /// `[rows, columns / group_size]`
    pub scales: Array,
    /// `[rows, columns / group_size]`
    pub biases: Array,
    pub group_size: i32,
    pub bits: i32,
}

/// Which keys a query may see.
pub enum AttentionMask<'a> {
    /// All of them: one new token at the end.
    None,
    /// Those up to its own position; the queries are the last positions.
    Causal,
    /// bool `[queries, keys]`, true where it may.
    Array(&'a Array),
}

/// How operations are computed on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuOps {
    /// Our own kernels where there are any.
    #[default]
    Kernels,
    /// MLX's stock operations only, as on a GPU. Slow: for comparisons.
    Stock,
}

/// Builds operations on one stream.
pub struct Ops {
    stream: Stream,
    /// Computes matrix products; `None`: MLX does.
    pool: Option<Arc<Pool>>,
}

const NULL: sys::mlx_array = sys::mlx_array { ctx: null_mut() };

fn some(value: i32) -> sys::mlx_optional_int {
    sys::mlx_optional_int {
        value,
        has_value: true,
    }
}

// SAFETY of the calls below: every handle comes from a live `Array` or `Stream`
// (or is the documented null), shapes are passed with their lengths, strings are
// NUL-terminated literals, and mlx-c keeps references of its own.
impl Ops {
    pub fn new(stream: Stream, cpu_ops: CpuOps) -> Ops {
        let kernels = stream.device() == Device::Cpu && cpu_ops == CpuOps::Kernels;
        Ops {
            stream,
            pool: kernels.then(Pool::shared),
        }
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    pub fn add(&self, a: &Array, b: &Array) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: see above.
            unsafe { sys::mlx_add(out, a.raw(), b.raw(), self.stream.raw()) }
        })
    }

    /// `silu(gate) * up`
    pub fn swiglu(&self, gate: &Array, up: &Array) -> Result<Array> {
        let sigmoid = Array::build(|out| {
            // SAFETY: see above.
            unsafe { sys::mlx_sigmoid(out, gate.raw(), self.stream.raw()) }
        })?;
        self.multiply(&self.multiply(gate, &sigmoid)?, up)
    }

    fn multiply(&self, a: &Array, b: &Array) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: see above.
            unsafe { sys::mlx_multiply(out, a.raw(), b.raw(), self.stream.raw()) }
        })
    }

    pub fn astype(&self, a: &Array, dtype: Dtype) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: see above.
            unsafe { sys::mlx_astype(out, a.raw(), dtype.raw(), self.stream.raw()) }
        })
    }

    pub fn reshape(&self, a: &Array, shape: &[i32]) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: see above.
            unsafe {
                sys::mlx_reshape(out, a.raw(), shape.as_ptr(), shape.len(), self.stream.raw())
            }
        })
    }

    pub fn transpose(&self, a: &Array, axes: &[i32]) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: see above.
            unsafe {
                sys::mlx_transpose_axes(out, a.raw(), axes.as_ptr(), axes.len(), self.stream.raw())
            }
        })
    }

    pub fn concatenate(&self, arrays: &[Array], axis: i32) -> Result<Array> {
        let handles: Vec<_> = arrays.iter().map(Array::raw).collect();
        // SAFETY: see above; the vector is freed here.
        unsafe {
            let vector = sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len());
            if vector.ctx.is_null() {
                return Err(last_error());
            }
            let result =
                Array::build(|out| sys::mlx_concatenate_axis(out, vector, axis, self.stream.raw()));
            sys::mlx_vector_array_free(vector);
            result
        }
    }

    /// `a[start..stop]` along every axis.
    pub fn slice(&self, a: &Array, start: &[i32], stop: &[i32]) -> Result<Array> {
        let strides = vec![1; start.len()];
        Array::build(|out| {
            // SAFETY: see above.
            unsafe {
                sys::mlx_slice(
                    out,
                    a.raw(),
                    start.as_ptr(),
                    start.len(),
                    stop.as_ptr(),
                    stop.len(),
                    strides.as_ptr(),
                    strides.len(),
                    self.stream.raw(),
                )
            }
        })
    }

    /// `target` with `update` written at `start`. Consumes `target`: when that
    /// was the last reference, the update happens in place.
    pub fn slice_update(&self, target: Array, update: &Array, start: &[i32]) -> Result<Array> {
        let stop: Vec<i32> = start
            .iter()
            .zip(update.shape())
            .map(|(a, n)| a + n)
            .collect();
        let strides = vec![1; start.len()];
        Array::build(|out| {
            // SAFETY: see above.
            unsafe {
                sys::mlx_slice_update(
                    out,
                    target.raw(),
                    update.raw(),
                    start.as_ptr(),
                    start.len(),
                    stop.as_ptr(),
                    stop.len(),
                    strides.as_ptr(),
                    strides.len(),
                    self.stream.raw(),
                )
            }
        })
    }

    pub fn zeros(&self, shape: &[i32], dtype: Dtype) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: see above.
            unsafe {
                sys::mlx_zeros(
                    out,
                    shape.as_ptr(),
                    shape.len(),
                    dtype.raw(),
                    self.stream.raw(),
                )
            }
        })
    }

    /// Rows of `table` by index: `[rows, ...]`, i32 `[n]` -> `[n, ...]`
    pub fn take_rows(&self, table: &Array, indices: &Array) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: see above.
            unsafe { sys::mlx_take_axis(out, table.raw(), indices.raw(), 0, self.stream.raw()) }
        })
    }

    /// Rows of a quantized table by index, computed in `dtype`.
    pub fn take_quantized_rows(
        &self,
        table: &QuantizedWeight,
        indices: &Array,
        dtype: Dtype,
    ) -> Result<Array> {
        let codes = self.take_rows(&table.codes, indices)?;
        let scales = self.astype(&self.take_rows(&table.scales, indices)?, dtype)?;
        let biases = self.astype(&self.take_rows(&table.biases, indices)?, dtype)?;
        let dtype = sys::mlx_optional_dtype {
            value: dtype.raw(),
            has_value: true,
        };
        Array::build(|out| {
            // SAFETY: see above.
            unsafe {
                sys::mlx_dequantize(
                    out,
                    codes.raw(),
                    scales.raw(),
                    biases.raw(),
                    some(table.group_size),
                    some(table.bits),
                    c"affine".as_ptr(),
                    NULL,
                    dtype,
                    self.stream.raw(),
                )
            }
        })
    }

    /// `x W^T + bias`: `[n, columns]`, `[rows, columns]` -> `[n, rows]`
    pub fn linear(&self, x: &Array, weight: &Array, bias: Option<&Array>) -> Result<Array> {
        if let Some(pool) = &self.pool {
            return float_product(&self.stream, pool, x, weight, bias);
        }
        let transposed = self.transpose(weight, &[1, 0])?;
        Array::build(|out| {
            // SAFETY: see above.
            unsafe {
                match bias {
                    Some(bias) => sys::mlx_addmm(
                        out,
                        bias.raw(),
                        x.raw(),
                        transposed.raw(),
                        1.0,
                        1.0,
                        self.stream.raw(),
                    ),
                    None => sys::mlx_matmul(out, x.raw(), transposed.raw(), self.stream.raw()),
                }
            }
        })
    }

    /// `x W^T + bias` with a quantized `W`.
    pub fn quantized_linear(
        &self,
        x: &Array,
        weight: &QuantizedWeight,
        bias: Option<&Array>,
    ) -> Result<Array> {
        if let Some(pool) = &self.pool {
            return affine_product(&self.stream, pool, x, weight, bias);
        }
        let product = Array::build(|out| {
            // SAFETY: see above.
            unsafe {
                sys::mlx_quantized_matmul(
                    out,
                    x.raw(),
                    weight.codes.raw(),
                    weight.scales.raw(),
                    weight.biases.raw(),
                    true,
                    some(weight.group_size),
                    some(weight.bits),
                    c"affine".as_ptr(),
                    self.stream.raw(),
                )
            }
        })?;
        match bias {
            Some(bias) => self.add(&product, bias),
            None => Ok(product),
        }
    }

    /// Root-mean-square norm over the last axis, times `weight`.
    pub fn rms_norm(&self, x: &Array, weight: &Array, eps: f32) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: see above.
            unsafe { sys::mlx_fast_rms_norm(out, x.raw(), weight.raw(), eps, self.stream.raw()) }
        })
    }

    /// Rotates pairs (i, i + dims/2) of the last axis of `[1, heads, n, head_dim]`
    /// by position / `wavelengths[i]`; the first of the n has position `offset`.
    pub fn rope(&self, x: &Array, wavelengths: &Array, offset: i32) -> Result<Array> {
        let dims: c_int = wavelengths.dim(0) * 2;
        let no_base = sys::mlx_optional_float {
            value: 0.0,
            has_value: false,
        };
        Array::build(|out| {
            // SAFETY: see above.
            unsafe {
                sys::mlx_fast_rope(
                    out,
                    x.raw(),
                    dims,
                    false,
                    no_base,
                    1.0,
                    offset,
                    wavelengths.raw(),
                    self.stream.raw(),
                )
            }
        })
    }

    /// Softmax attention: queries `[1, heads, n, head_dim]`, keys and values
    /// `[1, kv_heads, length, head_dim]` -> `[1, heads, n, head_dim]`
    pub fn attention(
        &self,
        queries: &Array,
        keys: &Array,
        values: &Array,
        scale: f32,
        mask: &AttentionMask<'_>,
    ) -> Result<Array> {
        let (mode, mask) = match mask {
            AttentionMask::None => (c"", NULL),
            AttentionMask::Causal => (c"causal", NULL),
            AttentionMask::Array(mask) => (c"array", mask.raw()),
        };
        Array::build(|out| {
            // SAFETY: see above.
            unsafe {
                sys::mlx_fast_scaled_dot_product_attention(
                    out,
                    queries.raw(),
                    keys.raw(),
                    values.raw(),
                    scale,
                    mode.as_ptr(),
                    mask,
                    NULL,
                    false,
                    self.stream.raw(),
                )
            }
        })
    }
}
