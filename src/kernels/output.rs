//! [`Output`]: one buffer that the pieces of a job fill together.

use std::marker::PhantomData;
use std::ops::Range;

/// A buffer of which each piece writes its own parts.
pub struct Output<'a, T> {
    start: *mut T,
    length: usize,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: pieces write disjoint parts, as `part` requires.
unsafe impl<T: Send> Sync for Output<'_, T> {}

impl<'a, T> Output<'a, T> {
    pub fn new(buffer: &'a mut [T]) -> Self {
        Output {
            start: buffer.as_mut_ptr(),
            length: buffer.len(),
            buffer: PhantomData,
        }
    }

    /// # Safety
    /// No two parts that are alive at a time overlap.
    ///
    /// # Panics
    /// If the range is not inside of the buffer.
    #[expect(clippy::mut_from_ref, reason = "the parts are disjoint")]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: inside of the buffer, which is borrowed for 'a; exclusive by
        // the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
