//! Tokens that move between memory with room for different numbers of them.

use std::io;
use std::ops::Range;

use super::block::CacheBlock;
use super::layout::{CacheLayout, PartLayout};

/// Where tokens come from.
struct Source<'a> {
    bytes: &'a [u8],
    /// Tokens that the memory has room for.
    capacity: usize,
    tokens: Range<usize>,
    part: PartLayout,
}

/// Where tokens go to.
struct Target<'a> {
    bytes: &'a mut [u8],
    capacity: usize,
    first: usize,
    part: PartLayout,
}

/// # Panics
/// If the parts differ in more than their place, or the tokens are not inside.
fn copy_part(source: &Source<'_>, target: Target<'_>) {
    assert_eq!(source.part.alone(), target.part.alone());
    let n = source.tokens.len();
    for head in 0..source.part.n_heads {
        let from = source.part.rows(source.capacity, head, &source.tokens);
        let tokens = target.first..target.first + n;
        let to = target.part.rows(target.capacity, head, &tokens);
        target.bytes[to].copy_from_slice(&source.bytes[from]);
    }
}

impl CacheBlock {
    /// The first `n` tokens in a block of their own that has room for `capacity`.
    /// As for `copy_shared`, nobody writes into them any more.
    pub(crate) fn copy_tokens(
        &self,
        layout: &CacheLayout,
        n: usize,
        capacity: usize,
    ) -> io::Result<CacheBlock> {
        if capacity == self.capacity() && n == capacity {
            return self.copy_shared();
        }
        let mut copy = CacheBlock::zeroed(layout, capacity)?;
        // SAFETY: attention writes behind the tokens of sequences, and only while a
        // step runs, under the exclusive borrow of the context that has them.
        let bytes = unsafe { self.part(0..self.bytes()) };
        for part in layout.parts() {
            let source = Source {
                bytes,
                capacity: self.capacity(),
                tokens: 0..n,
                part,
            };
            let target = Target {
                bytes: copy.bytes_mut(),
                capacity,
                first: 0,
                part,
            };
            copy_part(&source, target);
        }
        Ok(copy)
    }

    /// Fills a part's first tokens from memory that has nothing else in it.
    pub(crate) fn take_rows(
        &mut self,
        part: PartLayout,
        bytes: &[u8],
        capacity: usize,
        tokens: Range<usize>,
    ) {
        let source = Source {
            bytes,
            capacity,
            tokens,
            part: part.alone(),
        };
        let target = Target {
            capacity: self.capacity(),
            bytes: self.bytes_mut(),
            first: 0,
            part,
        };
        copy_part(&source, target);
    }

    /// The other way: its first `tokens.len()` tokens become those.
    pub(crate) fn give_rows(
        &mut self,
        part: PartLayout,
        bytes: &mut [u8],
        capacity: usize,
        tokens: Range<usize>,
    ) {
        let source = Source {
            capacity: self.capacity(),
            bytes: self.bytes_mut(),
            tokens: 0..tokens.len(),
            part,
        };
        let target = Target {
            bytes,
            capacity,
            first: tokens.start,
            part: part.alone(),
        };
        copy_part(&source, target);
    }

    /// All of it, of a block that nobody else has.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: exclusive.
        unsafe { self.part_mut(0..self.bytes()) }
    }
}
