//! Attention whose scores are softly bounded, by MLX's operations.

use super::array::{Array, Dtype};
use super::ops::Ops;
use super::visible::Visible;
use crate::error::Result;
use crate::kernels::Activation;

impl Ops {
    /// Attention with softly bounded scores, which MLX has no operation for;
    /// computed in float32.
    pub(super) fn capped(
        &self,
        queries: &Array,
        [keys, values]: [&Array; 2],
        visible: &Visible,
        scale: f32,
        cap: f32,
    ) -> Result<Array> {
        let (n_heads, n, dtype) = (queries.dim(1), queries.dim(2), queries.dtype()?);
        let (n_kv_heads, n_seen, head_dim) = (keys.dim(1), keys.dim(2), keys.dim(3));
        let value_dim = values.dim(3);
        let wide = |x: &Array, shape: &[i32]| {
            let x = self.astype(x, Dtype::F32)?;
            self.reshape(&x, shape)
        };
        let grouped = [n_kv_heads, n_heads / n_kv_heads * n, head_dim];
        let queries = self.scale(&wide(queries, &grouped)?, scale)?;
        let keys = wide(keys, &[n_kv_heads, n_seen, head_dim])?;
        let scores = self.matmul(&queries, &self.transpose(&keys, &[0, 2, 1])?)?;
        let scores = self.stock_activation(Activation::SoftCap { cap }, &scores)?;
        let scores = self.reshape(&scores, &[1, n_heads, n, n_seen])?;
        let shares = self.softmax(&self.add(&scores, &visible.addends()?)?)?;
        let shares = self.reshape(&shares, &[n_kv_heads, grouped[1], n_seen])?;
        let values = wide(values, &[n_kv_heads, n_seen, value_dim])?;
        let attended = self.matmul(&shares, &values)?;
        let attended = self.reshape(&attended, &[1, n_heads, n, value_dim])?;
        self.astype(&attended, dtype)
    }
}
