//! [`Arrays`]: a sequence's keys and values as MLX's operations use them.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::shape::{BLOCK, CacheShape};
use super::usage::Part;
use crate::error::{Error, Result};
use crate::kernels::CacheBlock;
use crate::memory::{Category, Entry, probe};
use crate::mlx::{Array, CachedArrays, Ops, cached_bytes, cached_from_bytes};

/// One layer's keys and values; tokens at or beyond the sequence's length are free.
/// Cloning shares the arrays: an update that does not have them for itself makes a
/// copy.
#[derive(Clone)]
pub struct Arrays {
    /// Empty until the first token.
    layers: Vec<Option<[CachedArrays; 2]>>,
    capacity: usize,
    /// Sequences that share the arrays share it.
    reserved: Arc<Reserved>,
}

/// Bytes of all arrays, as the ledger knows them.
struct Reserved {
    all: Entry,
    _in_mlx: Entry,
}

impl Reserved {
    fn new(bytes: usize) -> Arc<Reserved> {
        Arc::new(Reserved {
            all: Entry::new(Category::KvReserved, bytes),
            _in_mlx: Entry::new(Category::KvInMlx, bytes),
        })
    }
}

fn no_memory(error: io::Error) -> Error {
    Error::out_of_memory(format!(
        "the system has no memory for a copy of keys and values: {error}; trim or free what is not \
         needed"
    ))
}

impl Default for Arrays {
    fn default() -> Self {
        Arrays {
            layers: Vec::new(),
            capacity: 0,
            reserved: Reserved::new(0),
        }
    }
}

impl Arrays {
    /// Makes room for `needed` tokens, of which some are about to be written.
    pub fn reserve(&mut self, ops: &Ops, shape: &CacheShape, needed: usize) -> Result<()> {
        let capacity = match needed <= self.capacity {
            true => self.capacity,
            false => shape.grown_capacity(self.capacity, needed),
        };
        if capacity > self.capacity {
            self.move_to(ops, shape, capacity)?;
        }
        let bytes = capacity * shape.bytes_per_token();
        // Whoever writes first has arrays of its own from then on.
        if Arc::strong_count(&self.reserved) > 1 || self.reserved.all.bytes() != bytes {
            self.reserved = Reserved::new(bytes);
        }
        Ok(())
    }

    fn move_to(&mut self, ops: &Ops, shape: &CacheShape, capacity: usize) -> Result<()> {
        let layers = shape.layout().layers();
        self.layers.resize_with(layers.len(), || None);
        for (arrays, layer) in self.layers.iter_mut().zip(layers) {
            let [keys, values] = match arrays.take() {
                Some(old) => old.map(Some),
                None => [None, None],
            };
            let moved = [
                ops.cache_arrays(&layer.keys, capacity, keys)?,
                ops.cache_arrays(&layer.values, capacity, values)?,
            ];
            // One layer at a time, so that old and new of all never coexist.
            ops.stream().eval(moved.iter().flatten())?;
            *arrays = Some(moved);
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Gives one layer's keys and values away to be replaced by what `extend`
    /// makes of them, and then to be looked at. If it fails, they are lost.
    pub fn update(
        &mut self,
        layer: usize,
        extend: impl FnOnce([CachedArrays; 2]) -> Result<[CachedArrays; 2]>,
    ) -> Result<&[CachedArrays; 2]> {
        let cache = self.layers[layer]
            .take()
            .ok_or_else(|| Error::internal(format!("layer {layer} has no cache")))?;
        Ok(self.layers[layer].insert(extend(cache)?))
    }

    pub fn all(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flatten().flatten().flatten()
    }

    /// A copy of `tokens` of all layers, with room for no more.
    pub fn chunk(&self, ops: &Ops, shape: &CacheShape, tokens: Range<usize>) -> Result<CacheBlock> {
        let layout = shape.layout();
        let n = tokens.len();
        let mut chunk = CacheBlock::zeroed(layout, n).map_err(no_memory)?;
        let mut parts = layout.parts();
        for arrays in self.layers.iter().flatten().flatten() {
            cached_bytes(ops, arrays, &tokens, |bytes| {
                let part = parts.next().expect("as many parts as arrays");
                chunk.take_rows(part, bytes, n, 0..n);
            })?;
        }
        Ok(chunk)
    }

    /// What `chunk` gave of one [`BLOCK`] of tokens after the other.
    pub fn from_chunks(shape: &CacheShape, mut chunks: Vec<CacheBlock>) -> Result<Arrays> {
        let n_tokens = chunks.iter().map(CacheBlock::capacity).sum();
        let capacity = shape.grown_capacity(0, n_tokens);
        let bytes = capacity * shape.bytes_per_token();
        if !probe(bytes) {
            return Err(no_memory(io::ErrorKind::OutOfMemory.into()));
        }
        let mut parts = shape.layout().parts();
        let mut arrays = |rows| {
            cached_from_bytes(rows, capacity, |alone, bytes| {
                let part = parts.next().expect("as many parts as arrays");
                assert_eq!(part.alone(), alone);
                for (chunk, first) in chunks.iter_mut().zip((0..).step_by(BLOCK)) {
                    let tokens = first..first + chunk.capacity();
                    chunk.give_rows(part, bytes, capacity, tokens);
                }
            })
        };
        let layers = shape.layout().layers().iter();
        let layers = layers.map(|layer| Ok(Some([arrays(&layer.keys)?, arrays(&layer.values)?])));
        Ok(Arrays {
            layers: layers.collect::<Result<_>>()?,
            capacity,
            reserved: Reserved::new(bytes),
        })
    }

    /// Whether nothing was lost in a step that MLX failed in the middle of.
    pub fn are_complete(&self) -> bool {
        let is_there = |array: &Array| array.is_evaluated().is_ok_and(|evaluated| evaluated);
        self.layers.iter().all(Option::is_some) && self.all().all(is_there)
    }

    /// What is held for a sequence of `length` tokens.
    pub fn part(&self, shape: &CacheShape, length: usize) -> Part {
        Part {
            is_shared: Arc::strong_count(&self.reserved) > 1,
            identity: Arc::as_ptr(&self.reserved).addr(),
            reserved_bytes: self.reserved.all.bytes(),
            used_bytes: length * shape.bytes_per_token(),
        }
    }
}
