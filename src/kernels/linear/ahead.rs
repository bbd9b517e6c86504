//! [`Ahead`]: weights on their way from memory while others are multiplied.

use std::ops::Range;

use super::Matrix;
use crate::kernels::prefetch::{CACHE_LINE, prefetch_line};

/// Some columns of some rows that are multiplied next.
pub struct Ahead<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
    /// Of each row.
    part: Range<usize>,
    rows: Range<usize>,
    /// How far the first row is asked for.
    at: usize,
}

impl<'a> Ahead<'a> {
    /// `row_columns` make up a row.
    pub fn new(
        matrix: &Matrix<'a>,
        row_columns: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Ahead<'a> {
        let part = matrix.row_bytes(columns.start)..matrix.row_bytes(columns.end);
        Ahead {
            bytes: match matrix {
                Matrix::Float(weights) => weights.bytes(),
                Matrix::Quantized(weights) => weights.codes,
                Matrix::Columns(weights) => weights.bytes(),
            },
            row_bytes: matrix.row_bytes(row_columns),
            at: part.start,
            part,
            // What comes next of a matrix by column is everywhere.
            rows: match matrix {
                Matrix::Columns(_) => rows.start..rows.start,
                _ => rows,
            },
        }
    }

    pub fn n_lines(&self) -> usize {
        self.rows.len() * self.part.len().div_ceil(CACHE_LINE)
    }

    /// Asks for that many more lines.
    pub fn ask(&mut self, n_lines: usize) {
        for _ in 0..n_lines.min(self.n_lines()) {
            let row = &self.bytes[self.rows.start * self.row_bytes..];
            prefetch_line(row.as_ptr().wrapping_add(self.at));
            self.at += CACHE_LINE;
            if self.at >= self.part.end {
                self.at = self.part.start;
                self.rows.start += 1;
            }
        }
    }
}
