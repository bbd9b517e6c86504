//! How fast the recurrent kernels are. For one token, whose states come from main memory,
//! bytes per second are those of states read and written, which compare with `copy`; for
//! more, elements per second are multiply-adds.
//!
//! `cargo bench --bench recurrent -- scan` runs one group.

use std::sync::Arc;

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use umrt::kernels::{
    Activation, DeltaShape, DeltaStep, Float, Floats, FloatsMut, Gate, GatedNorm, GroupNorm,
    HeadParts, PartPlace, Pool, ScanShape, ScanStep, ShortConv, StateLayout, StateMemory,
    StateSegment, gated_delta, selective_scan, short_conv,
};

/// Tokens of a step: decoding, a small batch, a prompt.
const TOKENS: [usize; 3] = [1, 4, 64];

/// More layers than the caches have room for.
const LAYERS: usize = 24;

/// Bytes of bfloat16 between -1 and 1.
fn bytes(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        [(state >> 16) as u8, (state >> 24) as u8 & 0xbf]
    };
    (0..count).flat_map(|_| next()).collect()
}

/// Steps of `n` tokens that go from one memory of a layer to its other one.
fn steps(bencher: &mut Bencher<'_>, n: usize, n_floats: usize, step: &mut dyn FnMut(StateSegment)) {
    let layout = StateLayout::new(&[vec![vec![n_floats]]]);
    let memory = || Arc::new(StateMemory::zeroed(&layout).expect("memory"));
    let layers: Vec<_> = (0..LAYERS).map(|_| [memory(), memory()]).collect();
    let mut index = 0;
    bencher.iter(|| {
        let (layer, turn) = (index % LAYERS, index / LAYERS % 2);
        index += 1;
        step(StateSegment {
            first_row: 0,
            n_tokens: n,
            before: Some(layers[layer][turn].clone()),
            after: layers[layer][1 - turn].clone(),
        });
    });
}

fn throughput(n: usize, n_floats: usize, multiply_adds: usize) -> Throughput {
    match n {
        1 => Throughput::Bytes(2 * (n_floats * size_of::<f32>()) as u64),
        n => Throughput::Elements((n * multiply_adds) as u64),
    }
}

fn copy(criterion: &mut Criterion) {
    const FLOATS: usize = 1 << 19;
    let mut group = criterion.benchmark_group("copy");
    group.throughput(throughput(1, FLOATS, 0));
    group.bench_function("one thread", |bencher| {
        steps(bencher, 1, FLOATS, &mut |segment| {
            // SAFETY: nobody else has the memory.
            unsafe { segment.take(0..FLOATS) };
        });
    });
    group.finish();
}

/// As Qwen3-Next has them.
fn delta(criterion: &mut Criterion) {
    let shape = DeltaShape {
        n_key_heads: 16,
        key_dim: 128,
        values_per_key: 2,
        value_dim: 128,
        doubles_beta: false,
    };
    let (pool, n_heads) = (Pool::shared(0), shape.n_value_heads());
    let mixed = shape.mixed_columns();
    let columns = mixed + shape.columns() + 2 * n_heads;
    let vector = bytes(128);
    let vector = Floats::new(Float::Bf16, &vector);
    let (heads, _) = vector.split_at(n_heads);
    let mut group = criterion.benchmark_group("delta");
    for n in TOKENS {
        let rows = bytes(n * columns);
        let rows = Floats::new(Float::Bf16, &rows);
        let parts =
            |first, length| HeadParts::new(rows, PartPlace::in_turn(columns, first, length));
        let [queries, keys, values] = shape
            .mixed_places()
            .map(|place| HeadParts::new(rows, PartPlace { columns, ..place }));
        let step = DeltaStep {
            shape,
            state: 0,
            queries,
            keys,
            values,
            gates: parts(mixed, shape.group()),
            betas: parts(mixed + shape.columns(), 2),
            alphas: parts(mixed + shape.columns() + n_heads, 2),
            rates: heads,
            biases: heads,
            norm: GatedNorm {
                gate: Gate::Times(Activation::Silu),
                norm: Some(GroupNorm {
                    weight: vector,
                    eps: 1e-6,
                    n_groups: 1,
                    is_before_gate: true,
                }),
            },
        };
        let mut out = vec![0; n * shape.columns() * 2];
        group.throughput(throughput(n, shape.state(), 4 * shape.state()));
        group.bench_function(BenchmarkId::new("32 heads of 128 x 128", n), |bencher| {
            steps(bencher, n, shape.state(), &mut |segment| {
                let out = FloatsMut::new(Float::Bf16, &mut out);
                // SAFETY: nobody else has the memory.
                unsafe { gated_delta(&pool, &step, &[segment], out) };
            });
        });
    }
    group.finish();
}

/// As Mamba 2 has them.
fn scan(criterion: &mut Criterion) {
    let shape = ScanShape {
        n_groups: 1,
        heads_per_group: 80,
        head_dim: 64,
        state_dim: 128,
    };
    let (pool, n_heads) = (Pool::shared(0), shape.n_heads());
    let columns = shape.mixed_columns() + n_heads;
    let vector = bytes(n_heads);
    let vector = Floats::new(Float::Bf16, &vector);
    let mut group = criterion.benchmark_group("scan");
    for n in TOKENS {
        let rows = bytes(n * columns);
        let rows = Floats::new(Float::Bf16, &rows);
        let [x, keys, queries] = shape
            .mixed_places()
            .map(|place| HeadParts::new(rows, PartPlace { columns, ..place }));
        let times = PartPlace::in_turn(columns, shape.mixed_columns(), 1);
        let step = ScanStep {
            shape,
            state: 0,
            x,
            keys,
            queries,
            times: HeadParts::new(rows, times),
            time_factor: 1.0,
            time_biases: vector,
            time_limits: [0.0, f32::INFINITY],
            rates: vector,
            skips: vector,
        };
        let mut out = vec![0.0_f32; n * shape.columns()];
        group.throughput(throughput(n, shape.state(), 3 * shape.state()));
        group.bench_function(BenchmarkId::new("80 heads of 64 x 128", n), |bencher| {
            steps(bencher, n, shape.state(), &mut |segment| {
                let out = FloatsMut::from(&mut out[..]);
                // SAFETY: nobody else has the memory.
                unsafe { selective_scan(&pool, &step, &[segment], out) };
            });
        });
    }
    group.finish();
}

/// As LFM2 has them, and in front of Qwen3-Next's heads.
fn conv(criterion: &mut Criterion) {
    let pool = Pool::shared(0);
    let mut group = criterion.benchmark_group("conv");
    for (name, n_channels, n_taps, is_gated) in [("gated", 2048, 3, true), ("silu", 8192, 4, false)]
    {
        let columns = n_channels * if is_gated { 3 } else { 1 };
        let n_floats = (n_taps - 1) * n_channels;
        let weight = bytes(n_channels * n_taps);
        for n in TOKENS {
            let rows = bytes(n * columns);
            let step = ShortConv {
                rows: Floats::new(Float::Bf16, &rows),
                columns,
                n_channels,
                input: columns - n_channels,
                gates: is_gated.then_some([0, n_channels]),
                weight: Floats::new(Float::Bf16, &weight),
                bias: None,
                activation: (!is_gated).then_some(Activation::Silu),
                state: 0,
            };
            let mut out = vec![0; n * n_channels * 2];
            group.throughput(throughput(n, n_floats, n_taps * n_channels));
            group.bench_function(BenchmarkId::new(name, n), |bencher| {
                steps(bencher, n, n_floats, &mut |segment| {
                    let out = FloatsMut::new(Float::Bf16, &mut out);
                    // SAFETY: nobody else has the memory.
                    unsafe { short_conv(&pool, &step, &[segment], out) };
                });
            });
        }
    }
    group.finish();
}

criterion_group!(recurrent, copy, delta, scan, conv);
criterion_main!(recurrent);
