use proptest::prelude::*;

use super::*;
use crate::kernels::testing::{FLOATS, values};
use crate::kernels::{Float, Floats, Level, Pool};

fn store(rows: &RowsLayout, block: &CacheBlock, at: (usize, usize), row: &[f32]) {
    let level = Level::detect();
    // SAFETY: nobody else has the block.
    unsafe {
        rows.write(level, block, at, |out| {
            level.convert(Floats::from(row), out)
        })
    }
}

fn load(rows: &RowsLayout, block: &CacheBlock, head: usize, position: usize) -> Vec<f32> {
    let mut row = vec![0.0; rows.dim];
    // SAFETY: nobody writes.
    let cached = unsafe { rows.read(block, head, position..position + 1) };
    cached.widen(Level::detect(), rows.dim, &mut row, rows.dim);
    row
}

/// Largest error of a stored value, relative to the range of its row.
fn error(format: CacheFormat) -> f32 {
    match format {
        CacheFormat::Float(Float::F32) => 0.0,
        CacheFormat::Float(Float::F16) => 1e-3,
        CacheFormat::Float(Float::Bf16) => 8e-3,
        // Half a step, or a whole one where the range had to be shifted; and what
        // rounding scales and biases costs.
        CacheFormat::Affine { bits, .. } => 1.0 / ((1 << bits) - 1) as f32 + 8e-3,
    }
}

fn formats() -> impl Strategy<Value = CacheFormat> {
    let bits = prop::sample::select(vec![4, 8]);
    let group_size = prop::sample::select(vec![32, 64]);
    let float = prop::sample::select(FLOATS.to_vec());
    (any::<bool>(), bits, group_size, float).prop_map(|(is_float, bits, group_size, float)| {
        match is_float {
            true => CacheFormat::Float(float),
            false => CacheFormat::Affine {
                bits,
                group_size,
                float,
            },
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Every row of every layer has a place of its own, inside of the block and in
    /// all of it.
    #[test]
    fn rows_are_found_where_they_were_stored(
        format in formats(), capacity in 1_usize..9, seed: u32,
        shapes in prop::collection::vec((1_usize..4, 1_usize..3, 1_usize..3), 1..4),
    ) {
        let layer = |&(n_kv_heads, keys, values): &(usize, usize, usize)| LayerShape {
            n_kv_heads,
            key_dim: 64 * keys,
            value_dim: 64 * values,
        };
        let layers: Vec<_> = shapes.iter().map(layer).collect();
        let layout = CacheLayout::new(&layers, format);
        let block = CacheBlock::zeroed(&layout, capacity).expect("memory");
        prop_assert_eq!(block.bytes(), layout.bytes_per_token() * capacity);
        let all = || layout.layers().iter().flat_map(|layer| [layer.keys, layer.values]);
        let places = || all().flat_map(move |rows| {
            let heads = 0..rows.n_heads;
            heads.flat_map(move |head| (0..capacity).map(move |at| (rows, head, at)))
        });
        let row = |index: u32, dim: usize| values(seed.wrapping_add(index), dim);
        for (index, (rows, head, at)) in (0..).zip(places()) {
            store(&rows, &block, (head, at), &row(index, rows.dim));
        }
        for (index, (rows, head, at)) in (0..).zip(places()) {
            let found = load(&rows, &block, head, at);
            for (found, expected) in found.iter().zip(row(index, rows.dim)) {
                prop_assert!((found - expected).abs() <= 4.0 * error(format));
            }
        }
        let n_rows: usize = places().count();
        prop_assert!(n_rows > 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// As if each row had been read and stored again; what is behind them stays empty.
    #[test]
    fn tokens_that_change_their_format_are_those_that_would_be_stored_anew(
        formats in (formats(), formats()), capacity in 1_usize..9, seed: u32,
        shapes in prop::collection::vec((1_usize..4, 1_usize..3, 0_usize..3), 1..4),
        n: prop::sample::Index, n_threads in 1_usize..3,
    ) {
        let layer = |&(n_kv_heads, keys, values): &(usize, usize, usize)| LayerShape {
            n_kv_heads,
            key_dim: 64 * keys,
            value_dim: 64 * values,
        };
        let layers: Vec<_> = shapes.iter().map(layer).collect();
        let [from, to] = [formats.0, formats.1].map(|format| CacheLayout::new(&layers, format));
        let blocks = [&from, &to, &to].map(|layout| CacheBlock::zeroed(layout, capacity));
        let [source, mut found, mut expected] = blocks.map(|block| block.expect("memory"));
        let n = n.index(capacity + 1);
        let rows = |layout: &CacheLayout| {
            let rows = layout.layers().iter().flat_map(|layer| [layer.keys, layer.values]);
            rows.filter(|rows| rows.dim > 0).collect::<Vec<_>>()
        };
        for (from, to) in rows(&from).iter().zip(rows(&to)) {
            for place in 0..from.n_heads * capacity {
                let at = (place / capacity, place % capacity);
                store(from, &source, at, &values(seed ^ place as u32, from.dim));
                if at.1 < n {
                    store(&to, &expected, at, &load(from, &source, at.0, at.1));
                }
            }
        }
        let pool = Pool::new(n_threads);
        source.convert_tokens([&from, &to], n, &mut found, Some(&pool));
        prop_assert!(found.bytes_mut() == expected.bytes_mut());
    }
}

#[test]
fn a_copy_has_the_same_contents_and_memory_of_its_own() {
    let layer = LayerShape {
        n_kv_heads: 1,
        key_dim: 64,
        value_dim: 64,
    };
    let layout = CacheLayout::new(&[layer], CacheFormat::Float(Float::F32));
    let block = CacheBlock::zeroed(&layout, 2).expect("memory");
    let keys = layout.layers()[0].keys;
    store(&keys, &block, (0, 1), &[7.0; 64]);
    let copy = block.copy_shared().expect("memory");
    store(&keys, &block, (0, 1), &[8.0; 64]);
    assert_eq!(load(&keys, &copy, 0, 1), [7.0; 64]);
    assert_eq!(load(&keys, &copy, 0, 0), [0.0; 64]);
    assert_eq!((copy.capacity(), copy.bytes()), (2, block.bytes()));
}

#[test]
fn memory_that_the_system_does_not_have_is_an_error() {
    let layer = LayerShape {
        n_kv_heads: 1 << 20,
        key_dim: 1 << 20,
        value_dim: 1 << 20,
    };
    let layout = CacheLayout::new(&[layer], CacheFormat::Float(Float::F32));
    assert!(CacheBlock::zeroed(&layout, 256).is_err());
}
