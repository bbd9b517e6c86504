//! What latent attention does in front of its cache and behind it, see
//! `kernels/latent`.

use std::ops::Range;

use super::array::Array;
use super::inputs::{Inputs, MatrixInput, float_of};
use super::norms::Norm;
use super::ops::Ops;
use super::primitive::kernel;
use super::projections::{Projected, Weight, no_transposed};
use super::quantized::{QuantizedWeight, no_blocks};
use crate::error::Result;
use crate::kernels::{self, FloatsMut, HeadMatrices, LatentShape};

/// A matrix for each head: some rows of each head's part of a weight.
pub struct HeadLinears {
    /// `[n_heads * rows per head, columns]`, or with the heads as a dimension.
    pub weight: Weight,
    pub rows: Range<usize>,
    /// Whether these are those of the product's inputs, and not of its outputs.
    pub by_input: bool,
}

/// How queries and values go through latent vectors.
pub struct LatentHeads<'a> {
    pub shape: LatentShape,
    /// Of the latent vectors.
    pub norm: Norm<'a>,
    pub keys: &'a HeadLinears,
    pub values: &'a HeadLinears,
}

/// Which of a node's inputs are the matrices.
#[derive(Clone)]
struct HeadsInput {
    matrix: MatrixInput,
    columns: usize,
    rows_per_head: usize,
    rows: Range<usize>,
    by_input: bool,
}

impl HeadLinears {
    fn input<'a>(&'a self, inputs: &mut Inputs<'a>, n_heads: usize) -> Result<HeadsInput> {
        let (rows, columns) = self.weight.rows_and_columns();
        Ok(HeadsInput {
            matrix: inputs.matrix(&self.weight)?,
            columns,
            rows_per_head: rows / n_heads,
            rows: self.rows.clone(),
            by_input: self.by_input,
        })
    }
}

impl HeadsInput {
    fn of<'a>(&self, inputs: &[&'a [u8]]) -> HeadMatrices<'a> {
        HeadMatrices {
            matrix: self.matrix.of(inputs, self.columns),
            columns: self.columns,
            rows_per_head: self.rows_per_head,
            rows: self.rows.clone(),
            by_input: self.by_input,
        }
    }
}

impl Ops {
    /// What attention takes, as `kernels::absorb` makes it of queries and latent
    /// vectors. Values are left to be found in the keys.
    pub fn absorb(
        &self,
        queries: &Array,
        latents: &Array,
        heads: &LatentHeads<'_>,
    ) -> Result<Projected> {
        let Some(pool) = self.pool() else {
            return self.stock_absorb(queries, latents, heads);
        };
        let (pool, shape) = (pool.clone(), heads.shape);
        let mut inputs = Inputs::default();
        let (x, vectors) = (inputs.floats(queries)?, inputs.floats(latents)?);
        let norm = inputs.norm(heads.norm)?;
        let matrices = heads.keys.input(&mut inputs, shape.n_heads)?;
        let (dtype, float) = (queries.dtype()?, float_of(queries)?);
        let made = [queries.dim(0), shape.row_columns() as i32];
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let rows = kernels::LatentRows {
                queries: x.of(inputs),
                latents: vectors.of(inputs),
                norm: norm.of(inputs),
            };
            let out = FloatsMut::new(float, out);
            kernels::absorb(&pool, &shape, &rows, &matrices.of(inputs), out);
        };
        kernel(self.stream(), inputs.as_slice(), &made, dtype, body).map(Projected::Joined)
    }

    /// The values of what each head saw: `[n, n_heads * rank]` to
    /// `[n, n_heads * value_dim]`.
    pub fn expand(&self, seen: &Array, heads: &LatentHeads<'_>) -> Result<Array> {
        let shape = heads.shape;
        let made = [seen.dim(0), (shape.n_heads * shape.value_dim) as i32];
        let Some(pool) = self.pool() else {
            let values = self.by_head(seen, &shape, shape.rank)?;
            let values = self.stock_multiply_heads(&values, heads.values, shape.n_heads)?;
            return self.reshape(&self.transpose(&values, &[1, 0, 2])?, &made);
        };
        let pool = pool.clone();
        let mut inputs = Inputs::default();
        let x = inputs.floats(seen)?;
        let matrices = heads.values.input(&mut inputs, shape.n_heads)?;
        let (dtype, float) = (seen.dtype()?, float_of(seen)?);
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let out = FloatsMut::new(float, out);
            kernels::expand(&pool, &shape, x.of(inputs), &matrices.of(inputs), out);
        };
        kernel(self.stream(), inputs.as_slice(), &made, dtype, body)
    }

    fn stock_absorb(
        &self,
        queries: &Array,
        latents: &Array,
        heads: &LatentHeads<'_>,
    ) -> Result<Projected> {
        let shape = heads.shape;
        let [n_heads, plain, rotated, rank] = [
            shape.n_heads,
            shape.plain_dim,
            shape.rotated_dim,
            shape.rank,
        ]
        .map(|x| x as i32);
        let n = queries.dim(0);
        let queries = self.by_head(queries, &shape, shape.plain_dim + shape.rotated_dim)?;
        let part = |first, end| self.slice(&queries, &[0, 0, first], &[n_heads, n, end]);
        let products = self.stock_multiply_heads(&part(0, plain)?, heads.keys, shape.n_heads)?;
        let queries = self.concatenate(&[part(plain, plain + rotated)?, products], 2)?;
        let queries = self.transpose(&queries, &[1, 0, 2])?;
        let queries = self.reshape(&queries, &[n, n_heads * (rotated + rank)])?;
        let part = |first, end| self.slice(latents, &[0, first], &[n, end]);
        let vectors = self.stock_norm(&part(0, rank)?, heads.norm)?;
        let keys = self.concatenate(&[part(rank, rank + rotated)?, vectors], 1)?;
        Ok(Projected::Separate(vec![queries, keys]))
    }

    /// `[n, n_heads * columns]` as `[n_heads, n, columns]`.
    fn by_head(&self, x: &Array, shape: &LatentShape, columns: usize) -> Result<Array> {
        let apart = [x.dim(0), shape.n_heads as i32, columns as i32];
        self.transpose(&self.reshape(x, &apart)?, &[1, 0, 2])
    }

    /// Rows of each head times its matrix: `[n_heads, n, inputs]` to
    /// `[n_heads, n, outputs]`.
    fn stock_multiply_heads(
        &self,
        x: &Array,
        linears: &HeadLinears,
        n_heads: usize,
    ) -> Result<Array> {
        let n_heads = n_heads as i32;
        let own = |array: &Array| {
            let all = self.reshape(array, &[n_heads, -1, *array.shape().last().unwrap_or(&1)])?;
            let (first, end) = (linears.rows.start as i32, linears.rows.end as i32);
            self.slice(&all, &[0, first, 0], &[n_heads, end, all.dim(2)])
        };
        match &linears.weight {
            Weight::Float(weight) => {
                let weight = self.astype(&own(weight)?, x.dtype()?)?;
                let weight = match linears.by_input {
                    true => weight,
                    false => self.transpose(&weight, &[0, 2, 1])?,
                };
                self.matmul(x, &weight)
            }
            Weight::Blocks(_) => Err(no_blocks()),
            Weight::Transposed(_) => Err(no_transposed()),
            Weight::Quantized(weight) => {
                let biases = weight.biases.as_ref();
                let weight = QuantizedWeight {
                    codes: own(&weight.codes)?,
                    scales: own(&weight.scales)?,
                    biases: biases.map(own).transpose()?,
                    ..*weight
                };
                self.quantized_product(x, &weight, !linears.by_input)
            }
        }
    }
}
