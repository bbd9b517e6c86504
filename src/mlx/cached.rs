//! [`CachedArrays`]: the arrays that MLX's operations cache keys and values in, and
//! their bytes.

use std::ops::Range;

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::ops::Ops;
use crate::error::Result;
use crate::kernels::{CacheFormat, PartLayout, RowsLayout};

/// One layer's keys, or values: `[1, n_kv_heads, capacity, head_dim]`, or codes,
/// scales and biases of such shapes.
pub type CachedArrays = Vec<Array>;

/// One array of them.
#[derive(Clone, Copy)]
pub(super) struct CachedPart {
    pub dtype: Dtype,
    n_heads: usize,
    columns: usize,
}

impl CachedPart {
    pub fn shape(&self, capacity: usize) -> [i32; 4] {
        [1, self.n_heads, capacity, self.columns].map(|length| length as i32)
    }

    /// The same bytes as our kernels see them.
    fn layout(&self) -> PartLayout {
        PartLayout {
            n_heads: self.n_heads,
            row_bytes: self.columns * self.dtype.bytes(),
            offset: 0,
        }
    }
}

/// In the order of the arrays.
pub(super) fn parts_of(rows: &RowsLayout) -> impl Iterator<Item = CachedPart> {
    let columns = match rows.format {
        CacheFormat::Float(float) => vec![(float.into(), rows.dim)],
        CacheFormat::Affine {
            bits,
            group_size,
            float,
        } => {
            let groups = (float.into(), rows.dim / group_size);
            vec![(Dtype::U32, rows.dim * bits / 32), groups, groups]
        }
    };
    let n_heads = rows.n_heads;
    let columns = columns.into_iter().filter(|(_, columns)| *columns > 0);
    columns.map(move |(dtype, columns)| CachedPart {
        dtype,
        n_heads,
        columns,
    })
}

/// Arrays for `capacity` tokens. `fill` gets the bytes of each, zeroed.
pub fn cached_from_bytes(
    rows: &RowsLayout,
    capacity: usize,
    mut fill: impl FnMut(PartLayout, &mut [u8]),
) -> Result<CachedArrays> {
    let array = |part: CachedPart| {
        let layout = part.layout();
        let mut bytes = vec![0; layout.bytes_per_token() * capacity];
        fill(layout, &mut bytes);
        Array::copy_of(&bytes, &part.shape(capacity), part.dtype)
    };
    parts_of(rows).map(array).collect()
}

/// Hands the bytes of some tokens of each array to `receive`, in their order. The
/// arrays themselves may lie in memory in another order.
pub fn cached_bytes(
    ops: &Ops,
    arrays: &CachedArrays,
    tokens: &Range<usize>,
    mut receive: impl FnMut(&[u8]),
) -> Result<()> {
    for array in arrays {
        let (first, end) = (tokens.start as i32, tokens.end as i32);
        let stop = [1, array.dim(1), end, array.dim(3)];
        let part = ops.dense(&ops.slice(array, &[0, 0, first, 0], &stop)?)?;
        ops.stream().eval([&part])?;
        receive(part.as_bytes()?);
    }
    Ok(())
}

impl Ops {
    /// The same values, one after another in memory.
    pub fn dense(&self, a: &Array) -> Result<Array> {
        // SAFETY: a live handle; the result is a new node.
        Array::build(|out| unsafe { sys::mlx_contiguous(out, a.raw(), false, self.stream().raw()) })
    }
}
