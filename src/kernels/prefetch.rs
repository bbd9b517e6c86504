//! Asking for memory before it is needed.

/// Bytes that memory moves in.
pub const CACHE_LINE: usize = 64;

/// Asks for bytes.
#[inline(always)]
pub fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(CACHE_LINE) {
        prefetch_line(line.as_ptr());
    }
}

/// Asks for the cache line at an address, which may be any.
#[inline(always)]
pub fn prefetch_line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: part of every x86-64; it reads nothing and cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
