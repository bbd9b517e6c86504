//! Attention of MLX's operations, and the arrays that it caches keys and values in.

use std::ops::Range;

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::attention::{AttentionLayer, Place};
use super::cached::{CachedArrays, CachedPart, parts_of};
use super::error::last_error;
use super::norms::Norm;
use super::ops::{NULL, Ops, some};
use super::quantized::{QuantMode, QuantizedWeight};
use super::visible::Visible;
use crate::error::Result;
use crate::kernels::{CacheFormat, PositionScale, RowContents, RowsLayout};

impl Ops {
    /// Arrays for `capacity` tokens that begin with what `old` ones hold.
    pub fn cache_arrays(
        &self,
        rows: &RowsLayout,
        capacity: usize,
        old: Option<CachedArrays>,
    ) -> Result<CachedArrays> {
        let zeros = |part: CachedPart| self.zeros(&part.shape(capacity), part.dtype);
        let empty: Vec<_> = parts_of(rows).map(zeros).collect::<Result<_>>()?;
        match old {
            Some(old) => self.overwrite(empty, &old, 0),
            None => Ok(empty),
        }
    }

    /// `target` with `new` at token `start`. Consumes `target`: where that was the
    /// last reference, the update happens in place.
    fn overwrite(&self, target: CachedArrays, new: &[Array], start: usize) -> Result<CachedArrays> {
        let parts = target.into_iter().zip(new);
        parts
            .map(|(target, new)| self.slice_update(target, new, &[0, 0, start as i32, 0]))
            .collect()
    }

    /// Queries, keys and values of rows that have those of each key-value head next to
    /// each other.
    pub fn apart_by_kind(&self, rows: &Array, layer: &AttentionLayer<'_>) -> Result<Vec<Array>> {
        let [n_kv_heads, group, dim] = [
            layer.n_kv_heads,
            layer.n_heads / layer.n_kv_heads,
            layer.head_dim,
        ]
        .map(|n| n as i32);
        let n = rows.dim(0);
        let heads = self.reshape(rows, &[n, n_kv_heads, group + 2, dim])?;
        let part = |first, end| {
            let part = self.slice(&heads, &[0, 0, first, 0], &[n, n_kv_heads, end, dim])?;
            self.reshape(&part, &[n, n_kv_heads * (end - first) * dim])
        };
        Ok(vec![
            part(0, group)?,
            part(group, group + 1)?,
            part(group + 1, group + 2)?,
        ])
    }

    /// Writes a sequence's keys, normalized and rotated, and its values behind
    /// those that `cache` holds. `queries_keys_values` are those of a whole step.
    /// The cache is consumed: when nothing else holds its arrays, the update
    /// happens in place.
    pub fn extend_cache(
        &self,
        queries_keys_values: &[Array],
        layer: &AttentionLayer<'_>,
        place: Place,
        format: CacheFormat,
        [keys, values]: [CachedArrays; 2],
    ) -> Result<[CachedArrays; 2]> {
        let heads = |index: usize| {
            let rows = &queries_keys_values[index];
            self.heads(rows, layer.n_kv_heads, layer.head_dim, place)
        };
        let new_keys = self.rotated(heads(1)?, layer, layer.key_norm, place)?;
        let new_keys = self.stored(new_keys, format)?;
        let new_values = match (layer.values_in_keys, layer.contents) {
            (Some(_), _) => Vec::new(),
            (None, RowContents::WithoutValues) => {
                self.stored(self.normalized(heads(1)?, layer.value_norm)?, format)?
            }
            (None, _) => self.stored(self.normalized(heads(2)?, layer.value_norm)?, format)?,
        };
        Ok([
            self.overwrite(keys, &new_keys, place.start)?,
            self.overwrite(values, &new_values, place.start)?,
        ])
    }

    /// Softmax attention of a sequence's queries, normalized and rotated, over its
    /// cache: `[n, n_heads * value_dim]`
    pub fn attend(
        &self,
        queries: &Array,
        layer: &AttentionLayer<'_>,
        place: Place,
        format: CacheFormat,
        cache: &[CachedArrays; 2],
    ) -> Result<Array> {
        let queries = self.heads(queries, layer.n_heads, layer.head_dim, place)?;
        let queries = self.rotated(queries, layer, layer.query_norm, place)?;
        let queries = match layer.position_scale {
            Some(scale) => self.scale_by_position(&queries, scale, place)?,
            None => queries,
        };
        let visible = Visible::new(place.start, place.n, layer.reach);
        let seen = visible.first..place.start + place.n;
        let dtype = queries.dtype()?;
        let loaded = |cached: &CachedArrays| self.loaded(cached, seen.clone(), format, dtype);
        let keys = loaded(&cache[0])?;
        let values = match layer.values_in_keys {
            Some(value_dim) => self.last_dims(&keys, value_dim)?,
            None => loaded(&cache[1])?,
        };
        let attended = match layer.soft_cap {
            Some(cap) => self.capped(&queries, [&keys, &values], &visible, layer.scale, cap)?,
            None => self.fused(&queries, [&keys, &values], &visible, layer)?,
        };
        let attended = self.transpose(&attended, &[0, 2, 1, 3])?;
        let width = layer.n_heads as i32 * values.dim(3);
        self.reshape(&attended, &[place.n as i32, width])
    }

    fn scale_by_position(
        &self,
        queries: &Array,
        scale: PositionScale,
        place: Place,
    ) -> Result<Array> {
        let positions = place.start..place.start + place.n;
        let factors: Vec<f32> = positions.map(|position| scale.at(position)).collect();
        let factors = Array::from_f32(&factors, &[1, 1, place.n as i32, 1])?;
        let wide = self.multiply(&self.astype(queries, Dtype::F32)?, &factors)?;
        self.astype(&wide, queries.dtype()?)
    }

    /// The end of each head.
    fn last_dims(&self, heads: &Array, n: usize) -> Result<Array> {
        let shape = heads.shape();
        let first = shape[3] - n as i32;
        self.slice(heads, &[0, 0, 0, first], shape)
    }

    fn fused(
        &self,
        queries: &Array,
        [keys, values]: [&Array; 2],
        visible: &Visible,
        layer: &AttentionLayer<'_>,
    ) -> Result<Array> {
        let mask = visible.mask()?;
        let (mode, mask) = match &mask {
            Some(mask) => (c"array", mask.raw()),
            None if visible.n > 1 => (c"causal", NULL),
            None => (c"", NULL),
        };
        Array::build(|out| {
            // SAFETY: live handles or null, and a literal; mlx-c keeps references of
            // its own.
            unsafe {
                sys::mlx_fast_scaled_dot_product_attention(
                    out,
                    queries.raw(),
                    keys.raw(),
                    values.raw(),
                    layer.scale,
                    mode.as_ptr(),
                    mask,
                    layer.sinks.map_or(NULL, Array::raw),
                    false,
                    self.stream().raw(),
                )
            }
        })
    }

    /// The place's heads of a step's rows, `[1, n_heads, n, head_dim]`.
    fn heads(&self, rows: &Array, n_heads: usize, head_dim: usize, place: Place) -> Result<Array> {
        let shape = [1, place.n as i32, n_heads as i32, head_dim as i32];
        let own = self.rows_of(rows, &place)?;
        self.transpose(&self.reshape(&own, &shape)?, &[0, 2, 1, 3])
    }

    /// The place's own of a step's rows.
    pub fn rows_of(&self, rows: &Array, place: &Place) -> Result<Array> {
        let Place { first_row, n, .. } = *place;
        let (first, end) = (first_row as i32, (first_row + n) as i32);
        match first == 0 && end == rows.dim(0) {
            true => Ok(rows.clone()),
            false => self.slice(rows, &[first, 0], &[end, rows.dim(1)]),
        }
    }

    fn rotated(
        &self,
        heads: Array,
        layer: &AttentionLayer<'_>,
        norm: Option<Norm<'_>>,
        place: Place,
    ) -> Result<Array> {
        let (before, behind) = match layer.norms_behind_rotation {
            true => (None, norm),
            false => (norm, None),
        };
        let heads = self.normalized(heads, before)?;
        let heads = match layer.rotation {
            Some(rotation) => self.rotate(&heads, rotation.rope, place.start as i32)?,
            None => heads,
        };
        self.normalized(heads, behind)
    }

    fn normalized(&self, heads: Array, norm: Option<Norm<'_>>) -> Result<Array> {
        match norm {
            Some(norm) => self.stock_norm(&heads, norm),
            None => Ok(heads),
        }
    }

    /// Heads as a cache of this format stores them.
    fn stored(&self, heads: Array, format: CacheFormat) -> Result<CachedArrays> {
        match format {
            CacheFormat::Float(float) => Ok(vec![self.astype(&heads, float.into())?]),
            CacheFormat::Affine {
                bits, group_size, ..
            } => self.quantize(&heads, bits, group_size),
        }
    }

    /// Some tokens of a cache, as heads of type `dtype`.
    fn loaded(
        &self,
        cached: &[Array],
        tokens: Range<usize>,
        format: CacheFormat,
        dtype: Dtype,
    ) -> Result<Array> {
        let part = |x: &Array| {
            let (first, end) = (tokens.start as i32, tokens.end as i32);
            self.slice(x, &[0, 0, first, 0], &[1, x.dim(1), end, x.dim(3)])
        };
        match format {
            CacheFormat::Float(_) => self.astype(&part(&cached[0])?, dtype),
            CacheFormat::Affine {
                bits, group_size, ..
            } => {
                let quantized = QuantizedWeight {
                    codes: part(&cached[0])?,
                    scales: part(&cached[1])?,
                    biases: Some(part(&cached[2])?),
                    mode: QuantMode::Affine,
                    group_size: group_size as i32,
                    bits: bits as i32,
                };
                self.dequantize(&quantized, dtype)
            }
        }
    }

    /// Codes, scales and biases of the last axis.
    fn quantize(&self, x: &Array, bits: usize, group_size: usize) -> Result<Vec<Array>> {
        // SAFETY: live handles and a literal; mlx-c keeps references of its own, and
        // the vector is freed here.
        unsafe {
            let mut parts = sys::mlx_vector_array_new();
            let code = sys::mlx_quantize(
                &mut parts,
                x.raw(),
                some(group_size as i32),
                some(bits as i32),
                QuantMode::Affine.name().as_ptr(),
                NULL,
                self.stream().raw(),
            );
            let part =
                |index: usize| Array::build(|out| sys::mlx_vector_array_get(out, parts, index));
            let arrays = match code {
                0 => (0..3).map(part).collect(),
                _ => Err(last_error()),
            };
            sys::mlx_vector_array_free(parts);
            arrays
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Reach;
    use crate::kernels::{CacheBlock, CacheLayout, CacheRows, Floats, LayerShape, Level};
    use crate::mlx::{CpuOps, Device, Stream};

    fn stock() -> Ops {
        Ops::new(
            Stream::acquire(Device::Cpu).expect("a stream"),
            CpuOps::Stock,
            0,
        )
    }

    fn bytes_of(array: &Array) -> &[u8] {
        let start = array.data_address().expect("evaluated");
        // SAFETY: the array was just made and is dense.
        unsafe { std::slice::from_raw_parts(start, array.bytes()) }
    }

    /// Rows of 128 of many kinds.
    fn rows() -> Vec<Vec<f32>> {
        let wave = |scale: f32, shift: f32| {
            let x = |i: u16| (f32::from(i) * 0.7).sin() * scale + shift;
            (0..128).map(x).collect::<Vec<f32>>()
        };
        let mut spike = vec![0.0; 128];
        (spike[3], spike[70]) = (1.0, -5.0);
        let mut rows = vec![vec![0.0; 128], vec![2.5; 128], vec![-1e-9; 128], spike];
        for (scale, shift) in [
            (1.0, 0.0),
            (3.0, 10.0),
            (0.5, -4.0),
            (30_000.0, 1.0),
            (1e-6, 0.0),
        ] {
            rows.push(wave(scale, shift));
        }
        rows
    }

    #[test]
    fn our_kernels_quantize_as_mlx_does() {
        let ops = stock();
        let layer = LayerShape {
            n_kv_heads: 1,
            key_dim: 128,
            value_dim: 128,
        };
        let (floats, sizes) = ([Dtype::F32, Dtype::F16, Dtype::Bf16], [32, 64]);
        let kinds = floats
            .iter()
            .flat_map(|dtype| sizes.map(|size| (dtype, size)));
        for ((&dtype, group_size), bits) in kinds.flat_map(|kind| [(kind, 4), (kind, 8)]) {
            let format = CacheFormat::Affine {
                bits,
                group_size,
                float: dtype.float().expect("floats"),
            };
            let layout = CacheLayout::new(&[layer], format);
            let keys = layout.layers()[0].keys;
            for row in rows() {
                // Both get what the type can hold.
                let exact = Array::from_f32(&row, &[1, 128]).expect("an array");
                let rounded = ops.astype(&exact, dtype).expect("a node");
                let parts = ops.quantize(&rounded, bits, group_size).expect("nodes");
                let widened = ops.astype(&rounded, Dtype::F32).expect("a node");
                ops.stream()
                    .eval(parts.iter().chain([&widened]))
                    .expect("evaluated");
                let row = Floats::from(widened.as_f32().expect("floats"));
                for level in Level::available() {
                    let block = CacheBlock::zeroed(&layout, 1).expect("memory");
                    // SAFETY: nobody else has the block.
                    let found = unsafe {
                        keys.write(level, &block, (0, 0), |out| level.convert(row, out));
                        keys.read(&block, 0, 0..1)
                    };
                    let CacheRows::Affine(found) = found else {
                        panic!("quantized rows");
                    };
                    let found = [found.codes, found.scales, found.biases.expect("affine")];
                    for (found, expected) in found.into_iter().zip(&parts) {
                        assert_eq!(found, bytes_of(expected), "{level:?} {format:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn arrays_that_somebody_else_holds_are_copied_before_they_are_written() {
        let ops = stock();
        let target = vec![Array::from_f32(&[1.0, 2.0], &[1, 1, 2, 1]).expect("an array")];
        let new = [Array::from_f32(&[9.0], &[1, 1, 1, 1]).expect("an array")];
        let overwritten = |target: CachedArrays| {
            let result = ops.overwrite(target, &new, 1).expect("nodes").remove(0);
            ops.stream().eval([&result]).expect("evaluated");
            result
        };
        let address = target[0].data_address().expect("evaluated");
        let copy = overwritten(target.clone());
        assert_eq!(copy.as_f32().expect("floats"), [1.0, 9.0]);
        assert_eq!(target[0].as_f32().expect("floats"), [1.0, 2.0]);
        let same = overwritten(target);
        assert_eq!(same.as_f32().expect("floats"), [1.0, 9.0]);
        assert_eq!(same.data_address().expect("evaluated"), address);
    }

    #[test]
    fn a_window_hides_what_lies_before_it() {
        let visible = Visible::new(10, 1, Reach::Window(4));
        assert_eq!(visible.first, 7, "positions 7 to 10 are four");
        assert!(
            visible.mask().expect("no error").is_none(),
            "one query sees all from there"
        );

        let within = Visible::new(0, 4, Reach::Window(4));
        assert_eq!(within.first, 0);
        assert!(within.mask().expect("no error").is_none(), "plain causal");

        let across = Visible::new(3, 2, Reach::Window(2));
        assert_eq!(across.first, 2);
        let mask = across.mask().expect("no error").expect("a mask");
        assert_eq!(mask.shape(), &[2, 3]);
    }
}
