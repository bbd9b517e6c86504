//! [`HeadParts`] and [`HeadOutput`]: the parts of heads in rows.

use std::ops::Range;

use crate::kernels::float::Float;
use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::level::Level;
use crate::kernels::output::Output;

/// In each row, equally long parts, one for each head.
#[derive(Clone, Copy)]
pub struct HeadParts<'a> {
    pub rows: Floats<'a>,
    pub place: PartPlace,
}

/// Columns of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartPlace {
    /// Of a row.
    pub columns: usize,
    /// The first head's first.
    pub first: usize,
    /// From a head's first to the next one's.
    pub stride: usize,
    /// Of a head.
    pub length: usize,
}

impl PartPlace {
    /// Parts one after the other, from column `first` on.
    pub fn in_turn(columns: usize, first: usize, length: usize) -> PartPlace {
        PartPlace {
            columns,
            first,
            stride: length,
            length,
        }
    }

    pub fn is_in_turn(&self) -> bool {
        self.stride == self.length
    }

    /// The columns of all heads.
    pub fn columns_of(&self, n_heads: usize) -> Vec<i32> {
        let firsts = (0..n_heads).map(|head| self.first + head * self.stride);
        let columns = firsts.flat_map(|first| first..first + self.length);
        columns.map(|column| column as i32).collect()
    }

    /// # Panics
    /// If the parts of so many heads are not inside of rows.
    pub fn check(&self, n_heads: usize) {
        let end = self.first + (n_heads - 1) * self.stride + self.length;
        assert!(self.stride >= self.length && end <= self.columns);
    }
}

impl<'a> HeadParts<'a> {
    pub fn new(rows: Floats<'a>, place: PartPlace) -> HeadParts<'a> {
        HeadParts { rows, place }
    }

    pub fn part(&self, row: usize, head: usize) -> Floats<'a> {
        let place = &self.place;
        let row = self.rows.row(row, place.columns);
        let (_, part) = row.split_at(place.first + head * place.stride);
        part.split_at(place.length).0
    }

    /// The head's parts of some rows as float32, one after the other.
    pub fn gather(&self, level: Level, rows: Range<usize>, head: usize, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_exact_mut(self.place.length)) {
            level.convert(self.part(row, head), FloatsMut::from(out));
        }
    }
}

/// Rows of heads, one after the other, that several threads write.
pub struct HeadOutput<'a> {
    bytes: Output<'a, u8>,
    float: Float,
    columns: usize,
    head_dim: usize,
}

impl<'a> HeadOutput<'a> {
    /// # Panics
    /// If these are not whole rows.
    pub fn new(out: FloatsMut<'a>, columns: usize, head_dim: usize) -> Self {
        assert!(out.len().is_multiple_of(columns));
        HeadOutput {
            float: out.float(),
            bytes: Output::new(out.into_bytes()),
            columns,
            head_dim,
        }
    }

    /// # Safety
    /// No two parts of the same head and row are alive at a time.
    pub unsafe fn part(&self, row: usize, head: usize) -> FloatsMut<'_> {
        let first = (row * self.columns + head * self.head_dim) * self.float.bytes();
        let bytes = first..first + self.head_dim * self.float.bytes();
        // SAFETY: the caller's.
        FloatsMut::new(self.float, unsafe { self.bytes.part(bytes) })
    }
}
