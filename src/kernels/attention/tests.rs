use proptest::prelude::*;

use super::plan::Plan;
use super::*;
use crate::kernels::Float;
use crate::kernels::cache::CacheFormat;
use crate::kernels::testing::{FLOATS, Packed, values};

mod cases;

/// Contents of a step and of its caches, by a shape.
struct Case {
    shape: Shape,
    layout: Arc<CacheLayout>,
    rows: Packed,
    sinks: Vec<f32>,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug)]
struct Shape {
    /// (start, number of tokens) of each sequence
    segments: Vec<(usize, usize)>,
    n_kv_heads: usize,
    group: usize,
    key_dim: usize,
    value_dim: usize,
    /// The cache has none: they are the ends of the keys.
    values_in_keys: bool,
    block_tokens: usize,
    reach: Reach,
    soft_cap: Option<f32>,
    with_sinks: bool,
    float: Float,
    format: CacheFormat,
    /// Bytes that the rows are off any alignment.
    shift: usize,
    seed: u32,
}

impl Shape {
    /// One token of one head of 64 at position 0.
    fn smallest() -> Self {
        Shape {
            segments: vec![(0, 1)],
            n_kv_heads: 1,
            group: 1,
            key_dim: 64,
            value_dim: 64,
            values_in_keys: false,
            block_tokens: 256,
            reach: Reach::All,
            soft_cap: None,
            with_sinks: false,
            float: Float::F32,
            format: CacheFormat::Float(Float::F32),
            shift: 0,
            seed: 1,
        }
    }

    fn n_heads(&self) -> usize {
        self.n_kv_heads * self.group
    }

    fn width(&self) -> usize {
        let keys = (self.n_heads() + self.n_kv_heads) * self.key_dim;
        keys + self.n_kv_heads * self.cached_value_dim()
    }

    fn cached_value_dim(&self) -> usize {
        if self.values_in_keys {
            0
        } else {
            self.value_dim
        }
    }

    /// The second of two layers, with deterministic contents.
    fn case(&self) -> Case {
        self.case_of(&|_, _, _| None)
    }

    /// The same; `edit(is_key, position, column)` may say what is there instead.
    fn case_of(&self, edit: &dyn Fn(bool, usize, usize) -> Option<f32>) -> Case {
        let layer = LayerShape {
            n_kv_heads: self.n_kv_heads,
            key_dim: self.key_dim,
            value_dim: self.cached_value_dim(),
        };
        let layout = Arc::new(CacheLayout::new(&[layer; 2], self.format));
        let n_rows: usize = self.segments.iter().map(|(_, n_tokens)| n_tokens).sum();
        let mut rows = values(self.seed, n_rows * self.width());
        for row in rows.chunks_mut(self.width()) {
            let (queries, keys) = row.split_at_mut(self.n_heads() * self.key_dim);
            queries.iter_mut().for_each(|query| *query *= 2.0);
            keys.iter_mut().for_each(|x| *x *= 0.5);
        }
        let mut segments = Vec::new();
        let mut first_row = 0;
        for &(start, n_tokens) in &self.segments {
            let capacities = self.capacities(start + n_tokens);
            let block = |capacity| CacheBlock::zeroed(&layout, capacity).expect("memory");
            segments.push(Segment {
                first_row,
                n_tokens,
                start,
                layout: layout.clone(),
                blocks: capacities.map(|n| Arc::new(block(n))).collect(),
            });
            for (token, row) in
                (start..).zip(rows.chunks_mut(self.width()).skip(first_row).take(n_tokens))
            {
                let keys = self.n_heads() * self.key_dim;
                let values = keys + self.n_kv_heads * self.key_dim;
                for (column, x) in row.iter_mut().enumerate().skip(keys) {
                    let edited = match column < values {
                        true => edit(true, token, (column - keys) % self.key_dim),
                        false => edit(false, token, (column - values) % self.value_dim),
                    };
                    *x = edited.unwrap_or(*x);
                }
            }
            first_row += n_tokens;
        }
        let case = Case {
            rows: Packed::of(self.float, self.shift, &rows),
            sinks: values(self.seed ^ 3, self.n_heads()),
            shape: self.clone(),
            layout,
            segments,
        };
        case.fill(edit);
        case
    }

    /// Of blocks for so many tokens; the last one has little more room.
    fn capacities(&self, n_tokens: usize) -> impl Iterator<Item = usize> + use<> {
        let block_tokens = self.block_tokens;
        (0..n_tokens)
            .step_by(block_tokens)
            .map(move |first| block_tokens.min(n_tokens - first + 2))
    }
}

impl Case {
    /// What a finished step left, everywhere in the caches but for what is stored
    /// by this one.
    fn fill(&self, edit: &dyn Fn(bool, usize, usize) -> Option<f32>) {
        let cache = self.layout.layers()[1];
        for (index, segment) in (0..).zip(&self.segments) {
            let both = [(true, cache.keys), (false, cache.values)];
            for (is_key, rows) in both.into_iter().filter(|(_, rows)| rows.dim > 0) {
                let seed = self.shape.seed ^ (4 + 2 * index + u32::from(is_key));
                let contents = values(seed, segment.start * rows.n_heads * rows.dim);
                for (place, row) in contents.chunks(rows.dim).enumerate() {
                    let (position, head) = (place / rows.n_heads, place % rows.n_heads);
                    let row: Vec<f32> = (0..rows.dim)
                        .map(|column| edit(is_key, position, column).unwrap_or(0.5 * row[column]))
                        .collect();
                    let (block, at) = segment.in_block(position..position + 1);
                    // SAFETY: nobody else has the blocks.
                    unsafe {
                        rows.write(Level::Scalar, block, (head, at.start), |out| {
                            Level::Scalar.convert(Floats::from(&row[..]), out);
                        });
                    }
                }
            }
        }
    }

    fn step(&self) -> AttentionStep<'_> {
        let shape = &self.shape;
        AttentionStep {
            rows: self.rows.floats(),
            contents: RowContents::All,
            rows_by_head: false,
            n_heads: shape.n_heads(),
            layer: 1,
            cache: self.layout.layers()[1].shape(),
            values_in_keys: shape.values_in_keys.then_some(shape.value_dim),
            query_norm: None,
            key_norm: None,
            norms_behind_rotation: false,
            value_norm: None,
            table: None,
            reach: shape.reach,
            position_scale: None,
            scale: 1.0 / (shape.key_dim as f32).sqrt(),
            soft_cap: shape.soft_cap,
            sinks: shape.with_sinks.then_some(&self.sinks),
        }
    }

    fn run(&self, level: Level, pool: &Pool) -> Vec<u8> {
        self.run_step(level, pool, &self.step())
    }

    fn run_step(&self, level: Level, pool: &Pool, step: &AttentionStep<'_>) -> Vec<u8> {
        let n_rows = step.rows.len() / step.width();
        let count = n_rows * step.n_heads * step.value_dim();
        // One byte off, so that results are misaligned.
        let mut out = vec![0xff; 1 + count * self.shape.float.bytes()];
        // SAFETY: nobody else has the blocks.
        unsafe { attention_at(level, pool, step, &self.segments, &mut out[1..]) };
        out.split_off(1)
    }

    /// Keys or values of a segment's positions, `[n_kv_heads, positions, dim]`.
    fn cached(&self, segment: &Segment, rows: &RowsLayout) -> Vec<f64> {
        let mut found = Vec::new();
        for head in 0..rows.n_heads {
            for position in 0..segment.start + segment.n_tokens {
                let (block, at) = segment.in_block(position..position + 1);
                let mut row = vec![0.0; rows.dim];
                // SAFETY: nobody writes.
                let cached = unsafe { rows.read(block, head, at) };
                cached.widen(Level::Scalar, rows.dim, &mut row, rows.dim);
                found.extend(row.into_iter().map(f64::from));
            }
        }
        found
    }

    /// What attention means, in float64 and with all scores at hand, of what is in
    /// the caches. Gives each result, and the mean magnitude of the values that it
    /// is made of.
    fn reference(&self) -> Vec<(f64, f64)> {
        let cache = self.layout.layers()[1];
        let segments = self.segments.iter();
        segments
            .flat_map(|segment| {
                let keys = self.cached(segment, &cache.keys);
                let key_dim = self.shape.key_dim;
                let end = |key: &[f64]| key[key_dim - self.shape.value_dim..].to_vec();
                let values = match self.shape.values_in_keys {
                    true => keys.chunks(key_dim).flat_map(end).collect(),
                    false => self.cached(segment, &cache.values),
                };
                self.reference_of(segment, &keys, &values)
            })
            .collect()
    }

    fn reference_of(&self, segment: &Segment, keys: &[f64], values: &[f64]) -> Vec<(f64, f64)> {
        let (shape, step, rows) = (&self.shape, self.step(), self.rows.f64s());
        let n_positions = segment.start + segment.n_tokens;
        let mut results = Vec::new();
        for (token, head) in
            (0..segment.n_tokens).flat_map(|token| (0..step.n_heads).map(move |head| (token, head)))
        {
            let first = (head / shape.group) * n_positions;
            let row = |position: usize, dim: usize| (first + position) * dim;
            let query = (segment.first_row + token) * shape.width() + head * shape.key_dim;
            let query = &rows[query..query + shape.key_dim];
            let own = segment.start + token;
            let seen: Vec<usize> = (0..=own)
                .filter(|position| match shape.reach {
                    Reach::All => true,
                    Reach::Window(length) => own - position < length,
                    Reach::Chunk(length) => own / length == position / length,
                })
                .collect();
            let score = |position: &usize| {
                let key = &keys[row(*position, shape.key_dim)..];
                let product: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                let score = product * f64::from(step.scale);
                step.soft_cap.map_or(score, |cap| {
                    let cap = f64::from(cap);
                    cap * (score / cap).tanh()
                })
            };
            let mut scores: Vec<f64> = seen.iter().map(score).collect();
            scores.extend(step.sinks.map(|sinks| f64::from(sinks[head])));
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for column in 0..shape.value_dim {
                let parts = seen.iter().zip(&weights).map(|(position, weight)| {
                    weight / sum * values[row(*position, shape.value_dim) + column]
                });
                let result: f64 = parts.clone().sum();
                results.push((result, parts.map(f64::abs).sum()));
            }
        }
        results
    }

    /// Every level agrees with the reference, and every number of threads with one.
    fn check(&self) {
        for level in Level::available() {
            let out = self.run(level, &Pool::new(1));
            self.assert_agrees(level, &out);
            if level == Level::detect() {
                for n_threads in [2, 3] {
                    let found = self.run(level, &Pool::new(n_threads));
                    assert!(found == out, "{n_threads} threads find something else");
                }
            }
        }
    }

    fn assert_agrees(&self, level: Level, out: &[u8]) {
        let float = self.shape.float;
        let found = unpacked(float, out).into_iter().zip(self.reference());
        for (index, (found, (expected, magnitude))) in found.enumerate() {
            let tolerance = 1e-5 * magnitude + rounding(float) * expected.abs() + 1e-7;
            assert!(
                (found - expected).abs() <= tolerance,
                "{level:?}: element {index} is {found}, not {expected} within {tolerance}"
            );
        }
    }
}

fn unpacked(float: Float, bytes: &[u8]) -> Vec<f64> {
    let count = bytes.len() / float.bytes();
    (0..count)
        .map(|index| f64::from(float.get(bytes, index)))
        .collect()
}

/// Half a unit in the last place of a result, relative to it.
fn rounding(float: Float) -> f64 {
    match float {
        Float::F32 => 0.0,
        Float::F16 => 2_f64.powi(-11),
        Float::Bf16 => 2_f64.powi(-8),
    }
}

fn formats(dims: [usize; 2]) -> impl Strategy<Value = CacheFormat> {
    let can_be_quantized = dims.into_iter().all(|dim| dim.is_multiple_of(32));
    (0_usize..if can_be_quantized { 9 } else { 3 }).prop_map(|kind| match kind {
        0..3 => CacheFormat::Float(FLOATS[kind]),
        _ => CacheFormat::Affine {
            float: FLOATS[kind % 3],
            bits: if kind < 6 { 4 } else { 8 },
            group_size: 32,
        },
    })
}

fn dims() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![6, 10, 16, 64, 80, 96, 128])
}

fn shapes() -> impl Strategy<Value = Shape> {
    let rows = (dims(), dims()).prop_flat_map(|(key_dim, value_dim)| {
        (
            Just(key_dim),
            Just(value_dim),
            formats([key_dim, value_dim]),
        )
    });
    let n_tokens = prop_oneof![1_usize..4, 1_usize..40];
    let segments = prop::collection::vec((0_usize..300, n_tokens), 1..4);
    let sizes = (segments, 1_usize..3, 1_usize..9);
    let reach = prop_oneof![
        Just(Reach::All),
        (1_usize..200).prop_map(Reach::Window),
        (1_usize..200).prop_map(Reach::Chunk),
        // Several begin within a step.
        (1_usize..12).prop_map(Reach::Chunk),
    ];
    let soft_cap = prop::option::of(0.5_f32..30.0);
    let scores = (reach, soft_cap, any::<bool>());
    let block_tokens = prop::sample::select(vec![64, 128, 256, 1024]);
    let float = prop::sample::select(FLOATS.to_vec());
    let memory = (float, block_tokens, 0_usize..8, any::<u32>());
    (rows, sizes, scores, memory).prop_map(|(rows, sizes, scores, memory)| Shape {
        key_dim: rows.0,
        value_dim: rows.1,
        values_in_keys: memory.3 % 3 == 0 && rows.1 <= rows.0,
        format: rows.2,
        segments: sizes.0,
        n_kv_heads: sizes.1,
        group: sizes.2,
        reach: scores.0,
        soft_cap: scores.1,
        with_sinks: scores.2,
        float: memory.0,
        block_tokens: memory.1,
        shift: memory.2,
        seed: memory.3,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_level_agrees_with_float64(shape in shapes()) {
        shape.case().check();
    }
}
