//! Tokens that move towards the beginning of a sequence, and their keys, which turn
//! back to their new positions.

use std::sync::Arc;

use super::block::CacheBlock;
use super::layout::{CacheLayout, RowsLayout};
use crate::kernels::level::Level;
use crate::kernels::pool::Pool;
use crate::kernels::rope::RopeTable;
use crate::kernels::{Floats, FloatsMut};

/// Tokens that move from `first + by` and behind to `first` and behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    pub first: usize,
    pub by: usize,
    pub n_tokens: usize,
}

/// The keys or the values of a head.
struct Part<'a> {
    rows: &'a RowsLayout,
    head: usize,
    /// How they turn; row i is of token i of those that move.
    rotation: Option<&'a RopeTable>,
}

/// Moves keys and values of all layers. `rotations` are those of the layers' keys.
/// Keys that turn are rounded once more; everything else keeps its bits.
///
/// # Safety
/// Nobody else uses the blocks, which were made for this layout; all but the last
/// have the same capacity, and they have room for all tokens that move.
///
/// # Panics
/// If there is not one rotation, or none, for each layer.
pub unsafe fn shift_tokens(
    pool: Option<&Pool>,
    layout: &CacheLayout,
    blocks: &[Arc<CacheBlock>],
    shift: Shift,
    rotations: &[Option<Arc<RopeTable>>],
) {
    assert_eq!(rotations.len(), layout.layers().len());
    let mut parts = Vec::new();
    for (layer, rotation) in layout.layers().iter().zip(rotations) {
        let rows = [(&layer.keys, rotation.as_deref()), (&layer.values, None)];
        for (rows, rotation) in rows {
            parts.extend((0..rows.n_heads).map(|head| Part {
                rows,
                head,
                rotation,
            }));
        }
    }
    let level = Level::detect();
    // SAFETY: the caller's; parts have nothing in common.
    let work = |index: usize| unsafe { parts[index].shift(level, blocks, shift) };
    match pool {
        Some(pool) => pool.run(parts.len(), &work),
        None => (0..parts.len()).for_each(work),
    }
}

impl Part<'_> {
    /// # Safety
    /// As for `shift_tokens`, of this part.
    unsafe fn shift(&self, level: Level, blocks: &[Arc<CacheBlock>], shift: Shift) {
        let capacity = blocks[0].capacity();
        let place = |position: usize| (&*blocks[position / capacity], position % capacity);
        let mut key = vec![0.0; self.rows.dim];
        // In this order none is overwritten before it has moved.
        for index in 0..shift.n_tokens {
            let to = place(shift.first + index);
            let from = place(shift.first + shift.by + index);
            // SAFETY: the caller's.
            unsafe {
                match self.rotation {
                    None => self.rows.copy_row(self.head, from, to),
                    Some(table) => {
                        let row = self.rows.read(from.0, self.head, from.1..from.1 + 1);
                        row.widen(level, self.rows.dim, &mut key, self.rows.dim);
                        let turn = |out: FloatsMut<'_>| {
                            table.rotate(level, index, Floats::from(&key[..]), out);
                        };
                        self.rows.write(level, to.0, (self.head, to.1), turn);
                    }
                }
            }
        }
    }
}
