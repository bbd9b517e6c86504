use proptest::prelude::*;

use super::vector::Vector;
use super::*;

const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];

/// Deterministic values between -1 and 1 from a seed.
fn values(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The values in a float format, `shift` bytes off any alignment.
fn packed(float: Float, values: &[f32], shift: usize) -> Vec<u8> {
    let mut bytes = vec![0; shift + values.len() * float.bytes()];
    for (index, value) in values.iter().enumerate() {
        float.set(&mut bytes[shift..], index, *value);
    }
    bytes
}

fn unpacked(float: Float, bytes: &[u8]) -> Vec<f64> {
    let count = bytes.len() / float.bytes();
    (0..count)
        .map(|index| f64::from(float.get(bytes, index)))
        .collect()
}

/// Memory of a cache, and what it says as float64.
struct Cache {
    kind: CacheKind,
    shift: usize,
    parts: [Vec<u8>; 3],
    values: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
enum CacheKind {
    Float(Float),
    Affine { float: Float, bits: usize },
}

const GROUP_SIZE: usize = 32;

impl Cache {
    fn new(kind: CacheKind, values: &[f32], shift: usize) -> Self {
        match kind {
            CacheKind::Float(float) => {
                let bytes = packed(float, values, shift);
                Cache {
                    kind,
                    shift,
                    values: unpacked(float, &bytes[shift..]),
                    parts: [bytes, Vec::new(), Vec::new()],
                }
            }
            CacheKind::Affine { float, bits } => Self::affine(float, bits, values, shift),
        }
    }

    /// Codes are made of the values; what they say is of the same size.
    fn affine(float: Float, bits: usize, values: &[f32], shift: usize) -> Self {
        let largest = ((1 << bits) - 1) as f32;
        let mut codes = vec![0; shift + values.len() * bits / 8];
        let n_groups = values.len() / GROUP_SIZE;
        let scale = |group: usize| (1.0 + (group % 3) as f32) / largest;
        let bias = |group: usize| -0.5 - 0.25 * (group % 5) as f32;
        let scales: Vec<f32> = (0..n_groups).map(scale).collect();
        let biases: Vec<f32> = (0..n_groups).map(bias).collect();
        let (scales, biases) = (packed(float, &scales, shift), packed(float, &biases, shift));
        let mut exact = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let code = ((value + 1.0) / 2.0 * largest) as u8;
            let bit = index * bits;
            codes[shift + bit / 8] |= code << (bit % 8);
            let part = |bytes: &[u8]| f64::from(float.get(&bytes[shift..], index / GROUP_SIZE));
            exact.push(part(&scales) * f64::from(code) + part(&biases));
        }
        Cache {
            kind: CacheKind::Affine { float, bits },
            shift,
            parts: [codes, scales, biases],
            values: exact,
        }
    }

    fn rows(&self) -> CacheRows<'_> {
        let [first, scales, biases] = &self.parts;
        match self.kind {
            CacheKind::Float(float) => CacheRows::Float {
                bytes: &first[self.shift..],
                float,
            },
            CacheKind::Affine { float, bits } => CacheRows::Affine {
                codes: &first[self.shift..],
                scales: &scales[self.shift..],
                biases: &biases[self.shift..],
                float,
                group_size: GROUP_SIZE,
                bits,
            },
        }
    }
}

/// What attention means, in float64 and with all scores at hand. Gives each
/// result, and the mean magnitude of the values that it is made of.
fn reference(job: &Attention<'_>, keys: &[f64], values: &[f64]) -> Vec<(f64, f64)> {
    let queries = unpacked(job.query_float, job.queries);
    let mut results = Vec::new();
    for token in 0..job.n_tokens {
        for head in 0..job.n_heads {
            let kv_head = head / (job.n_heads / job.n_kv_heads);
            let row = |position: usize, dim: usize| (kv_head * job.capacity + position) * dim;
            let query = &queries[token * job.query_stride + head * job.head_dim..][..job.head_dim];
            let own = job.start + token;
            let seen: Vec<usize> = (0..=own)
                .filter(|position| job.window.is_none_or(|window| own - position < window))
                .collect();
            let mut scores: Vec<f64> = seen
                .iter()
                .map(|position| {
                    let key = &keys[row(*position, job.head_dim)..];
                    let product: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    let score = product * f64::from(job.scale);
                    job.soft_cap.map_or(score, |cap| {
                        let cap = f64::from(cap);
                        cap * (score / cap).tanh()
                    })
                })
                .collect();
            scores.extend(job.sinks.map(|sinks| f64::from(sinks[head])));
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for column in 0..job.value_dim {
                let parts = seen.iter().zip(&weights).map(|(position, weight)| {
                    weight / sum * values[row(*position, job.value_dim) + column]
                });
                let result: f64 = parts.clone().sum();
                results.push((result, parts.map(f64::abs).sum()));
            }
        }
    }
    results
}

/// Half a unit in the last place of a result, relative to it.
fn rounding(float: Float) -> f64 {
    match float {
        Float::F32 => 0.0,
        Float::F16 => 2_f64.powi(-11),
        Float::Bf16 => 2_f64.powi(-8),
    }
}

fn run(level: Level, pool: &Pool, job: &Attention<'_>) -> Vec<u8> {
    let count = job.n_tokens * job.n_heads * job.value_dim;
    // One byte off, so that results are misaligned.
    let mut out = vec![0xff; 1 + count * job.query_float.bytes()];
    attention_at(level, pool, job, &mut out[1..]);
    out.split_off(1)
}

/// Every level agrees with the reference, and every number of threads with one.
fn check(job: &Attention<'_>, keys: &Cache, values: &Cache) {
    let expected = reference(job, &keys.values, &values.values);
    for level in Level::available() {
        let out = run(level, &Pool::new(1), job);
        for (index, (found, (expected, magnitude))) in unpacked(job.query_float, &out)
            .into_iter()
            .zip(&expected)
            .enumerate()
        {
            let tolerance = 1e-5 * magnitude + rounding(job.query_float) * expected.abs() + 1e-7;
            assert!(
                (found - expected).abs() <= tolerance,
                "{level:?}: element {index} is {found}, not {expected} within {tolerance}"
            );
        }
        if level == Level::detect() {
            for n_threads in [2, 3] {
                assert!(
                    run(level, &Pool::new(n_threads), job) == out,
                    "{level:?}: {n_threads} threads find something else than one"
                );
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Shape {
    n_tokens: usize,
    n_kv_heads: usize,
    group: usize,
    head_dim: usize,
    value_dim: usize,
    start: usize,
    spare: usize,
    window: Option<usize>,
    soft_cap: Option<f32>,
    with_sinks: bool,
    query_float: Float,
    query_gap: usize,
    keys: CacheKind,
    values: CacheKind,
    shift: usize,
    seed: u32,
}

impl Shape {
    /// One token of one head of 64 at position 0.
    fn smallest() -> Self {
        Shape {
            n_tokens: 1,
            n_kv_heads: 1,
            group: 1,
            head_dim: 64,
            value_dim: 64,
            start: 0,
            spare: 0,
            window: None,
            soft_cap: None,
            with_sinks: false,
            query_float: Float::F32,
            query_gap: 0,
            keys: CacheKind::Float(Float::F32),
            values: CacheKind::Float(Float::F32),
            shift: 0,
            seed: 1,
        }
    }

    /// Runs `test` on deterministic contents.
    fn with(&self, test: impl FnOnce(&Attention<'_>, &Cache, &Cache)) {
        self.with_contents(|_, _| {}, test);
    }

    /// The same, with `edit` applied to keys and values before.
    fn with_contents(
        &self,
        edit: impl FnOnce(&mut [f32], &mut [f32]),
        test: impl FnOnce(&Attention<'_>, &Cache, &Cache),
    ) {
        let capacity = self.start + self.n_tokens + self.spare;
        let n_rows = self.n_kv_heads * capacity;
        let n_heads = self.n_kv_heads * self.group;
        let mut keys = values(self.seed, n_rows * self.head_dim);
        let mut cached = values(self.seed ^ 1, n_rows * self.value_dim);
        edit(&mut keys, &mut cached);
        let keys = Cache::new(self.keys, &keys, self.shift);
        let values_cache = Cache::new(self.values, &cached, self.shift);
        let query_stride = n_heads * self.head_dim + self.query_gap;
        let queries = values(self.seed ^ 2, self.n_tokens * query_stride);
        let queries: Vec<f32> = queries.iter().map(|x| 4.0 * x).collect();
        let queries = packed(self.query_float, &queries, self.shift);
        let sinks = values(self.seed ^ 3, n_heads);
        let job = Attention {
            queries: &queries[self.shift..],
            query_float: self.query_float,
            query_stride,
            keys: keys.rows(),
            values: values_cache.rows(),
            n_tokens: self.n_tokens,
            n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            value_dim: self.value_dim,
            capacity,
            start: self.start,
            window: self.window,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            soft_cap: self.soft_cap,
            sinks: self.with_sinks.then_some(&sinks),
        };
        test(&job, &keys, &values_cache);
    }
}

fn cache_kinds(dim: usize) -> impl Strategy<Value = CacheKind> {
    let n_kinds = if dim.is_multiple_of(GROUP_SIZE) { 9 } else { 3 };
    (0_usize..n_kinds).prop_map(|kind| match kind {
        0..3 => CacheKind::Float(FLOATS[kind]),
        _ => CacheKind::Affine {
            float: FLOATS[kind % 3],
            bits: if kind < 6 { 4 } else { 8 },
        },
    })
}

fn dims() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![6, 10, 16, 64, 80, 96, 128])
}

fn shapes() -> impl Strategy<Value = Shape> {
    let rows = (dims(), dims()).prop_flat_map(|(head_dim, value_dim)| {
        let (keys, values) = (cache_kinds(head_dim), cache_kinds(value_dim));
        (Just(head_dim), Just(value_dim), keys, values)
    });
    let n_tokens = prop_oneof![1_usize..4, 1_usize..40];
    let sizes = (n_tokens, 1_usize..3, 1_usize..9, 0_usize..300, 0_usize..3);
    let window = prop::option::of(1_usize..200);
    let soft_cap = prop::option::of(0.5_f32..30.0);
    let scores = (window, soft_cap, any::<bool>());
    let query_float = prop::sample::select(FLOATS.to_vec());
    let memory = (query_float, 0_usize..70, 0_usize..8, any::<u32>());
    (rows, sizes, scores, memory).prop_map(|(rows, sizes, scores, memory)| Shape {
        head_dim: rows.0,
        value_dim: rows.1,
        keys: rows.2,
        values: rows.3,
        n_tokens: sizes.0,
        n_kv_heads: sizes.1,
        group: sizes.2,
        start: sizes.3,
        spare: sizes.4,
        window: scores.0,
        soft_cap: scores.1,
        with_sinks: scores.2,
        query_float: memory.0,
        query_gap: memory.1,
        shift: memory.2,
        seed: memory.3,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_level_agrees_with_float64(shape in shapes()) {
        shape.with(check);
    }
}

#[test]
fn a_long_context_is_cut_and_merged() {
    let shape = Shape {
        start: 5_000,
        group: 3,
        n_tokens: 2,
        with_sinks: true,
        ..Shape::smallest()
    };
    shape.with(|job, keys, values| {
        assert!(Plan::new(job).n_cuts > 1);
        check(job, keys, values);
    });
    let bf16 = CacheKind::Float(Float::Bf16);
    let windowed = Shape {
        query_float: Float::Bf16,
        keys: bf16,
        values: bf16,
        window: Some(4_100),
        head_dim: 256,
        value_dim: 256,
        ..shape
    };
    windowed.with(|job, keys, values| {
        assert!(Plan::new(job).n_cuts > 1);
        check(job, keys, values);
    });
}

#[test]
fn pieces_cover_what_is_seen_exactly_once() {
    for (n_tokens, start, window) in [(1, 9_000, None), (30, 2_000, Some(700)), (200, 0, None)] {
        let shape = Shape {
            n_tokens,
            start,
            window,
            group: 5,
            n_kv_heads: 2,
            head_dim: 6,
            value_dim: 6,
            ..Shape::smallest()
        };
        shape.with(|job, _, _| {
            let plan = Plan::new(job);
            let mut seen = vec![0; 2 * job.rows() * job.capacity];
            for index in 0..plan.n_tiles() * plan.n_cuts {
                let piece = plan.piece(job, index / plan.n_cuts, index % plan.n_cuts);
                for row in piece.rows {
                    let visible = job.visible(row / 5);
                    for position in piece.positions.clone() {
                        let row = piece.kv_head * job.rows() + row;
                        seen[row * job.capacity + position] +=
                            usize::from(visible.contains(&position));
                    }
                }
            }
            for (index, count) in seen.into_iter().enumerate() {
                let token = index / job.capacity % job.rows() / 5;
                let expected = job.visible(token).contains(&(index % job.capacity));
                assert_eq!(count, usize::from(expected));
            }
        });
    }
}

#[test]
fn what_a_query_does_not_see_cannot_reach_it() {
    for group in [1, 3] {
        let shape = Shape {
            n_tokens: 9,
            start: 120,
            spare: 10,
            group,
            window: Some(70),
            ..Shape::smallest()
        };
        let poison = |keys: &mut [f32], values: &mut [f32]| {
            // Seen by the last token alone, by none, and by the first five.
            for position in [128, 130, 0, 55] {
                let row = position * 64..(position + 1) * 64;
                keys[row.clone()].fill(f32::NAN);
                values[row].fill(f32::INFINITY);
            }
            values[125 * 64] = f32::INFINITY;
        };
        shape.with_contents(poison, |job, _, _| {
            for level in Level::available() {
                let found = unpacked(Float::F32, &run(level, &Pool::new(1), job));
                for (row, found) in found.chunks(64).enumerate() {
                    match row / group {
                        // Position 55 leaves the window of 70 with token 5.
                        0..5 | 8 => assert!(found.iter().all(|x| x.is_nan()), "{level:?} {row}"),
                        _ => {
                            assert_eq!(found[0], f64::INFINITY, "{level:?} {row}");
                            assert!(found[1..].iter().all(|x| x.is_finite()), "{level:?} {row}");
                        }
                    }
                }
            }
        });
    }
}

#[test]
fn a_score_of_minus_infinity_weighs_nothing() {
    let shape = Shape {
        start: 200,
        ..Shape::smallest()
    };
    let queries = packed(Float::F32, &[1.0; 64], 0);
    let (mut keys, cached) = (vec![0.0; 201 * 64], values(7, 201 * 64));
    // The whole first tile, and then one score that is 0.
    for position in 0..200 {
        keys[position * 64] = f32::NEG_INFINITY;
    }
    shape.with_contents(
        |k, v| {
            k.copy_from_slice(&keys);
            v.copy_from_slice(&cached);
        },
        |job, _, _| {
            let job = Attention {
                queries: &queries,
                ..*job
            };
            for level in Level::available() {
                let out = run(level, &Pool::new(1), &job);
                assert_eq!(out, packed(Float::F32, &cached[200 * 64..], 0));
            }
        },
    );
    keys[200 * 64] = f32::NEG_INFINITY;
    shape.with_contents(
        |k, _| k.copy_from_slice(&keys),
        |job, _, _| {
            let job = Attention {
                queries: &queries,
                ..*job
            };
            for level in Level::available() {
                let out = run(level, &Pool::new(1), &job);
                let found = unpacked(Float::F32, &out);
                assert!(found.into_iter().all(f64::is_nan), "0 / 0");
            }
        },
    );
}

#[test]
fn subnormal_and_large_results_are_rounded_as_usual() {
    for query_float in FLOATS {
        let shape = Shape {
            query_float,
            ..Shape::smallest()
        };
        let cached: Vec<f32> = (0..64).map(|i| 1.1 * 2_f32.powi(4 * i - 149)).collect();
        let edit = |_: &mut [f32], values: &mut [f32]| values.copy_from_slice(&cached);
        shape.with_contents(edit, |job, _, _| {
            for level in Level::available() {
                let out = run(level, &Pool::new(1), job);
                assert_eq!(out, packed(query_float, &cached, 0), "{level:?}");
            }
        });
    }
}

/// Applies a function of vectors at a level.
trait OfVectors {
    unsafe fn apply<V: Vector>(x: V) -> V;
}

struct Exp;
struct Tanh;

impl OfVectors for Exp {
    #[inline(always)]
    unsafe fn apply<V: Vector>(x: V) -> V {
        // SAFETY: as `Vector` says.
        unsafe { math::exp(x) }
    }
}

impl OfVectors for Tanh {
    #[inline(always)]
    unsafe fn apply<V: Vector>(x: V) -> V {
        // SAFETY: as `Vector` says.
        unsafe { math::tanh(x) }
    }
}

fn apply<F: OfVectors>(level: Level, x: &[f32]) -> Vec<f32> {
    #[inline(always)]
    unsafe fn all<F: OfVectors, V: Vector>(x: &mut [f32]) {
        for x in x.chunks_exact_mut(V::LANES) {
            // SAFETY: as `Vector` says.
            unsafe { F::apply(V::load(x.as_ptr())).store(x.as_mut_ptr()) }
        }
    }
    let mut padded = x.to_vec();
    padded.resize(x.len().next_multiple_of(PADDING), 0.0);
    // SAFETY: the level is available.
    unsafe {
        match level {
            Level::Scalar => all::<F, Plain>(&mut padded),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => all::<F, avx2::Avx2>(&mut padded),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => all::<F, avx512::Avx512>(&mut padded),
        }
    }
    padded.truncate(x.len());
    padded
}

#[test]
fn exp_is_accurate() {
    let x: Vec<f32> = (0..200_000).map(|i| i as f32 * -87.3 / 2e5).collect();
    for level in Level::available() {
        for (x, found) in x.iter().zip(apply::<Exp>(level, &x)) {
            let exact = f64::from(*x).exp();
            let ulp = f64::from((exact as f32).next_up() - exact as f32);
            assert!((f64::from(found) - exact).abs() <= 2.0 * ulp, "exp({x})");
        }
        let special = [0.0, f32::NEG_INFINITY, -1e30, -89.0, f32::NAN, 80.0];
        let found = apply::<Exp>(level, &special);
        assert_eq!(found[..4], [1.0, 0.0, 0.0, 0.0]);
        assert!(found[4].is_nan() && (found[5] / 80_f32.exp() - 1.0).abs() < 3e-7);
    }
}

#[test]
fn tanh_is_accurate() {
    let x: Vec<f32> = (-100_000..100_000).map(|i| i as f32 / 8e3).collect();
    for level in Level::available() {
        for (x, found) in x.iter().zip(apply::<Tanh>(level, &x)) {
            assert!((f64::from(found) - f64::from(*x).tanh()).abs() <= 2e-7);
        }
        let special = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let found = apply::<Tanh>(level, &special);
        assert_eq!(found[..2], [1.0, -1.0]);
        assert!(found[2].is_nan());
    }
}
