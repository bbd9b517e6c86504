//! What a head remembers: a matrix that fades and to which each token adds the outer
//! product of a key and a value, `S = decay * S + key value^T`. Queries and keys read
//! it: `S^T query`.
//!
//! Columns of the matrix do not know each other, so a [`Tile`] of some of them, small
//! enough for the nearest cache, goes through all tokens before the next one.

use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::lanes::{Lanes, MOST_LANES};

/// Vectors side by side in a tile: as many sums as hide how long an addition takes.
const VECTORS: usize = 2;

/// Some columns of a vector that has one element for each column of the matrix.
pub type Columns<V> = [V; VECTORS];

/// Some columns of a matrix, row by row; zeros behind its last one.
pub struct Tile<'a> {
    values: &'a mut [f32],
    /// The first of the columns.
    first: usize,
}

/// What a token does to the matrix.
#[derive(Clone, Copy)]
pub struct Change<'a, V> {
    pub decay: f32,
    /// One element for each row.
    pub key: &'a [f32],
    pub value: Columns<V>,
}

/// No tile has more columns.
pub const WIDEST: usize = MOST_LANES * VECTORS;

/// Columns of a tile.
pub const fn width<V: Lanes>() -> usize {
    V::N * VECTORS
}

#[inline(always)]
fn load<V: Lanes>(values: &[f32], first: usize) -> V {
    Floats::from(values).lanes(first, 0.0)
}

/// The columns of a vector from `first` on, zeros behind its end.
#[inline(always)]
pub fn columns<V: Lanes>(vector: &[f32], first: usize) -> Columns<V> {
    std::array::from_fn(|index| {
        let first = first + index * V::N;
        match first < vector.len() {
            true => load(vector, first),
            false => V::splat(0.0),
        }
    })
}

/// Writes those columns, as many as there are.
#[inline(always)]
pub fn set_columns<V: Lanes>(vector: &mut [f32], first: usize, values: Columns<V>) {
    for (index, value) in values.into_iter().enumerate() {
        let first = first + index * V::N;
        if first < vector.len() {
            FloatsMut::from(&mut *vector).set_lanes(first, value);
        }
    }
}

impl<'a> Tile<'a> {
    /// The columns from `first` on of a matrix with rows of `n_columns`. `scratch` has
    /// room for as many rows of `width::<V>()`.
    #[inline(always)]
    pub fn read<V: Lanes>(
        scratch: &'a mut [f32],
        matrix: &[f32],
        n_columns: usize,
        first: usize,
    ) -> Tile<'a> {
        let n_rows = matrix.len() / n_columns;
        let values = &mut scratch[..n_rows * width::<V>()];
        let rows = values.chunks_exact_mut(width::<V>());
        for (to, from) in rows.zip(matrix.chunks_exact(n_columns)) {
            set_columns::<V>(to, 0, columns(from, first));
        }
        Tile { values, first }
    }

    #[inline(always)]
    pub fn write<V: Lanes>(&self, matrix: &mut [f32], n_columns: usize) {
        let rows = self.values.chunks_exact(width::<V>());
        for (from, to) in rows.zip(matrix.chunks_exact_mut(n_columns)) {
            set_columns::<V>(to, self.first, columns(from, 0));
        }
    }

    /// Changes the matrix, if there is a change, and multiplies its transpose with each
    /// of `vectors`.
    #[inline(always)]
    pub fn sweep<V: Lanes, const N: usize>(
        &mut self,
        change: Option<Change<'_, V>>,
        vectors: [&[f32]; N],
    ) -> [Columns<V>; N] {
        let mut products = [[V::splat(0.0); VECTORS]; N];
        let n_rows = self.values.len() / width::<V>();
        let vectors = vectors.map(|vector| &vector[..n_rows]);
        let rows = self.values.chunks_exact_mut(width::<V>()).enumerate();
        match change {
            None => {
                for (index, row) in rows {
                    let row = columns(row, 0);
                    add(row, vectors.map(|vector| vector[index]), &mut products);
                }
            }
            Some(Change { decay, key, value }) => {
                let (decay, key) = (V::splat(decay), &key[..n_rows]);
                for (index, row) in rows {
                    let factor = V::splat(key[index]);
                    let mut changed: Columns<V> = columns(row, 0);
                    for (old, value) in changed.iter_mut().zip(value) {
                        *old = factor.mul_add(value, *old * decay);
                    }
                    set_columns(row, 0, changed);
                    add(changed, vectors.map(|vector| vector[index]), &mut products);
                }
            }
        }
        products
    }
}

#[inline(always)]
fn add<V: Lanes, const N: usize>(
    row: Columns<V>,
    factors: [f32; N],
    products: &mut [Columns<V>; N],
) {
    for (factor, sums) in factors.into_iter().zip(products) {
        let factor = V::splat(factor);
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum = value.mul_add(factor, *sum);
        }
    }
}
