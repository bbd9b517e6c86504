//! [`QuantizedWeight`]: a matrix in one of MLX's quantized formats.

use std::ffi::CStr;
use std::ptr::null_mut;

use mlx_sys as sys;

use super::array::Array;
use crate::error::Error;
use crate::kernels::BlockFormat;

/// A number format of MLX's quantized operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantMode {
    Affine,
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

impl QuantMode {
    pub(super) fn name(self) -> &'static CStr {
        match self {
            QuantMode::Affine => c"affine",
            QuantMode::Mxfp4 => c"mxfp4",
            QuantMode::Mxfp8 => c"mxfp8",
            QuantMode::Nvfp4 => c"nvfp4",
        }
    }
}

/// A quantized weight matrix `[rows, columns]`: each group of `group_size` columns
/// has a scale and, in affine mode, a bias; codes are packed into u32.
#[derive(Clone)]
pub struct QuantizedWeight {
    /// u32 `[rows, columns * bits / 32]`
    pub codes: Array,
    /// `[rows, columns / group_size]`; u8 in all modes but the affine one
    pub scales: Array,
    /// As `scales`; the affine mode has them.
    pub biases: Option<Array>,
    pub mode: QuantMode,
    pub group_size: i32,
    pub bits: i32,
}

/// A weight matrix in blocks of a GGUF file, which only our kernels read.
#[derive(Clone)]
pub struct BlockWeight {
    /// u8 `[rows, bytes of a row]`
    pub bytes: Array,
    pub format: BlockFormat,
}

impl BlockWeight {
    pub(super) fn columns(&self) -> usize {
        let row_bytes = self.bytes.shape().last().copied().unwrap_or(0) as usize;
        row_bytes / self.format.bytes() * self.format.values()
    }
}

/// That MLX's operations do not know blocks. The loader has refused them before.
pub(super) fn no_blocks() -> Error {
    Error::internal("blocks of a GGUF file without kernels")
}

/// An array that may be absent, as mlx-c takes it.
pub(super) fn raw_or_null(array: Option<&Array>) -> sys::mlx_array {
    array.map_or(sys::mlx_array { ctx: null_mut() }, Array::raw)
}
