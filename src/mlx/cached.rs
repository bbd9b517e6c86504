//! [`CachedArrays`]: the arrays that MLX's operations cache keys and values in, and
//! their bytes.

use super::array::{Array, Dtype};
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
    columns.into_iter().map(move |(dtype, columns)| CachedPart {
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

/// The bytes of evaluated arrays, in their order.
pub fn cached_bytes(arrays: &CachedArrays) -> Result<Vec<&[u8]>> {
    arrays.iter().map(Array::as_bytes).collect()
}
