//! [`Array`]: an owned reference to a node of MLX's graph.

use std::ffi::c_int;
use std::fmt;

use mlx_sys as sys;

use super::error::{check, init, last_error};
use crate::error::{Error, Result};
use crate::kernels::Float;

/// Element types that umrt hands to MLX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    Bool,
    U8,
    U16,
    U32,
    I32,
    F16,
    Bf16,
    F32,
}

impl Dtype {
    pub fn bytes(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 => 1,
            Dtype::U16 | Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
        }
    }

    pub(super) fn raw(self) -> sys::mlx_dtype {
        match self {
            Dtype::Bool => sys::mlx_dtype__MLX_BOOL,
            Dtype::U8 => sys::mlx_dtype__MLX_UINT8,
            Dtype::U16 => sys::mlx_dtype__MLX_UINT16,
            Dtype::U32 => sys::mlx_dtype__MLX_UINT32,
            Dtype::I32 => sys::mlx_dtype__MLX_INT32,
            Dtype::F16 => sys::mlx_dtype__MLX_FLOAT16,
            Dtype::Bf16 => sys::mlx_dtype__MLX_BFLOAT16,
            Dtype::F32 => sys::mlx_dtype__MLX_FLOAT32,
        }
    }

    /// The same type as our kernels name it.
    pub fn float(self) -> Result<Float> {
        match self {
            Dtype::F32 => Ok(Float::F32),
            Dtype::F16 => Ok(Float::F16),
            Dtype::Bf16 => Ok(Float::Bf16),
            other => Err(Error::internal(format!(
                "{other:?} values where floats belong"
            ))),
        }
    }

    fn from_raw(raw: sys::mlx_dtype) -> Option<Dtype> {
        use Dtype::*;
        [Bool, U8, U16, U32, I32, F16, Bf16, F32]
            .into_iter()
            .find(|dtype| dtype.raw() == raw)
    }
}

impl From<Float> for Dtype {
    fn from(float: Float) -> Dtype {
        match float {
            Float::F32 => Dtype::F32,
            Float::F16 => Dtype::F16,
            Float::Bf16 => Dtype::Bf16,
        }
    }
}

/// A node of MLX's graph: data, or the promise of it until it is evaluated.
/// Cloning is a reference count.
pub struct Array(sys::mlx_array);

// SAFETY: the handle is a pointer to a `shared_ptr`, whose count is atomic. The
// node behind it is written only while it is evaluated, which happens under the
// exclusive borrow of the context (or the loader) that owns the graph; finished
// arrays such as weights are only read.
unsafe impl Send for Array {}
// SAFETY: as above; all methods of `&Array` read.
unsafe impl Sync for Array {}

impl Array {
    /// Takes over a handle that mlx-c returned. A null handle is MLX's failure.
    pub(super) fn from_raw(raw: sys::mlx_array) -> Result<Array> {
        if raw.ctx.is_null() {
            return Err(last_error());
        }
        Ok(Array(raw))
    }

    /// Runs an mlx-c function that stores its result through a pointer.
    pub(super) fn build(call: impl FnOnce(*mut sys::mlx_array) -> c_int) -> Result<Array> {
        // SAFETY: makes an empty handle; no memory is touched.
        let mut array = Array(unsafe { sys::mlx_array_new() });
        check(call(&mut array.0))?;
        Ok(array)
    }

    pub(super) fn raw(&self) -> sys::mlx_array {
        self.0
    }

    fn from_bytes(data: *const u8, shape: &[i32], dtype: Dtype) -> Result<Array> {
        init();
        // SAFETY: the callers pass a slice of exactly prod(shape) elements of
        // `dtype`; mlx-c copies it before it returns.
        Array::from_raw(unsafe {
            sys::mlx_array_new_data(
                data.cast(),
                shape.as_ptr(),
                shape.len() as c_int,
                dtype.raw(),
            )
        })
    }

    pub fn from_i32(values: &[i32], shape: &[i32]) -> Result<Array> {
        assert_eq!(values.len(), element_count(shape));
        Array::from_bytes(values.as_ptr().cast(), shape, Dtype::I32)
    }

    pub fn from_f32(values: &[f32], shape: &[i32]) -> Result<Array> {
        assert_eq!(values.len(), element_count(shape));
        Array::from_bytes(values.as_ptr().cast(), shape, Dtype::F32)
    }

    pub fn from_bool(values: &[bool], shape: &[i32]) -> Result<Array> {
        assert_eq!(values.len(), element_count(shape));
        Array::from_bytes(values.as_ptr().cast(), shape, Dtype::Bool)
    }

    /// A copy of `bytes`, which must hold exactly `shape` elements of `dtype`.
    pub fn copy_of(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Result<Array> {
        assert_eq!(bytes.len(), element_count(shape) * dtype.bytes());
        Array::from_bytes(bytes.as_ptr(), shape, dtype)
    }

    pub fn shape(&self) -> &[i32] {
        // SAFETY: the shape lives in the node, which `self` keeps alive.
        unsafe {
            let rank = sys::mlx_array_ndim(self.0);
            if rank == 0 {
                return &[];
            }
            std::slice::from_raw_parts(sys::mlx_array_shape(self.0), rank)
        }
    }

    /// The length of dimension `index`.
    pub fn dim(&self, index: usize) -> i32 {
        self.shape()[index]
    }

    pub fn dtype(&self) -> Result<Dtype> {
        // SAFETY: reads a field of the node.
        let raw = unsafe { sys::mlx_array_dtype(self.0) };
        Dtype::from_raw(raw)
            .ok_or_else(|| Error::internal(format!("an array has MLX's element type {raw}")))
    }

    pub fn bytes(&self) -> usize {
        // SAFETY: reads fields of the node.
        unsafe { sys::mlx_array_nbytes(self.0) }
    }

    /// Whether the values are there to be read.
    pub fn is_evaluated(&self) -> bool {
        self.ask_whether_evaluated().unwrap_or(false)
    }

    fn ask_whether_evaluated(&self) -> Result<bool> {
        let mut available = false;
        // SAFETY: writes one bool.
        check(unsafe { sys::_mlx_array_is_available(&mut available, self.0) })?;
        Ok(available)
    }

    /// Where the first element lies. Only for evaluated arrays.
    pub fn data_address(&self) -> Option<*const u8> {
        if !self.is_evaluated() {
            return None;
        }
        self.address_of_evaluated().ok()
    }

    fn address_of_evaluated(&self) -> Result<*const u8> {
        // SAFETY: the callers made sure that the array is evaluated, so it has a
        // buffer. Of a GPU's own memory MLX moves it where the CPU can read it, which
        // may fail.
        let address = unsafe { sys::mlx_array_data_uint8(self.0) };
        match address.is_null() {
            true => Err(last_error()),
            false => Ok(address),
        }
    }

    /// The values of an evaluated, row-contiguous f32 array, in place.
    pub fn as_f32(&self) -> Result<&[f32]> {
        let address = self.readable(Dtype::F32)?;
        // SAFETY: `readable` checked the element type, that the buffer exists
        // and that elements are dense in row order; MLX aligns its buffers. The
        // borrow of `self` keeps the buffer alive.
        Ok(unsafe { std::slice::from_raw_parts(address.cast(), element_count(self.shape())) })
    }

    /// As `as_f32`, for i32.
    pub fn as_i32(&self) -> Result<&[i32]> {
        let address = self.readable(Dtype::I32)?;
        // SAFETY: as above.
        Ok(unsafe { std::slice::from_raw_parts(address.cast(), element_count(self.shape())) })
    }

    /// The bytes of an evaluated, row-contiguous array, in place.
    pub(super) fn as_bytes(&self) -> Result<&[u8]> {
        let address = self.readable(self.dtype()?)?;
        // SAFETY: as above.
        Ok(unsafe { std::slice::from_raw_parts(address, self.bytes()) })
    }

    fn readable(&self, dtype: Dtype) -> Result<*const u8> {
        let mut dense = false;
        // SAFETY: writes one bool.
        check(unsafe { sys::_mlx_array_is_row_contiguous(&mut dense, self.0) })?;
        if !dense || self.dtype()? != dtype || !self.ask_whether_evaluated()? {
            return Err(Error::internal(format!(
                "{self:?} cannot be read as contiguous {dtype:?} values"
            )));
        }
        self.address_of_evaluated()
    }
}

impl Clone for Array {
    fn clone(&self) -> Self {
        // SAFETY: `mlx_array_set` into an empty handle makes a second reference.
        unsafe {
            let mut raw = sys::mlx_array_new();
            let code = sys::mlx_array_set(&mut raw, self.0);
            assert!(
                code == 0 && !raw.ctx.is_null(),
                "copying a reference failed"
            );
            Array(raw)
        }
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and dropped once.
        unsafe { sys::mlx_array_free(self.0) };
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype() {
            Ok(dtype) => write!(f, "array {dtype:?}{:?}", self.shape()),
            Err(_) => write!(f, "array {:?}", self.shape()),
        }
    }
}

pub(super) fn element_count(shape: &[i32]) -> usize {
    shape.iter().map(|&length| length as usize).product()
}
