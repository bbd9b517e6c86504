//! How fast the CPU kernels are, next to what the machine can do at most. Bytes per
//! second compare with `roofline/read`; elements per second are multiply-adds (two
//! floating-point operations each) and compare with `roofline/multiply-add`.
//!
//! `cargo bench --bench kernels -- norm` runs one group.

use std::hint::black_box;
use std::sync::Arc;
use std::thread::available_parallelism;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use umrt::kernels::{
    Activation, Arithmetic, AttentionStep, CacheBlock, CacheFormat, CacheLayout, Finish, Float,
    Floats, FloatsMut, Format, Gate, LayerShape, Level, Matrix, Norm, Pairing, Pool, Projection,
    QuantizedRows, Reach, RopeTable, RowContents, Rows, Segment, attention, float_rows, gather,
    linear,
};

/// Tokens of a step: decoding, a small batch, a prompt.
const TOKENS: [usize; 3] = [1, 4, 512];
const HIDDEN: usize = 2048;
const INTERMEDIATE: usize = 8192;

/// Bytes of any value but NaN and infinity in the 16-bit formats.
fn bytes(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x3f
    };
    (0..count).map(|_| next()).collect()
}

fn ones(count: usize) -> Vec<f32> {
    vec![1.0; count]
}

/// Reads more than the caches hold and multiplies and adds what is in registers,
/// with all threads.
fn roofline(criterion: &mut Criterion) {
    const ROUNDS: usize = 100_000;
    let pool = Pool::shared(0);
    let mut group = criterion.benchmark_group("roofline");
    let memory = vec![1_u64; 32 << 20];
    group.throughput(Throughput::Bytes(size_of_val(&memory[..]) as u64));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let parts: Vec<_> = memory.chunks(1 << 17).collect();
            pool.run(parts.len(), &|part| {
                black_box(parts[part].iter().fold(0, |all, word| all | word));
            });
        });
    });

    let n_threads = available_parallelism().map_or(1, usize::from);
    let n_lanes = multiply_add(1);
    group.throughput(Throughput::Elements(
        (n_threads * ROUNDS * CHAINS * n_lanes) as u64,
    ));
    group.bench_function("multiply-add", |bencher| {
        bencher.iter(|| {
            pool.run(n_threads, &|_| {
                multiply_add(ROUNDS);
            });
        });
    });
    group.finish();
}

/// Sums that do not wait for each other, enough to keep the units busy.
const CHAINS: usize = 10;

/// `rounds` multiply-adds in each lane of each chain; returns the lanes.
fn multiply_add(rounds: usize) -> usize {
    match Level::detect() {
        Level::Scalar => {
            let mut sums = [0.0_f32; CHAINS];
            for _ in 0..rounds {
                sums = black_box(sums.map(|sum| sum * 0.5 + 1.0));
            }
            1
        }
        // SAFETY: `detect` found the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { vectors::multiply_add_8(rounds) },
        // SAFETY: `detect` found the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { vectors::multiply_add_16(rounds) },
        // SAFETY: every AArch64 processor has NEON.
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => unsafe { vectors::multiply_add_4(rounds) },
    }
}

#[cfg(target_arch = "x86_64")]
mod vectors {
    use super::{CHAINS, black_box};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    pub fn multiply_add_8(rounds: usize) -> usize {
        let factor = _mm256_set1_ps(black_box(0.5));
        let mut sums = [factor; CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        black_box(sums);
        8
    }

    #[target_feature(enable = "avx512f")]
    pub fn multiply_add_16(rounds: usize) -> usize {
        let factor = _mm512_set1_ps(black_box(0.5));
        let mut sums = [factor; CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, factor);
            }
        }
        black_box(sums);
        16
    }
}

#[cfg(target_arch = "aarch64")]
mod vectors {
    use super::{CHAINS, black_box};
    use std::arch::aarch64::*;

    #[target_feature(enable = "neon")]
    pub fn multiply_add_4(rounds: usize) -> usize {
        let factor = vdupq_n_f32(black_box(0.5));
        let mut sums = [factor; CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = vfmaq_f32(factor, *sum, factor);
            }
        }
        black_box(sums);
        4
    }
}

/// The throughput is the weights' bytes for one token, and multiply-adds for more.
fn products(criterion: &mut Criterion) {
    let pool = Pool::shared(0);
    let (rows, columns) = (INTERMEDIATE, HIDDEN);
    let floats = bytes(rows * columns * 2);
    let (codes, scales) = (bytes(rows * columns / 2), bytes(rows * columns / 64 * 2));
    let matrices = [
        (
            "bf16",
            Matrix::Float(Floats::new(Float::Bf16, &floats)),
            floats.len(),
        ),
        (
            "4-bit",
            Matrix::Quantized(QuantizedRows {
                codes: &codes,
                scales: &scales,
                biases: Some(&scales),
                format: Format::Affine {
                    bits: 4,
                    group_size: 64,
                    float: Float::Bf16,
                },
                columns,
            }),
            codes.len() + 2 * scales.len(),
        ),
    ];
    let mut group = criterion.benchmark_group("linear");
    for (name, matrix, matrix_bytes) in &matrices {
        for n in TOKENS {
            let x = [0x80, 0x3f].repeat(n * columns);
            let x = Rows {
                values: Floats::new(Float::Bf16, &x),
                columns,
                norm: None,
            };
            let projection = Projection {
                matrix: *matrix,
                rows,
                bias: None,
            };
            let mut out = vec![0; n * rows * 2];
            group.throughput(match n {
                1 => Throughput::Bytes(*matrix_bytes as u64),
                _ => Throughput::Elements((n * rows * columns) as u64),
            });
            group.bench_function(BenchmarkId::new(*name, n), |bencher| {
                bencher.iter(|| {
                    linear(
                        &pool,
                        &x,
                        &[projection],
                        Finish::Store,
                        Arithmetic::default(),
                        &mut out,
                        Float::Bf16,
                    );
                });
            });
        }
    }
    group.finish();
}

/// Bytes of keys and values that are looked at per second: of one sequence and of
/// four, each token behind 4096 others, and of a prompt of 512.
fn attention_over_caches(criterion: &mut Criterion) {
    const N_HEADS: usize = 32;
    const BLOCK: usize = 256;
    let pool = Pool::shared(0);
    let layer = LayerShape {
        n_kv_heads: 8,
        key_dim: 64,
        value_dim: 64,
    };
    let quantized = |bits| CacheFormat::Affine {
        bits,
        group_size: 64,
        float: Float::Bf16,
    };
    let mut group = criterion.benchmark_group("attention");
    for (name, format) in [
        ("bf16", CacheFormat::Float(Float::Bf16)),
        ("f32", CacheFormat::Float(Float::F32)),
        ("8 bits", quantized(8)),
        ("4 bits", quantized(4)),
    ] {
        let layout = Arc::new(CacheLayout::new(&[layer], format));
        for (case, n_sequences, start, n_tokens) in [
            ("1 of 4096", 1, 4096, 1),
            ("4 of 4096", 4, 4096, 1),
            ("prompt of 512", 1, 0, 512),
        ] {
            let n_positions: usize = start + n_tokens;
            let block = || CacheBlock::zeroed(&layout, BLOCK).expect("memory");
            let segment = |index| Segment {
                first_row: index * n_tokens,
                n_tokens,
                start,
                layout: layout.clone(),
                blocks: (0..n_positions.div_ceil(BLOCK))
                    .map(|_| Arc::new(block()))
                    .collect(),
            };
            let segments: Vec<_> = (0..n_sequences).map(segment).collect();
            let width = (N_HEADS + 2 * layer.n_kv_heads) * 64;
            let rows = bytes(n_sequences * n_tokens * width * 2);
            let step = AttentionStep {
                contents: RowContents::All,
                value_norm: None,
                rows: Floats::new(Float::Bf16, &rows),
                rows_by_head: false,
                values_in_keys: None,
                n_heads: N_HEADS,
                layer: 0,
                cache: layer,
                query_norm: None,
                key_norm: None,
                norms_behind_rotation: false,
                table: None,
                reach: Reach::All,
                scale: 0.125,
                position_scale: None,
                soft_cap: None,
                sinks: None,
            };
            let mut out = vec![0; n_sequences * n_tokens * N_HEADS * 64 * 2];
            let looked_at = n_sequences * n_positions * layout.bytes_per_token();
            group.throughput(Throughput::Bytes(looked_at as u64));
            group.bench_function(BenchmarkId::new(name, case), |bencher| {
                // SAFETY: nobody else has the blocks.
                bencher.iter(|| unsafe { attention(&pool, &step, &segments, &mut out) });
            });
        }
    }
    group.finish();
}

fn norm(criterion: &mut Criterion) {
    let pool = Pool::shared(0);
    let weight = bytes(HIDDEN * 2);
    let norm = Norm::Rms {
        weight: Some(Floats::new(Float::Bf16, &weight)),
        offset: 0.0,
        eps: 1e-6,
    };
    let mut group = criterion.benchmark_group("norm");
    for n in TOKENS {
        let x = bytes(n * HIDDEN * 2);
        let x = Floats::new(Float::Bf16, &x);
        let (mut h, mut y) = (vec![0; n * HIDDEN * 2], vec![0; n * HIDDEN * 2]);
        group.throughput(Throughput::Bytes(2 * y.len() as u64));
        group.bench_function(BenchmarkId::new("rms", n), |bencher| {
            bencher.iter(|| norm.rows(&pool, x, HIDDEN, FloatsMut::new(Float::Bf16, &mut y)));
        });
        group.throughput(Throughput::Bytes(4 * y.len() as u64));
        group.bench_function(BenchmarkId::new("add and rms", n), |bencher| {
            bencher.iter(|| {
                let h = FloatsMut::new(Float::Bf16, &mut h);
                let y = FloatsMut::new(Float::Bf16, &mut y);
                norm.rows_of_sum(&pool, x, x, HIDDEN, h, y);
            });
        });
    }
    group.finish();
}

fn rope(criterion: &mut Criterion) {
    const N_HEADS: usize = 32;
    const HEAD_DIM: usize = 128;
    let pool = Pool::shared(0);
    let wavelengths: Vec<f32> = (0..HEAD_DIM / 2)
        .map(|pair| 10_000_f32.powf(2.0 * pair as f32 / HEAD_DIM as f32))
        .collect();
    let weight = ones(HEAD_DIM);
    let norm = Norm::Rms {
        weight: Some(Floats::from(&weight[..])),
        offset: 0.0,
        eps: 1e-6,
    };
    let mut group = criterion.benchmark_group("rope");
    for n in TOKENS {
        let x = bytes(n * N_HEADS * HEAD_DIM * 2);
        let x = Floats::new(Float::Bf16, &x);
        let mut y = vec![0; n * N_HEADS * HEAD_DIM * 2];
        group.throughput(Throughput::Bytes(2 * y.len() as u64));
        for (name, pairing, norm) in [
            ("halves", Pairing::Halves, None),
            ("neighbours", Pairing::Neighbours, None),
            ("norm and halves", Pairing::Halves, Some(&norm)),
        ] {
            let table = RopeTable::new(pairing, &wavelengths, 1.0, 0..n);
            group.bench_function(BenchmarkId::new(name, n), |bencher| {
                bencher.iter(|| {
                    let y = FloatsMut::new(Float::Bf16, &mut y);
                    table.rotate_tokens(&pool, norm, x, (N_HEADS, HEAD_DIM), y);
                });
            });
        }
        group.throughput(Throughput::Elements((n * wavelengths.len()) as u64));
        group.bench_function(BenchmarkId::new("table", n), |bencher| {
            bencher.iter(|| RopeTable::new(Pairing::Halves, &wavelengths, 1.0, 0..n));
        });
    }
    group.finish();
}

fn gate(criterion: &mut Criterion) {
    let pool = Pool::shared(0);
    let mut group = criterion.benchmark_group("gate");
    for n in TOKENS {
        let (gate, up) = (bytes(n * INTERMEDIATE * 2), bytes(n * INTERMEDIATE * 2));
        let (gate, up) = (
            Floats::new(Float::Bf16, &gate),
            Floats::new(Float::Bf16, &up),
        );
        let mut y = vec![0; n * INTERMEDIATE * 2];
        group.throughput(Throughput::Bytes(3 * y.len() as u64));
        for (name, function) in [
            ("swiglu", Gate::Times(Activation::Silu)),
            ("gelu", Gate::Times(Activation::Gelu)),
            ("relu", Gate::Times(Activation::Relu)),
        ] {
            group.bench_function(BenchmarkId::new(name, n), |bencher| {
                bencher.iter(|| {
                    let y = FloatsMut::new(Float::Bf16, &mut y);
                    function.rows(&pool, gate, up, INTERMEDIATE, y);
                });
            });
        }
    }
    group.finish();
}

fn embedding(criterion: &mut Criterion) {
    const VOCABULARY: usize = 32_000;
    let pool = Pool::shared(0);
    let table = bytes(VOCABULARY * HIDDEN * 2);
    let read_row = float_rows(Floats::new(Float::Bf16, &table));
    let mut group = criterion.benchmark_group("embedding");
    for n in TOKENS {
        let ids: Vec<u32> = (0..n).map(|i| (i * 7919 % VOCABULARY) as u32).collect();
        let mut out = vec![0; n * HIDDEN * 2];
        group.throughput(Throughput::Bytes(2 * out.len() as u64));
        group.bench_function(BenchmarkId::new("bf16", n), |bencher| {
            bencher.iter(|| {
                let out = FloatsMut::new(Float::Bf16, &mut out);
                gather(&pool, &ids, (VOCABULARY, HIDDEN), &read_row, None, out);
            });
        });
    }
    group.finish();
}

criterion_group!(
    kernels,
    roofline,
    products,
    attention_over_caches,
    norm,
    rope,
    gate,
    embedding
);
criterion_main!(kernels);
