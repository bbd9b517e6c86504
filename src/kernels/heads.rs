//! Heads of a projection's rows: normalized, rotated and put where attention
//! looks for them.

use std::ops::Range;

use super::floats::{Floats, FloatsMut};
use super::level::Level;
use super::norm::Norm;
use super::output::Output;
use super::pool::Pool;
use super::rope::RopeTable;

/// Tokens of a piece of work.
const PIECE_TOKENS: usize = 16;

/// Heads of consecutive tokens, as columns of wider rows.
pub struct Heads<'a> {
    /// `[n_tokens, width]`
    pub rows: Floats<'a>,
    pub width: usize,
    /// The heads, one after the other.
    pub columns: Range<usize>,
    pub head_dim: usize,
    /// Of single heads, before they are rotated.
    pub norm: Option<Norm<'a>>,
    /// Of the tokens' positions; `None`: positions do not matter.
    pub table: Option<&'a RopeTable>,
}

impl Heads<'_> {
    fn n_tokens(&self) -> usize {
        self.rows.len() / self.width
    }

    fn n_heads(&self) -> usize {
        self.columns.len() / self.head_dim
    }

    /// Writes all heads where `place(token, head)` says, in units of heads.
    fn write(
        &self,
        pool: &Pool,
        out: FloatsMut<'_>,
        place: &(dyn Fn(usize, usize) -> usize + Sync),
    ) {
        assert!(self.rows.len().is_multiple_of(self.width) && self.columns.end <= self.width);
        assert!(self.columns.len().is_multiple_of(self.head_dim));
        let (level, n_tokens) = (Level::detect(), self.n_tokens());
        let float = out.float();
        let head_bytes = self.head_dim * float.bytes();
        let out = Output::new(out.into_bytes());
        pool.run(n_tokens.div_ceil(PIECE_TOKENS), &|piece| {
            let first = piece * PIECE_TOKENS;
            for token in first..(first + PIECE_TOKENS).min(n_tokens) {
                let row = self.rows.row(token, self.width);
                let (_, heads) = row.split_at(self.columns.start);
                for head in 0..self.n_heads() {
                    let first = place(token, head) * head_bytes;
                    // SAFETY: each head of each token has a place of its own.
                    let out = unsafe { out.part(first..first + head_bytes) };
                    let out = FloatsMut::new(float, out);
                    self.write_head(level, token, heads.row(head, self.head_dim), out);
                }
            }
        });
    }

    fn write_head(&self, level: Level, token: usize, head: Floats<'_>, out: FloatsMut<'_>) {
        match (self.table, &self.norm) {
            (Some(table), Some(norm)) => {
                table.norm_and_rotate(level, token, norm, head, self.head_dim, out);
            }
            (Some(table), None) => table.rotate(level, token, head, out),
            (None, Some(norm)) => norm.row(level, head, out),
            (None, None) => level.convert(head, out),
        }
    }
}

/// Writes `[n_tokens, n_heads, head_dim]`.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub fn rotate_heads(pool: &Pool, heads: &Heads<'_>, out: FloatsMut<'_>) {
    assert_eq!(out.len(), heads.n_tokens() * heads.columns.len());
    let n_heads = heads.n_heads();
    heads.write(pool, out, &|token, head| token * n_heads + head);
}

/// Writes into a cache, `[n_heads, capacity, head_dim]`, from position `start` on.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub fn place_heads(pool: &Pool, heads: &Heads<'_>, start: usize, cache: FloatsMut<'_>) {
    let capacity = cache.len() / heads.columns.len();
    assert_eq!(cache.len(), capacity * heads.columns.len());
    assert!(start + heads.n_tokens() <= capacity);
    heads.write(pool, cache, &|token, head| head * capacity + start + token);
}
