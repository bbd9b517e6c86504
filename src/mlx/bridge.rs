//! The Rust side of `bridge.cpp`.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, OnceLock};

use mlx_sys as sys;

use super::array::{Array, Dtype, element_count};
use super::error::init;
use crate::error::{Error, Result};

unsafe extern "C" {
    fn umrt_mlx_can_wrap() -> bool;
    fn umrt_mlx_wrap(
        data: *mut c_void,
        shape: *const c_int,
        rank: usize,
        dtype: sys::mlx_dtype,
        payload: *mut c_void,
        release: extern "C" fn(*mut c_void),
    ) -> *mut c_void;
}

/// MLX's CPU allocator keeps a size in front of each buffer and may read it.
pub(super) const HEADER_BYTES: usize = size_of::<usize>();

/// What keeps wrapped memory alive: the mapped file, for example.
pub(super) type Owner = Arc<dyn Any + Send + Sync>;

/// Whether the MLX that was loaded lets us wrap memory without a copy.
pub(super) fn can_wrap() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        init();
        // SAFETY: allocates and frees one buffer of MLX's.
        unsafe { umrt_mlx_can_wrap() }
    })
}

/// An array over `memory[start..]` without a copy. Any alignment will do. MLX
/// may read the `HEADER_BYTES` in front of it, so `start` is at least that.
pub(super) fn wrap(
    memory: &[u8],
    start: usize,
    shape: &[i32],
    dtype: Dtype,
    owner: Owner,
) -> Result<Array> {
    let bytes = element_count(shape) * dtype.bytes();
    let inside = start >= HEADER_BYTES
        && start
            .checked_add(bytes)
            .is_some_and(|end| end <= memory.len());
    if !inside || !can_wrap() {
        return Err(Error::internal(format!(
            "cannot wrap {bytes} bytes at {start} of {}",
            memory.len()
        )));
    }
    let payload = Box::into_raw(Box::new(owner));
    // SAFETY: the range and the header in front of it lie inside `memory`, which
    // the owner keeps alive until `release` runs. MLX writes only to buffers it
    // may donate, which the model prevents by keeping its own reference.
    let raw = unsafe {
        umrt_mlx_wrap(
            memory.as_ptr().add(start).cast_mut().cast(),
            shape.as_ptr(),
            shape.len(),
            dtype.raw(),
            payload.cast(),
            release,
        )
    };
    if raw.is_null() {
        return Err(Error::out_of_memory("no memory for an array's description"));
    }
    Array::from_raw(sys::mlx_array { ctx: raw })
}

/// Gives back a boxed owner that MLX was handed.
pub(super) extern "C" fn release(payload: *mut c_void) {
    // SAFETY: `payload` is such a box; whoever was handed it calls this once.
    drop(unsafe { Box::from_raw(payload.cast::<Owner>()) });
}
