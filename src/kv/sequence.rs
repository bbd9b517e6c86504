//! [`Sequence`]: keys and values of one sequence, updated in place.

use super::shape::CacheShape;
use crate::error::{Error, Result};
use crate::mlx::{Array, Ops};

/// One layer's cache: `[1, n_kv_heads, capacity, head_dim]` each. Positions at
/// or beyond the sequence's length are free.
struct Layer {
    keys: Array,
    values: Array,
}

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
            let old = self.layers[layer].take();
            let (keys, values) = match old {
                Some(Layer { keys, values }) => (Some(keys), Some(values)),
                None => (None, None),
            };
            let layer_arrays = Layer {
                keys: self.moved(ops, keys, capacity)?,
                values: self.moved(ops, values, capacity)?,
            };
            // One layer at a time, so that old and new of all never coexist.
            ops.stream()
                .eval([&layer_arrays.keys, &layer_arrays.values])?;
            self.layers[layer] = Some(layer_arrays);
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

    /// Writes keys and values `[1, n_kv_heads, n, head_dim]` of the next n
    /// tokens and gives those from token `first` on:
    /// `[1, n_kv_heads, length + n - first, head_dim]`.
    pub fn append(
        &mut self,
        ops: &Ops,
        layer: usize,
        keys: &Array,
        values: &Array,
        first: usize,
    ) -> Result<(Array, Array)> {
        let n = keys.dim(2);
        let start = [0, 0, self.length as i32, 0];
        let cache = self.layers[layer]
            .take()
            .ok_or_else(|| Error::internal(format!("layer {layer} has no cache")))?;
        // The old arrays move into the updates: MLX then writes in place.
        let keys = ops.slice_update(cache.keys, keys, &start)?;
        let values = ops.slice_update(cache.values, values, &start)?;
        let from = [0, 0, first as i32, 0];
        let to = [1, keys.dim(1), self.length as i32 + n, keys.dim(3)];
        let seen = (
            ops.slice(&keys, &from, &to)?,
            ops.slice(&values, &from, &to)?,
        );
        self.layers[layer] = Some(Layer { keys, values });
        Ok(seen)
    }

    /// The arrays that a step must evaluate so that the cache is up to date.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers
            .iter()
            .flatten()
            .flat_map(|layer| [&layer.keys, &layer.values])
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
