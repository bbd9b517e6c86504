use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::error::{Result, Status};
use crate::kernels::{LayerShape, StateLayout, StateMemory};
use crate::kv::{CacheShape, KvType, Sequence};
use crate::mlx::{CpuOps, Device, Dtype, Ops, Stream};

const ORIGIN: Origin = Origin {
    model: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
    rotation: 0,
};

fn ops(cpu_ops: CpuOps) -> Ops {
    Ops::new(Stream::acquire(Device::Cpu).expect("a stream"), cpu_ops, 1)
}

fn shape(kv_type: KvType, max_tokens: usize) -> CacheShape {
    let layer = |n_kv_heads, key_dim| LayerShape {
        n_kv_heads,
        key_dim,
        value_dim: 64,
    };
    CacheShape::new(
        &[layer(2, 64), layer(1, 128)],
        Dtype::F16,
        kv_type,
        max_tokens,
    )
    .expect("a shape")
}

/// With a recurrent layer more.
fn recurrent(shape: CacheShape) -> CacheShape {
    let states = StateLayout::new(&[vec![], vec![], vec![vec![3, 5], vec![7]]]);
    shape.with_states(&Arc::new(states))
}

fn empty(cpu_ops: CpuOps, shape: &CacheShape) -> Sequence {
    Sequence::new(&ops(cpu_ops), shape.clone())
}

/// Of bytes that say where they belong.
fn filled(cpu_ops: CpuOps, shape: &CacheShape, n_tokens: usize) -> Sequence {
    let mut sequence = empty(cpu_ops, shape);
    let tokens: Vec<i32> = (0..n_tokens as i32).collect();
    let fill = |index: usize| {
        let capacity = super::super::sequence::chunk_tokens(index, n_tokens).len();
        let mut chunk =
            crate::kernels::CacheBlock::zeroed(shape.layout(), capacity).expect("memory");
        for (at, byte) in chunk.bytes_mut().iter_mut().enumerate() {
            *byte = (at % 251 + index) as u8;
        }
        Ok(chunk)
    };
    let states = (shape.states().n_floats() > 0).then(|| {
        let mut states = StateMemory::zeroed(shape.states()).expect("memory");
        let floats = states.floats_mut().iter_mut();
        floats
            .zip(1..)
            .for_each(|(state, value)| *state = value as f32);
        states
    });
    sequence
        .replace(shape, tokens, states, fill)
        .expect("a sequence");
    sequence
}

fn saved(sequence: &Sequence) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_sequence(&ops(CpuOps::Stock), ORIGIN, sequence, &mut bytes).expect("memory takes it");
    assert_eq!(bytes.len(), saved_bytes(ORIGIN, sequence));
    bytes
}

fn load(mut bytes: &[u8], origin: Origin, sequence: &mut Sequence) -> Result<()> {
    let n_bytes = bytes.len() as u64;
    let shape = sequence.shape().clone();
    SavedSequence::open(&mut bytes, n_bytes, origin, &[&shape])?.load_into(sequence)
}

fn kv_types() -> impl Strategy<Value = KvType> {
    let quantized = |bits, group_size| KvType::Quantized { bits, group_size };
    prop::sample::select(vec![
        KvType::F32,
        KvType::F16,
        KvType::Bf16,
        quantized(8, 64),
        quantized(8, 32),
        quantized(4, 64),
        quantized(4, 32),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_sequence_is_saved_alike_whoever_computes_with_it_and_however_long_it_may_become(
        kv_type in kv_types(), n_tokens in 0_usize..600, more in 0_usize..300,
        is_recurrent: bool,
    ) {
        let shapes = [n_tokens.max(1), n_tokens.max(1) + more].map(|n| match is_recurrent {
            true => recurrent(shape(kv_type, n)),
            false => shape(kv_type, n),
        });
        let first = filled(CpuOps::Kernels, &shapes[0], n_tokens);
        let expected = saved(&first);
        for cpu_ops in [CpuOps::Stock, CpuOps::Kernels] {
            let mut other = empty(cpu_ops, &shapes[1]);
            load(&expected, ORIGIN, &mut other).expect("loaded");
            prop_assert_eq!(other.tokens(), first.tokens());
            prop_assert!(saved(&other) == expected);
        }
    }

    #[test]
    fn damage_anywhere_is_noticed_before_anything_changes(
        at: prop::sample::Index, bit in 0_u32..8, cut: prop::sample::Index, is_cut: bool,
    ) {
        let shape = recurrent(shape(KvType::F16, 400));
        let mut bytes = saved(&filled(CpuOps::Kernels, &shape, 300));
        match is_cut {
            true => bytes.truncate(cut.index(bytes.len())),
            false => *at.get_mut(&mut bytes) ^= 1 << bit,
        }
        for cpu_ops in [CpuOps::Stock, CpuOps::Kernels] {
            let mut sequence = filled(cpu_ops, &shape, 20);
            let before = saved(&sequence);
            let error = load(&bytes, ORIGIN, &mut sequence).expect_err("damaged");
            let is_version = error.message().contains("version");
            let expected = if is_version { Status::Unsupported } else { Status::Format };
            prop_assert_eq!(error.status(), expected, "{}", error);
            prop_assert!(saved(&sequence) == before);
        }
    }
}

#[test]
fn chunks_cannot_trade_places_and_nothing_may_follow() {
    let shape = shape(KvType::F16, 600);
    let bytes = saved(&filled(CpuOps::Kernels, &shape, 512));
    let chunk = 256 * shape.bytes_per_token() + CHECKSUM_BYTES;
    let first = bytes.len() - 2 * chunk;
    let traded = [
        &bytes[..first],
        &bytes[first + chunk..],
        &bytes[first..first + chunk],
    ]
    .concat();
    let longer = [&bytes[..], &[0]].concat();
    for damaged in [traded, longer, Vec::new(), vec![0; 100]] {
        let mut sequence = empty(CpuOps::Kernels, &shape);
        let error = load(&damaged, ORIGIN, &mut sequence).expect_err("damaged");
        assert_eq!(error.status(), Status::Format, "{error}");
    }
}

#[test]
fn a_sequence_goes_only_where_it_belongs() {
    let bytes = saved(&filled(CpuOps::Kernels, &shape(KvType::F16, 300), 257));
    let other_model = Origin { model: 7, ..ORIGIN };
    let other_rotation = Origin {
        rotation: 1,
        ..ORIGIN
    };
    let q8 = KvType::Quantized {
        bits: 8,
        group_size: 32,
    };
    for (origin, shape, status, part) in [
        (
            other_model,
            shape(KvType::F16, 300),
            Status::InvalidArgument,
            "another model, 0123",
        ),
        (
            other_rotation,
            shape(KvType::F16, 300),
            Status::InvalidArgument,
            "n_ctx",
        ),
        (
            ORIGIN,
            shape(q8, 300),
            Status::InvalidArgument,
            "same kv_type",
        ),
        (
            ORIGIN,
            recurrent(shape(KvType::F16, 300)),
            Status::InvalidArgument,
            "another model",
        ),
        (
            ORIGIN,
            shape(KvType::F16, 256),
            Status::NoSpace,
            "257 tokens",
        ),
    ] {
        let mut sequence = empty(CpuOps::Kernels, &shape);
        let error = load(&bytes, origin, &mut sequence).expect_err("refused");
        assert_eq!(error.status(), status, "{error}");
        assert!(error.message().contains(part), "{error}");
        assert_eq!(sequence.length(), 0);
    }
}
