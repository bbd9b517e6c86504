//! Sequences as arrays of all their tokens, which is how others keep them.

use std::io;

use super::sequence::{Sequence, chunk_tokens};
use super::shape::{BLOCK, CacheShape};
use crate::error::{Error, Result};
use crate::kernels::CacheBlock;
use crate::memory::probe;
use crate::mlx::Ops;

/// One of the arrays that a layer's keys or values consist of: a row for each head and
/// token, head after head.
#[derive(Clone, Copy)]
pub struct TokenRows<'a> {
    pub bytes: &'a [u8],
    /// Tokens that it has room for.
    pub capacity: usize,
}

impl Sequence {
    /// Replaces everything by `tokens`, which are the first ones in the arrays: in the
    /// order of the layout's parts, each of the part's size. If that fails, the sequence
    /// is as before.
    pub fn replace_by_rows(
        &mut self,
        shape: &CacheShape,
        tokens: Vec<i32>,
        arrays: &[TokenRows<'_>],
    ) -> Result<()> {
        let (layout, length) = (shape.layout(), tokens.len());
        if layout.parts().count() != arrays.len() {
            return Err(Error::internal("not as many arrays as the cache has parts"));
        }
        self.replace(shape, tokens, None, |index| {
            let tokens = chunk_tokens(index, length);
            let mut chunk = CacheBlock::zeroed(layout, tokens.len()).map_err(no_memory)?;
            for (part, array) in layout.parts().zip(arrays) {
                chunk.take_rows(part, array.bytes, array.capacity, tokens.clone());
            }
            Ok(chunk)
        })
    }

    /// Copies of all tokens' rows, in the order of the layout's parts.
    pub fn copy_rows(&self, ops: &Ops) -> Result<Vec<Vec<u8>>> {
        let (layout, length) = (self.shape().layout(), self.length());
        if !probe(length * layout.bytes_per_token()) {
            return Err(no_memory(io::ErrorKind::OutOfMemory.into()));
        }
        let room = |bytes_per_token: usize| vec![0; bytes_per_token * length];
        let parts = || layout.parts();
        let mut arrays: Vec<_> = parts().map(|part| room(part.bytes_per_token())).collect();
        for index in 0..length.div_ceil(BLOCK) {
            let mut chunk = self.chunk(ops, index)?;
            let tokens = chunk_tokens(index, length);
            for (part, array) in parts().zip(&mut arrays) {
                chunk.give_rows(part, array, length, tokens.clone());
            }
        }
        Ok(arrays)
    }
}

fn no_memory(error: io::Error) -> Error {
    Error::out_of_memory(format!("no memory for keys and values: {error}"))
}
