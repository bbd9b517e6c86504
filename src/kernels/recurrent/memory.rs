//! What a head remembers: a matrix that fades and to which each token adds the outer
//! product of a key and a value, `S = decay * S + key value^T`. Queries and keys read
//! it: `S^T query`.
//!
//! Columns of the matrix do not know each other, so a [`Tile`] of some of them, small
//! enough for the nearest cache, goes through all tokens before the next one. A single
//! token takes [`Rows`] from where they are to where they go, without a copy between.

use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::lanes::{Lanes, MOST_LANES};

/// Vectors side by side in a tile: as many sums as hide how long an addition takes.
const VECTORS: usize = 2;

/// Some columns of a vector that has one element for each column of the matrix.
pub type Columns<V, const W: usize = VECTORS> = [V; W];

/// Some columns of a matrix, row by row; zeros behind its last one.
pub struct Tile<'a> {
    values: &'a mut [f32],
    /// The first of the columns.
    first: usize,
}

/// What a token does to the matrix.
#[derive(Clone, Copy)]
pub struct Change<'a, V, const W: usize = VECTORS> {
    pub decay: f32,
    /// One element for each row.
    pub key: &'a [f32],
    pub value: Columns<V, W>,
}

impl<V: Lanes, const W: usize> Change<'_, V, W> {
    #[inline(always)]
    fn of(&self, row: Columns<V, W>, index: usize) -> Columns<V, W> {
        let (decay, factor) = (V::splat(self.decay), V::splat(self.key[index]));
        let mut changed = row;
        for (old, value) in changed.iter_mut().zip(&self.value) {
            *old = factor.mul_add(*value, *old * decay);
        }
        changed
    }
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
pub fn columns<V: Lanes, const W: usize>(vector: &[f32], first: usize) -> Columns<V, W> {
    // Closures of many vectors would not become part of the level's function.
    let mut columns = [V::splat(0.0); W];
    for (index, column) in columns.iter_mut().enumerate() {
        let first = first + index * V::N;
        if first < vector.len() {
            *column = load(vector, first);
        }
    }
    columns
}

/// Writes those columns, as many as there are.
#[inline(always)]
pub fn set_columns<V: Lanes, const W: usize>(
    vector: &mut [f32],
    first: usize,
    values: Columns<V, W>,
) {
    for (index, value) in values.iter().enumerate() {
        let first = first + index * V::N;
        if first < vector.len() {
            FloatsMut::from(&mut *vector).set_lanes(first, *value);
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
            set_columns::<V, VECTORS>(to, 0, columns(from, first));
        }
        Tile { values, first }
    }

    #[inline(always)]
    pub fn write<V: Lanes>(&self, matrix: &mut [f32], n_columns: usize) {
        let rows = self.values.chunks_exact(width::<V>());
        for (from, to) in rows.zip(matrix.chunks_exact_mut(n_columns)) {
            set_columns::<V, VECTORS>(to, self.first, columns(from, 0));
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
            Some(change) => {
                let key = &change.key[..n_rows];
                let change = Change { key, ..change };
                for (index, row) in rows {
                    let changed = change.of(columns(row, 0), index);
                    set_columns(row, 0, changed);
                    add(changed, vectors.map(|vector| vector[index]), &mut products);
                }
            }
        }
        products
    }
}

/// As `columns`, without a look at each vector where all of them are there.
#[inline(always)]
fn part<V: Lanes, const W: usize>(row: &[f32], first: usize) -> Columns<V, W> {
    match row.get(first..first + V::N * W) {
        Some(whole) => columns(whole, 0),
        None => columns(row, first),
    }
}

#[inline(always)]
fn set_part<V: Lanes, const W: usize>(row: &mut [f32], first: usize, values: Columns<V, W>) {
    match row.get_mut(first..first + V::N * W) {
        Some(whole) => set_columns(whole, 0, values),
        None => set_columns(row, first, values),
    }
}

/// A matrix on its way through one token.
pub struct Rows<'a> {
    /// In front of the token, where that is in other memory.
    pub before: Option<&'a [f32]>,
    pub after: &'a mut [f32],
    pub n_columns: usize,
}

impl Rows<'_> {
    pub fn n_rows(&self) -> usize {
        self.after.len() / self.n_columns
    }

    #[inline(always)]
    fn before(&self, index: usize) -> &[f32] {
        let all = self.before.unwrap_or(self.after);
        &all[index * self.n_columns..][..self.n_columns]
    }

    /// Products of the columns from `first` on with each of `vectors`.
    #[inline(always)]
    pub fn products<V: Lanes, const W: usize, const N: usize>(
        &self,
        first: usize,
        vectors: [&[f32]; N],
    ) -> [Columns<V, W>; N] {
        let mut products = [[V::splat(0.0); W]; N];
        for index in 0..self.n_rows() {
            let row = part(self.before(index), first);
            add(row, vectors.map(|vector| vector[index]), &mut products);
        }
        products
    }

    /// Changes the columns from `first` on, and multiplies what comes of them with each of
    /// `vectors`.
    #[inline(always)]
    pub fn change<V: Lanes, const W: usize, const N: usize>(
        &mut self,
        first: usize,
        change: Change<'_, V, W>,
        vectors: [&[f32]; N],
    ) -> [Columns<V, W>; N] {
        let mut products = [[V::splat(0.0); W]; N];
        for index in 0..self.n_rows() {
            let changed = change.of(part(self.before(index), first), index);
            set_part(
                &mut self.after[index * self.n_columns..][..self.n_columns],
                first,
                changed,
            );
            add(changed, vectors.map(|vector| vector[index]), &mut products);
        }
        products
    }
}

#[inline(always)]
fn add<V: Lanes, const W: usize, const N: usize>(
    row: Columns<V, W>,
    factors: [f32; N],
    products: &mut [Columns<V, W>; N],
) {
    for (factor, sums) in factors.into_iter().zip(products) {
        let factor = V::splat(factor);
        for (sum, value) in sums.iter_mut().zip(&row) {
            *sum = value.mul_add(factor, *sum);
        }
    }
}
