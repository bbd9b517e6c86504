//! [`Array`]: an owned reference to a node of MLX's graph.

use std::ffi::c_int;
use std::fmt;
use std::sync::{Arc, OnceLock};

use mlx_sys as sys;

use super::error::{check, check_made, init};
use crate::error::{Error, Result};
use crate::kernels::Float;

/// Element types that umrt hands to MLX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    Bool,
    U8,
    U16,
    U32,
    U64,
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
            Dtype::U64 => 8,
        }
    }

    pub(super) fn raw(self) -> sys::mlx_dtype {
        match self {
            Dtype::Bool => sys::mlx_dtype__MLX_BOOL,
            Dtype::U8 => sys::mlx_dtype__MLX_UINT8,
            Dtype::U16 => sys::mlx_dtype__MLX_UINT16,
            Dtype::U32 => sys::mlx_dtype__MLX_UINT32,
            Dtype::U64 => sys::mlx_dtype__MLX_UINT64,
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
        [Bool, U8, U16, U32, U64, I32, F16, Bf16, F32]
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
/// Cloning is a reference count, and not one of MLX's: those can fail.
#[derive(Clone)]
pub struct Array(Arc<Node>);

struct Node {
    raw: sys::mlx_array,
    /// Once somebody has asked.
    values: OnceLock<Values>,
}

/// Where the values of an evaluated array lie.
struct Values {
    start: *const u8,
    bytes: usize,
}

// SAFETY: the handle is a pointer to a `shared_ptr`, whose count is atomic. The
// node behind it is written only while it is evaluated, which happens under the
// exclusive borrow of the context (or the loader) that owns the graph; finished
// arrays such as weights are only read.
unsafe impl Send for Node {}
// SAFETY: as above; all methods of `&Array` read.
unsafe impl Sync for Node {}

impl Drop for Node {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and dropped once.
        unsafe { sys::mlx_array_free(self.raw) };
    }
}

impl Node {
    fn of(raw: sys::mlx_array) -> Node {
        Node {
            raw,
            values: OnceLock::new(),
        }
    }
}

impl Array {
    /// Takes over a handle that mlx-c returned. A null handle is MLX's failure.
    pub(super) fn from_raw(raw: sys::mlx_array) -> Result<Array> {
        let node = Node::of(raw);
        check_made(raw.ctx)?;
        Ok(Array(Arc::new(node)))
    }

    /// Runs an mlx-c function that stores its result through a pointer.
    pub(super) fn build(call: impl FnOnce(*mut sys::mlx_array) -> c_int) -> Result<Array> {
        // SAFETY: makes an empty handle; no memory is touched.
        let mut node = Node::of(unsafe { sys::mlx_array_new() });
        check(call(&mut node.raw))?;
        Ok(Array(Arc::new(node)))
    }

    pub(super) fn raw(&self) -> sys::mlx_array {
        self.0.raw
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
            let rank = sys::mlx_array_ndim(self.raw());
            if rank == 0 {
                return &[];
            }
            std::slice::from_raw_parts(sys::mlx_array_shape(self.raw()), rank)
        }
    }

    /// The length of dimension `index`.
    pub fn dim(&self, index: usize) -> i32 {
        self.shape()[index]
    }

    pub fn dtype(&self) -> Result<Dtype> {
        // SAFETY: reads a field of the node.
        let raw = unsafe { sys::mlx_array_dtype(self.raw()) };
        Dtype::from_raw(raw)
            .ok_or_else(|| Error::internal(format!("an array has MLX's element type {raw}")))
    }

    pub fn bytes(&self) -> usize {
        // SAFETY: reads fields of the node.
        unsafe { sys::mlx_array_nbytes(self.raw()) }
    }

    /// Whether the values are there to be read.
    pub fn is_evaluated(&self) -> Result<bool> {
        let mut available = false;
        // SAFETY: writes one bool.
        check(unsafe { sys::_mlx_array_is_available(&mut available, self.raw()) })?;
        Ok(available)
    }

    fn is_dense(&self) -> Result<bool> {
        let mut dense = false;
        // SAFETY: writes one bool.
        check(unsafe { sys::_mlx_array_is_row_contiguous(&mut dense, self.raw()) })?;
        Ok(dense)
    }

    /// Where the first element lies. Only for evaluated arrays.
    pub fn data_address(&self) -> Result<*const u8> {
        if !self.is_evaluated()? {
            return Err(Error::internal(format!("{self:?} has no values yet")));
        }
        // SAFETY: it is evaluated, so it has a buffer. Of a GPU's own memory MLX moves
        // it where the CPU can read it, which may fail.
        let address = unsafe { sys::mlx_array_data_uint8(self.raw()) };
        check_made(address)?;
        Ok(address)
    }

    /// The bytes that kernels on the CPU read, in place. `None`: there are no values
    /// yet, or not in the order of rows.
    pub(super) fn values(&self) -> Result<Option<&[u8]>> {
        if self.0.values.get().is_none() {
            if !self.is_evaluated()? || !self.is_dense()? {
                return Ok(None);
            }
            let (start, bytes) = (self.data_address()?, self.bytes());
            self.0.values.get_or_init(|| Values { start, bytes });
        }
        // SAFETY: the values of an evaluated array stay where they are while somebody
        // holds it, as `self` does, and nobody writes them; MLX said how many there are.
        let bytes =
            |values: &Values| unsafe { std::slice::from_raw_parts(values.start, values.bytes) };
        Ok(self.0.values.get().map(bytes))
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
        if !self.is_evaluated()? || !self.is_dense()? || self.dtype()? != dtype {
            return Err(Error::internal(format!(
                "{self:?} cannot be read as contiguous {dtype:?} values"
            )));
        }
        self.data_address()
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
