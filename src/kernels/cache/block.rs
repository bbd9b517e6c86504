//! [`CacheBlock`]: memory for the keys and values of some consecutive tokens.

use std::io;
use std::ops::Range;

use memmap2::{MmapMut, MmapRaw};

use super::layout::CacheLayout;

/// Keys and values of `capacity` consecutive tokens over all layers, as a
/// [`CacheLayout`] says. The system gives the memory zeroed when it is first
/// touched, and gets it back at once.
pub struct CacheBlock {
    memory: MmapRaw,
    capacity: usize,
}

impl CacheBlock {
    /// Fails when the system has no memory.
    pub fn zeroed(layout: &CacheLayout, capacity: usize) -> io::Result<CacheBlock> {
        let memory = MmapMut::map_anon(layout.bytes_per_token() * capacity)?;
        Ok(CacheBlock {
            memory: memory.into(),
            capacity,
        })
    }

    /// A second block with the same contents, of one that several sequences share.
    /// Fails when the system has no memory.
    pub(crate) fn copy_shared(&self) -> io::Result<CacheBlock> {
        let mut memory = MmapMut::map_anon(self.bytes())?;
        // SAFETY: only attention writes into blocks, and never into shared ones.
        memory.copy_from_slice(unsafe { self.part(0..self.bytes()) });
        Ok(CacheBlock {
            memory: memory.into(),
            capacity: self.capacity,
        })
    }

    /// Tokens that it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// # Safety
    /// Nobody writes these bytes while the slice is there.
    ///
    /// # Panics
    /// If the range is not inside of the block.
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.bytes());
        // SAFETY: inside of the mapping, which lives as long as `self`; any bits
        // are bytes, and what was never written is zero.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(range.start), range.len()) }
    }

    /// # Safety
    /// Nobody else uses these bytes while the slice is there.
    ///
    /// # Panics
    /// If the range is not inside of the block.
    #[expect(clippy::mut_from_ref, reason = "the caller sees to it")]
    pub(super) unsafe fn part_mut(&self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.bytes());
        // SAFETY: as for `part`; exclusive by the contract.
        unsafe {
            let start = self.memory.as_mut_ptr().add(range.start);
            std::slice::from_raw_parts_mut(start, range.len())
        }
    }
}
