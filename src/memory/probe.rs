//! Whether the system has memory to give at this moment.

use std::hint::black_box;

/// Tries to get `bytes` in one piece and gives them back untouched. MLX and the
/// kernels cannot survive an allocation that fails in the middle of a step, so a
/// step asks before it begins. It costs a system call at most.
pub fn probe(bytes: usize) -> bool {
    if bytes == 0 {
        return true;
    }
    // SAFETY: freed right away; null is fine to free. The compiler must not
    // conclude that nobody looks at the memory.
    unsafe {
        let memory = black_box(libc::malloc(bytes));
        libc::free(memory);
        !memory.is_null()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_there_is_not() {
        assert!(probe(0) && probe(1) && probe(1 << 20));
        assert!(!probe(isize::MAX as usize));
    }
}
