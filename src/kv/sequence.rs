//! [`Sequence`]: keys and values of one sequence, updated in place.

use super::shape::CacheShape;
use crate::error::{Error, Result};
use crate::mlx::{Array, Ops};

/// One layer's keys and values: `[1, n_kv_heads, capacity, head_dim]` each.
/// Positions at or beyond the sequence's length are free.
type Layer = [Array; 2];

/// The cache of one sequence. A step writes behind `length`, and only a step
/// that succeeded moves `length`: what a failed one wrote is free space again.
pub struct Sequence {
    shape: CacheShape,
    /// Empty until the first token.
    layers: Vec<Option<Layer>>,
    capacity: usize,
    length: usize,
}

impl Sequence {
    pub fn new(shape: CacheShape) -> Self {
        Self {
            shape,
            layers: Vec::new(),
            capacity: 0,
            length: 0,
        }
    }

    /// Tokens whose keys and values are here.
    pub fn length(&self) -> usize {
        self.length
    }

    pub fn bytes_used(&self) -> usize {
        self.length * self.shape.bytes_per_token()
    }

    pub fn bytes_reserved(&self) -> usize {
        self.capacity * self.shape.bytes_per_token()
    }

    /// Keeps the first `length` tokens, which must be there.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Counts `n` tokens that were just evaluated.
    pub fn advance(&mut self, n: usize) {
        self.length += n;
        debug_assert!(self.length <= self.capacity);
    }

    /// Gives all memory back.
    pub fn clear(&mut self) {
        *self = Sequence::new(self.shape);
    }

    /// Makes room for `n` more tokens.
    pub fn reserve(&mut self, ops: &Ops, n: usize) -> Result<()> {
        let needed = self.length + n;
        if needed > self.shape.max_tokens {
            return Err(Error::no_space(format!(
                "the sequence holds {} tokens and {n} more do not fit into the context of {}; \
                 trim it or make a context with a larger n_ctx",
                self.length, self.shape.max_tokens
            )));
        }
        if needed <= self.capacity {
            return Ok(());
        }
        let capacity = self.shape.grown_capacity(self.capacity, needed);
        self.layers.resize_with(self.shape.n_layers, || None);
        for layer in 0..self.shape.n_layers {
            let [keys, values] = match self.layers[layer].take() {
                Some(old) => old.map(Some),
                None => [None, None],
            };
            let moved = [
                self.moved(ops, keys, capacity)?,
                self.moved(ops, values, capacity)?,
            ];
            // One layer at a time, so that old and new of all never coexist.
            ops.stream().eval(&moved)?;
            self.layers[layer] = Some(moved);
        }
        self.capacity = capacity;
        Ok(())
    }

    fn moved(&self, ops: &Ops, old: Option<Array>, capacity: usize) -> Result<Array> {
        let shape = [
            1,
            self.shape.n_kv_heads as i32,
            capacity as i32,
            self.shape.head_dim as i32,
        ];
        let empty = ops.zeros(&shape, self.shape.dtype)?;
        match old {
            Some(old) => ops.slice_update(empty, &old, &[0, 0, 0, 0]),
            None => Ok(empty),
        }
    }

    /// Gives one layer's keys and values away to be replaced by what `extend`
    /// makes of them, and then to be looked at. If it fails, they are lost.
    pub fn update(
        &mut self,
        layer: usize,
        extend: impl FnOnce([Array; 2]) -> Result<[Array; 2]>,
    ) -> Result<&[Array; 2]> {
        let cache = self.layers[layer]
            .take()
            .ok_or_else(|| Error::internal(format!("layer {layer} has no cache")))?;
        Ok(self.layers[layer].insert(extend(cache)?))
    }

    /// The arrays that a step must evaluate so that the cache is up to date.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flatten().flatten()
    }

    /// After a step that MLX failed in the middle of: whether everything up to
    /// `length` is still there. If not, the sequence is empty.
    pub fn recover(&mut self) -> bool {
        let complete =
            self.layers.iter().all(Option::is_some) && self.arrays().all(Array::is_evaluated);
        if !complete {
            self.clear();
        }
        complete
    }
}
