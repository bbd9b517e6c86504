//! [`Ops`]: the operations the decoder is made of, and the one place that
//! decides how each of them is computed.
//!
//! All of them build graph nodes; nothing runs before `Stream::eval`.

use std::ptr::null_mut;
use std::sync::Arc;

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::compiled::CompiledGates;
use super::device::Device;
use super::error::last_error;
use super::inputs::{float_of, format_of, quantized_rows};
use super::primitive::kernel;
use super::projections::{Weight, no_transposed};
use super::quantized::{QuantMode, QuantizedWeight, no_blocks, raw_or_null};
use super::stream::Stream;
use crate::error::Result;
use crate::kernels::{self, Arithmetic, Floats, FloatsMut, Format, Level, Pool};

/// How operations are computed on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuOps {
    /// Our own kernels where there are any.
    #[default]
    Kernels,
    /// MLX's stock operations only, as on a GPU. Slow: for comparisons.
    Stock,
}

impl CpuOps {
    /// Whether our kernels compute on this device.
    pub fn are_kernels(self, device: Device) -> bool {
        device == Device::Cpu && self == CpuOps::Kernels
    }
}

/// Builds operations on one stream.
pub struct Ops {
    stream: Arc<Stream>,
    /// Runs our kernels; `None`: MLX computes everything.
    pool: Option<Arc<Pool>>,
    /// `None`: on the CPU.
    gates: Option<Arc<CompiledGates>>,
    arithmetic: Arithmetic,
}

pub(super) const NULL: sys::mlx_array = sys::mlx_array { ctx: null_mut() };

pub(super) fn some(value: i32) -> sys::mlx_optional_int {
    sys::mlx_optional_int {
        value,
        has_value: true,
    }
}

// SAFETY of the calls below: every handle comes from a live `Array` or `Stream`
// (or is the documented null), shapes are passed with their lengths, strings are
// NUL-terminated literals, and mlx-c keeps references of its own.
impl Ops {
    /// `n_threads` is for kernels of ours, 0: as many as suit the machine.
    pub fn new(stream: Stream, cpu_ops: CpuOps, n_threads: usize) -> Ops {
        let kernels = cpu_ops.are_kernels(stream.device());
        let compiles = stream.device().is_gpu() && !stream.device().is_pretended();
        let stop = stream.signal().stop_place();
        let pool = kernels.then(|| Arc::new(Pool::shared(n_threads).stopped_by(stop.clone())));
        Ops {
            stream: Arc::new(stream),
            pool,
            gates: compiles.then(Arc::default),
            arithmetic: Arithmetic::default(),
        }
    }

    /// The same operations, where our kernels compute products in this way, and with
    /// `rows_apart` all else too. MLX's own operations have no such choice.
    pub fn with_arithmetic(&self, arithmetic: Arithmetic) -> Ops {
        Ops {
            stream: self.stream.clone(),
            pool: self.pool.clone(),
            gates: self.gates.clone(),
            arithmetic,
        }
    }

    pub(super) fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// Threads that compute a kernel of ours; 1 where MLX computes everything.
    pub fn n_threads(&self) -> usize {
        self.pool.as_ref().map_or(1, |pool| pool.n_threads())
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether our kernels compute, not MLX's operations.
    pub fn uses_kernels(&self) -> bool {
        self.pool.is_some()
    }

    /// What our kernels run on, if they are in use.
    pub fn pool(&self) -> Option<&Arc<Pool>> {
        self.pool.as_ref()
    }

    pub(super) fn compiled_gates(&self) -> Option<&CompiledGates> {
        self.gates.as_deref()
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
        self.stream.slice_update(target, update, start)
    }

    pub fn zeros(&self, shape: &[i32], dtype: Dtype) -> Result<Array> {
        self.stream.zeros(shape, dtype)
    }

    /// Rows of `table` by index: `[rows, ...]`, i32 `[n]` -> `[n, ...]`
    pub(super) fn take_rows(&self, table: &Array, indices: &Array) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: see above.
            unsafe { sys::mlx_take_axis(out, table.raw(), indices.raw(), 0, self.stream.raw()) }
        })
    }

    /// Rows of a table of embeddings by token, times `scale`, in `dtype`: i32 `[n]`
    /// -> `[n, columns]`. The tokens are rows of the table.
    pub fn embed(
        &self,
        table: &Weight,
        tokens: &Array,
        scale: Option<f32>,
        dtype: Dtype,
    ) -> Result<Array> {
        if let Some(pool) = &self.pool {
            return self.gather(pool, table, tokens, scale, dtype);
        }
        let Some(scale) = scale else {
            return self.stock_embed(table, tokens, dtype);
        };
        let rows = self.stock_embed(table, tokens, Dtype::F32)?;
        self.astype(&self.scale(&rows, scale)?, dtype)
    }

    /// The tokens, i32 `[n]`, with 0 in place of those from `n_tokens` on.
    pub fn tokens_below(&self, tokens: &Array, n_tokens: usize) -> Result<Array> {
        if self.pool.is_none() {
            let bound = Array::from_i32(&[n_tokens as i32], &[])?;
            let is_below = self.binary(sys::mlx_less, tokens, &bound)?;
            return self.multiply(tokens, &self.astype(&is_below, Dtype::I32)?);
        }
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let all = ids(inputs[0]).into_iter().zip(out.as_chunks_mut::<4>().0);
            all.for_each(|(id, out)| {
                let below = if (id as usize) < n_tokens { id } else { 0 };
                *out = below.to_ne_bytes();
            });
        };
        kernel(&self.stream, &[tokens], tokens.shape(), Dtype::I32, body)
    }

    /// Those rows of a matrix of floats.
    pub fn rows(&self, x: &Array, indices: &Array) -> Result<Array> {
        match &self.pool {
            Some(pool) => self.gather(pool, &Weight::Float(x.clone()), indices, None, x.dtype()?),
            None => self.take_rows(x, indices),
        }
    }

    fn stock_embed(&self, table: &Weight, tokens: &Array, dtype: Dtype) -> Result<Array> {
        match table {
            Weight::Float(table) => self.astype(&self.take_rows(table, tokens)?, dtype),
            Weight::Blocks(_) => Err(no_blocks()),
            Weight::Transposed(_) => Err(no_transposed()),
            Weight::Quantized(table) => {
                let biases = table.biases.as_ref();
                let rows = QuantizedWeight {
                    codes: self.take_rows(&table.codes, tokens)?,
                    scales: self.take_rows(&table.scales, tokens)?,
                    biases: biases.map(|all| self.take_rows(all, tokens)).transpose()?,
                    ..*table
                };
                self.dequantize(&rows, dtype)
            }
        }
    }

    fn gather(
        &self,
        pool: &Arc<Pool>,
        table: &Weight,
        tokens: &Array,
        scale: Option<f32>,
        dtype: Dtype,
    ) -> Result<Array> {
        let pool = pool.clone();
        let out_float = dtype.float()?;
        let made = |columns: usize| [tokens.dim(0), columns as i32];
        match table {
            Weight::Float(table) => {
                let (n_rows, columns) = (table.dim(0) as usize, table.dim(1) as usize);
                let float = float_of(table)?;
                let inputs = [tokens, table];
                kernel(
                    &self.stream,
                    &inputs,
                    &made(columns),
                    dtype,
                    move |inputs, out| {
                        let read_row = kernels::float_rows(Floats::new(float, inputs[1]));
                        let out = FloatsMut::new(out_float, out);
                        let ids = ids(inputs[0]);
                        kernels::gather(&pool, &ids, (n_rows, columns), &read_row, scale, out);
                    },
                )
            }
            Weight::Transposed(_) => Err(no_transposed()),
            Weight::Quantized(_) | Weight::Blocks(_) => {
                let (format, columns) = match table {
                    Weight::Blocks(table) => (Format::Blocks(table.format), table.columns()),
                    Weight::Quantized(table) => {
                        let columns = table.codes.dim(1) * 32 / table.bits;
                        (format_of(table)?, columns as usize)
                    }
                    Weight::Float(_) | Weight::Transposed(_) => unreachable!("matched above"),
                };
                let parts = table.parts();
                let n_rows = parts[0].dim(0) as usize;
                let inputs: Vec<_> = std::iter::once(tokens).chain(parts).collect();
                kernel(
                    &self.stream,
                    &inputs,
                    &made(columns),
                    dtype,
                    move |inputs, out| {
                        let rows = quantized_rows(&inputs[1..], format, columns);
                        let read_row = |index: usize, out: &mut [f32]| {
                            rows.dequantize(Level::detect(), index, out);
                        };
                        let out = FloatsMut::new(out_float, out);
                        let ids = ids(inputs[0]);
                        kernels::gather(&pool, &ids, (n_rows, columns), &read_row, scale, out);
                    },
                )
            }
        }
    }

    /// The values of a quantized matrix. They become float32 first where the scales
    /// are of another type than `dtype`, which may not hold them.
    pub(super) fn dequantize(&self, weight: &QuantizedWeight, dtype: Dtype) -> Result<Array> {
        if dtype != Dtype::F32 && weight.scales.dtype()? != dtype {
            return self.astype(&self.dequantize(weight, Dtype::F32)?, dtype);
        }
        let scales = match weight.mode {
            QuantMode::Affine => self.astype(&weight.scales, dtype)?,
            _ => weight.scales.clone(),
        };
        let biases = match &weight.biases {
            Some(biases) => Some(self.astype(biases, dtype)?),
            None => None,
        };
        let dtype = sys::mlx_optional_dtype {
            value: dtype.raw(),
            has_value: true,
        };
        Array::build(|out| {
            // SAFETY: see above.
            unsafe {
                sys::mlx_dequantize(
                    out,
                    weight.codes.raw(),
                    scales.raw(),
                    raw_or_null(biases.as_ref()),
                    some(weight.group_size),
                    some(weight.bits),
                    weight.mode.name().as_ptr(),
                    NULL,
                    dtype,
                    self.stream.raw(),
                )
            }
        })
    }
}

// What loading weights takes as well.
impl Stream {
    pub(super) fn zeros(&self, shape: &[i32], dtype: Dtype) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: see above.
            unsafe { sys::mlx_zeros(out, shape.as_ptr(), shape.len(), dtype.raw(), self.raw()) }
        })
    }

    /// See `Ops::slice_update`.
    pub(super) fn slice_update(
        &self,
        target: Array,
        update: &Array,
        start: &[i32],
    ) -> Result<Array> {
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
                    self.raw(),
                )
            }
        })
    }
}

/// Token ids as they lie in an i32 array.
fn ids(bytes: &[u8]) -> Vec<u32> {
    let ids = bytes.as_chunks::<4>().0.iter();
    ids.map(|id| u32::from_ne_bytes(*id)).collect()
}
