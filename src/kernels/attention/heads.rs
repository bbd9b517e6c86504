//! From a projection's rows to heads: normalized, rotated, and stored where
//! attention looks for them.

use std::ops::Range;

use super::{Attention, AttentionStep, RowContents};
use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::level::Level;
use crate::kernels::norm::Norm;

impl<'a> AttentionStep<'a> {
    /// Head `index` of a row's queries, ready to be multiplied.
    pub fn query(&self, level: Level, row: usize, index: usize, out: FloatsMut<'_>) {
        let first = match self.rows_by_head {
            true => {
                let (kv_head, index) = (index / self.group(), index % self.group());
                kv_head * self.columns_by_head() + index * self.key_dim()
            }
            false => index * self.key_dim(),
        };
        let query = self.column(row, first, self.key_dim());
        self.turn(level, row, self.query_norm, query, out);
    }

    fn key(&self, level: Level, row: usize, kv_head: usize, out: FloatsMut<'_>) {
        let first = match self.rows_by_head {
            true => kv_head * self.columns_by_head() + self.group() * self.key_dim(),
            false => (self.n_heads + kv_head) * self.key_dim(),
        };
        let key = self.column(row, first, self.key_dim());
        self.turn(level, row, self.key_norm, key, out);
    }

    fn value(&self, level: Level, row: usize, kv_head: usize, out: FloatsMut<'_>) {
        let dim = self.cache.value_dim;
        let n_before = match self.contents {
            RowContents::WithoutValues => self.n_heads,
            _ => self.n_heads + self.n_kv_heads(),
        };
        let first = match self.rows_by_head {
            true => (kv_head + 1) * self.columns_by_head() - dim,
            false => n_before * self.key_dim() + kv_head * dim,
        };
        let value = self.column(row, first, dim);
        match self.value_norm {
            Some(norm) => norm.row(level, value, out),
            None => level.convert(value, out),
        }
    }

    /// Of a key-value head: its queries, key and value.
    fn columns_by_head(&self) -> usize {
        self.width() / self.n_kv_heads()
    }

    fn column(&self, row: usize, first: usize, length: usize) -> Floats<'a> {
        let (_, behind) = self.rows.row(row, self.width()).split_at(first);
        behind.split_at(length).0
    }

    fn turn(
        &self,
        level: Level,
        row: usize,
        norm: Option<Norm<'_>>,
        head: Floats<'_>,
        out: FloatsMut<'_>,
    ) {
        match (self.table, norm) {
            (Some(table), Some(norm)) if self.norms_behind_rotation => {
                table.rotate_and_norm(level, row, &norm, head, out);
            }
            (Some(table), Some(norm)) => {
                table.norm_and_rotate(level, row, &norm, head, head.len(), out);
            }
            (Some(table), None) => table.rotate(level, row, head, out),
            (None, Some(norm)) => norm.row(level, head, out),
            (None, None) => level.convert(head, out),
        }
    }
}

impl Attention<'_> {
    /// Stores new keys of one head, and values where the cache has some.
    ///
    /// # Safety
    /// Nobody else uses what the cache holds of them.
    pub unsafe fn store(&self, level: Level, kv_head: usize, positions: Range<usize>) {
        let Attention {
            step,
            segment,
            cache,
        } = self;
        for position in positions {
            let row = segment.first_row + position - segment.start;
            let (block, place) = segment.in_block(position..position + 1);
            let at = (kv_head, place.start);
            // SAFETY: the caller's.
            unsafe {
                let keys = &cache.keys;
                keys.write(level, block, at, |out| step.key(level, row, kv_head, out));
                let values = &cache.values;
                if values.dim > 0 {
                    values.write(level, block, at, |out| step.value(level, row, kv_head, out));
                }
            }
        }
    }
}
