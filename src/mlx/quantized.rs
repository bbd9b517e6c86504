//! [`QuantizedWeight`]: a matrix in one of MLX's quantized formats.

use std::ffi::CStr;
use std::ptr::null_mut;

use mlx_sys as sys;

use super::array::Array;

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

/// An array that may be absent, as mlx-c takes it.
pub(super) fn raw_or_null(array: Option<&Array>) -> sys::mlx_array {
    array.map_or(sys::mlx_array { ctx: null_mut() }, Array::raw)
}
