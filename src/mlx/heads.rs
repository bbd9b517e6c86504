//! Attention: from the projections of one sequence's tokens to rotated queries,
//! an extended cache, and what the queries see there.

use std::ops::Range;
use std::sync::Arc;

use mlx_sys as sys;

use super::array::Array;
use super::ops::{NULL, Ops};
use super::primitive::{kernel, update};
use super::projections::{Norm, Projected, float_of};
use crate::error::Result;
use crate::kernels::{
    self, Attention, CacheRows, Float, Floats, FloatsMut, Heads, Pairing, RopeTable,
};

/// How wide queries, keys and values are.
#[derive(Clone, Copy)]
pub struct HeadShape {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
}

/// How positions rotate queries and keys.
pub struct Rope {
    /// Positions per radian of each pair: `[rotated dimensions / 2]`
    wavelengths: Array,
    values: Vec<f32>,
}

/// The next tokens of a sequence: which rows of a projection they are, and how
/// their positions rotate.
pub struct Tokens<'a> {
    rope: &'a Rope,
    /// Cosines and sines for our kernels.
    table: Option<Arc<RopeTable>>,
    /// Their rows, and all that there are.
    first_row: usize,
    n: usize,
    n_rows: usize,
    /// The position of the first.
    start: usize,
}

/// What an attention computes beyond its inputs.
#[derive(Clone, Copy)]
pub struct Scores {
    pub scale: f32,
    /// How many positions a query sees at most, the last of them its own.
    pub window: Option<usize>,
}

impl HeadShape {
    fn query_columns(self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Of keys, in rows of queries, keys and values next to each other.
    fn key_columns(self) -> Range<usize> {
        let first = self.query_columns();
        first..first + self.n_kv_heads * self.head_dim
    }

    fn value_columns(self) -> Range<usize> {
        let first = self.key_columns().end;
        first..first + self.n_kv_heads * self.head_dim
    }
}

/// Heads inside of a projection's rows, as inputs of a node.
struct HeadRows<'a> {
    norm: Option<Norm<'a>>,
    owned: OwnedHeads,
}

/// The same without the arrays.
#[derive(Clone)]
struct OwnedHeads {
    float: Float,
    width: usize,
    columns: Range<usize>,
    head_dim: usize,
    norm: Option<(Float, f32)>,
    table: Option<Arc<RopeTable>>,
}

impl<'a> HeadRows<'a> {
    fn new(
        rows: &Array,
        shape: HeadShape,
        tokens: &Tokens<'_>,
        columns: Range<usize>,
        norm: Option<Norm<'a>>,
    ) -> Result<HeadRows<'a>> {
        let norm_kind = |norm: &Norm<'_>| Ok((float_of(norm.weight)?, norm.eps));
        let owned = OwnedHeads {
            float: float_of(rows)?,
            width: rows.dim(1) as usize,
            columns,
            head_dim: shape.head_dim,
            norm: norm.as_ref().map(norm_kind).transpose()?,
            table: tokens.table.clone(),
        };
        Ok(HeadRows { norm, owned })
    }

    /// Heads that positions do not rotate: values.
    fn unrotated(mut self) -> Self {
        self.owned.table = None;
        self
    }

    fn inputs<'b>(&self, rows: &'b Array) -> Vec<&'b Array>
    where
        'a: 'b,
    {
        let norm = self.norm.map(|norm| norm.weight);
        std::iter::once(rows).chain(norm).collect()
    }

    fn owned(self) -> OwnedHeads {
        self.owned
    }
}

impl OwnedHeads {
    fn of<'a>(&'a self, inputs: &[&'a [u8]]) -> Heads<'a> {
        Heads {
            rows: Floats::new(self.float, inputs[0]),
            width: self.width,
            columns: self.columns.clone(),
            head_dim: self.head_dim,
            norm: self.norm.map(|(float, eps)| kernels::Norm::Rms {
                weight: Some(Floats::new(float, inputs[1])),
                offset: 0.0,
                eps,
            }),
            table: self.table.as_deref(),
        }
    }
}

impl Rope {
    pub fn new(wavelengths: &[f32]) -> Result<Rope> {
        Ok(Rope {
            wavelengths: Array::from_f32(wavelengths, &[wavelengths.len() as i32])?,
            values: wavelengths.to_vec(),
        })
    }
}

impl Ops {
    /// Rows `first_row..first_row + n` of `n_rows` are a sequence's tokens from
    /// position `start` on.
    pub fn tokens<'a>(
        &self,
        rope: &'a Rope,
        (first_row, n, n_rows): (usize, usize, usize),
        start: usize,
    ) -> Tokens<'a> {
        let positions = start..start + n;
        let table = || RopeTable::new(Pairing::Halves, &rope.values, 1.0, positions);
        Tokens {
            rope,
            table: self.pool().map(|_| Arc::new(table())),
            first_row,
            n,
            n_rows,
            start,
        }
    }

    /// Writes the tokens' keys, normalized and rotated, and their values behind
    /// those that `cache` holds, both `[1, n_kv_heads, capacity, head_dim]`. The
    /// cache is consumed: when nothing else holds its arrays, the update happens
    /// in place.
    pub fn extend_cache(
        &self,
        projected: &Projected,
        shape: HeadShape,
        tokens: &Tokens<'_>,
        key_norm: Option<Norm<'_>>,
        [keys, values]: [Array; 2],
    ) -> Result<[Array; 2]> {
        let rows = match projected {
            Projected::Joined(rows) => self.rows_of(rows, tokens)?,
            Projected::Separate(parts) => {
                let new_keys = self.stock_heads(&parts[1], shape.n_kv_heads, shape, tokens)?;
                let new_keys = self.stock_rotated(new_keys, tokens, key_norm)?;
                let new_values = self.stock_heads(&parts[2], shape.n_kv_heads, shape, tokens)?;
                // The old arrays move into the updates: MLX then writes in place.
                let at = [0, 0, tokens.start as i32, 0];
                return Ok([
                    self.slice_update(keys, &new_keys, &at)?,
                    self.slice_update(values, &new_values, &at)?,
                ]);
            }
        };
        let heads = HeadRows::new(&rows, shape, tokens, shape.key_columns(), key_norm)?;
        let keys = self.place(&rows, heads, tokens, keys)?;
        let heads = HeadRows::new(&rows, shape, tokens, shape.value_columns(), None)?;
        Ok([keys, self.place(&rows, heads.unrotated(), tokens, values)?])
    }

    fn place(
        &self,
        rows: &Array,
        heads: HeadRows<'_>,
        tokens: &Tokens<'_>,
        cache: Array,
    ) -> Result<Array> {
        let pool = self.pool().expect("our kernels are in use").clone();
        let float = float_of(&cache)?;
        let start = tokens.start;
        let inputs = heads.inputs(rows);
        let heads = heads.owned();
        update(self.stream(), &inputs, cache, move |inputs, out| {
            kernels::place_heads(&pool, &heads.of(inputs), start, FloatsMut::new(float, out));
        })
    }

    /// Softmax attention of the tokens' queries, normalized and rotated, over the
    /// cache: `[n, n_heads * head_dim]`
    pub fn attend(
        &self,
        projected: &Projected,
        cache: &[Array; 2],
        shape: HeadShape,
        tokens: &Tokens<'_>,
        query_norm: Option<Norm<'_>>,
        scores: Scores,
    ) -> Result<Array> {
        let rows = match projected {
            Projected::Joined(rows) => self.rows_of(rows, tokens)?,
            Projected::Separate(parts) => {
                let queries = self.stock_heads(&parts[0], shape.n_heads, shape, tokens)?;
                let queries = self.stock_rotated(queries, tokens, query_norm)?;
                return self.stock_attend(&queries, cache, shape, tokens, scores);
            }
        };
        let heads = HeadRows::new(&rows, shape, tokens, 0..shape.query_columns(), query_norm)?;
        let mut inputs = heads.inputs(&rows);
        let n_inputs = inputs.len();
        inputs.extend([&cache[0], &cache[1]]);
        let heads = heads.owned();
        let pool = self.pool().expect("our kernels are in use").clone();
        let (n_tokens, start) = (tokens.n, tokens.start);
        let (float, cache_float) = (float_of(&rows)?, float_of(&cache[0])?);
        let capacity = cache[0].dim(2) as usize;
        let columns = shape.query_columns();
        let made = [n_tokens as i32, columns as i32];
        kernel(
            self.stream(),
            &inputs,
            &made,
            rows.dtype()?,
            move |inputs, out| {
                let mut queries = vec![0; n_tokens * columns * float.bytes()];
                kernels::rotate_heads(
                    &pool,
                    &heads.of(inputs),
                    FloatsMut::new(float, &mut queries),
                );
                let rows = |bytes| CacheRows::Float {
                    bytes,
                    float: cache_float,
                };
                let attention = Attention {
                    queries: &queries,
                    query_float: float,
                    query_stride: columns,
                    keys: rows(inputs[n_inputs]),
                    values: rows(inputs[n_inputs + 1]),
                    n_tokens,
                    n_heads: shape.n_heads,
                    n_kv_heads: shape.n_kv_heads,
                    head_dim: shape.head_dim,
                    value_dim: shape.head_dim,
                    capacity,
                    start,
                    window: scores.window,
                    scale: scores.scale,
                    soft_cap: None,
                    sinks: None,
                };
                kernels::attention(&pool, &attention, out);
            },
        )
    }

    /// The tokens' rows of a projection.
    fn rows_of(&self, x: &Array, tokens: &Tokens<'_>) -> Result<Array> {
        if tokens.n == tokens.n_rows {
            return Ok(x.clone());
        }
        let (first, last) = (
            tokens.first_row as i32,
            (tokens.first_row + tokens.n) as i32,
        );
        self.slice(x, &[first, 0], &[last, x.dim(1)])
    }

    fn stock_heads(
        &self,
        x: &Array,
        n_heads: usize,
        shape: HeadShape,
        tokens: &Tokens<'_>,
    ) -> Result<Array> {
        let rows = self.rows_of(x, tokens)?;
        let shape = [1, tokens.n as i32, n_heads as i32, shape.head_dim as i32];
        self.transpose(&self.reshape(&rows, &shape)?, &[0, 2, 1, 3])
    }

    fn stock_rotated(
        &self,
        heads: Array,
        tokens: &Tokens<'_>,
        norm: Option<Norm<'_>>,
    ) -> Result<Array> {
        let heads = match norm {
            Some(norm) => self.rms_norm(&heads, norm.weight, norm.eps)?,
            None => heads,
        };
        self.rotate(&heads, &tokens.rope.wavelengths, tokens.start as i32)
    }

    fn stock_attend(
        &self,
        queries: &Array,
        cache: &[Array; 2],
        shape: HeadShape,
        tokens: &Tokens<'_>,
        scores: Scores,
    ) -> Result<Array> {
        let visible = Visible::new(tokens.start, tokens.n, scores.window);
        let end = (tokens.start + tokens.n) as i32;
        let seen = |x: &Array| {
            let from = [0, 0, visible.first as i32, 0];
            self.slice(x, &from, &[1, x.dim(1), end, x.dim(3)])
        };
        let (keys, values) = (seen(&cache[0])?, seen(&cache[1])?);
        let mask = visible.mask()?;
        let (mode, mask) = match &mask {
            Some(mask) => (c"array", mask.raw()),
            None if tokens.n > 1 => (c"causal", NULL),
            None => (c"", NULL),
        };
        let attended = Array::build(|out| {
            // SAFETY: live handles and a literal; mlx-c keeps references of its own.
            unsafe {
                sys::mlx_fast_scaled_dot_product_attention(
                    out,
                    queries.raw(),
                    keys.raw(),
                    values.raw(),
                    scores.scale,
                    mode.as_ptr(),
                    mask,
                    NULL,
                    false,
                    self.stream().raw(),
                )
            }
        })?;
        let attended = self.transpose(&attended, &[0, 2, 1, 3])?;
        let width = (shape.n_heads * shape.head_dim) as i32;
        self.reshape(&attended, &[tokens.n as i32, width])
    }

    /// Rotates pairs (i, i + dims/2) of the last axis of `[1, heads, n, head_dim]`
    /// by position / `wavelengths[i]`; the first of the n has position `offset`.
    fn rotate(&self, x: &Array, wavelengths: &Array, offset: i32) -> Result<Array> {
        let no_base = sys::mlx_optional_float {
            value: 0.0,
            has_value: false,
        };
        Array::build(|out| {
            // SAFETY: live handles; mlx-c keeps references of its own.
            unsafe {
                sys::mlx_fast_rope(
                    out,
                    x.raw(),
                    wavelengths.dim(0) * 2,
                    false,
                    no_base,
                    1.0,
                    offset,
                    wavelengths.raw(),
                    self.stream().raw(),
                )
            }
        })
    }
}

/// Which cached positions the tokens `start..start + n` of a sequence see.
struct Visible {
    start: usize,
    n: usize,
    window: Option<usize>,
    /// The first position that any of them sees.
    first: usize,
}

impl Visible {
    fn new(start: usize, n: usize, window: Option<usize>) -> Self {
        Self {
            start,
            n,
            window,
            first: window.map_or(0, |window| (start + 1).saturating_sub(window)),
        }
    }

    /// A mask `[n, positions from first]` where being causal doesn't say it all.
    fn mask(&self) -> Result<Option<Array>> {
        let end = self.start + self.n;
        let Some(window) = self.window.filter(|window| self.n > 1 && end > *window) else {
            return Ok(None);
        };
        let mask: Vec<bool> = (self.start..end)
            .flat_map(|query| {
                (self.first..end).map(move |key| key <= query && query < key + window)
            })
            .collect();
        let shape = [self.n as i32, (end - self.first) as i32];
        Array::from_bool(&mask, &shape).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_hides_what_lies_before_it() {
        let visible = Visible::new(10, 1, Some(4));
        assert_eq!(visible.first, 7, "positions 7 to 10 are four");
        assert!(
            visible.mask().expect("no error").is_none(),
            "one query sees all from there"
        );

        let within = Visible::new(0, 4, Some(4));
        assert_eq!(within.first, 0);
        assert!(within.mask().expect("no error").is_none(), "plain causal");

        let across = Visible::new(3, 2, Some(2));
        assert_eq!(across.first, 2);
        let mask = across.mask().expect("no error").expect("a mask");
        assert_eq!(mask.shape(), &[2, 3]);
    }
}
