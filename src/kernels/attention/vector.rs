//! [`Vector`]: lanes at addresses.

use std::slice;

use crate::kernels::Float;
use crate::kernels::lanes::Lanes;

/// SAFETY of all functions: pointers are good for `LANES` elements, at any
/// alignment.
pub trait Vector: Lanes {
    const LANES: usize = Self::N;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as the trait says.
        unsafe { load_as(Float::F32, from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: as the trait says.
        unsafe { load_as(Float::F16, from) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: as the trait says.
        unsafe { load_as(Float::Bf16, from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as the trait says.
        unsafe { self.store_as(Float::F32, to.cast()) }
    }

    /// Rounds to `float` and stores.
    #[inline(always)]
    unsafe fn store_as(self, float: Float, to: *mut u8) {
        // SAFETY: as the trait says.
        let bytes = unsafe { slice::from_raw_parts_mut(to, Self::N * float.bytes()) };
        self.write(float, bytes);
    }
}

impl<V: Lanes> Vector for V {}

#[inline(always)]
unsafe fn load_as<V: Lanes>(float: Float, from: *const u8) -> V {
    // SAFETY: as `Vector` says.
    V::read(float, unsafe {
        slice::from_raw_parts(from, V::N * float.bytes())
    })
}
