//! NEON: four columns at a time; products of bytes with the instructions for them
//! or without.
//!
//! SAFETY of this file: every AArch64 processor has NEON; functions that need more
//! say so. Slices and pointers have the sizes that the comments name, at any
//! alignment.

use std::arch::aarch64::*;
use std::arch::asm;

use super::codes::CodeRows;
use super::panels::PANEL;
use super::planes::{Order, Planes};
use super::scalar;
use super::tiles::Tile;
use crate::kernels::float::Float;
use crate::kernels::floats::Floats;
use crate::kernels::quantized::{Unpacker, load_padded};

const LANES: usize = 4;
/// Codes that are multiplied at once.
pub const UNIT: usize = 16;

/// Bytes times bytes, sixteen at a time.
trait ByteProducts {
    /// Adds the products of four consecutive bytes to each sum.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn add(sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;
}

/// With instructions that every AArch64 processor has. `b` is above -128.
struct Widening;
/// With those of `Level::NeonDot`.
struct Dot;

impl ByteProducts for Widening {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // Four pairs of products by lane: at most 128 * 127 each, so that 16 bits
        // hold the sums of two.
        let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
        let high = vmull_high_s8(a, b);
        vaddq_s32(sums, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
    }
}

impl ByteProducts for Dot {
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn add(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: computes from registers to a register.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
                sums = inout(vreg) sums,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

/// See `Level::multiply_codes`.
#[target_feature(enable = "neon")]
pub fn multiply_codes(rows: &CodeRows<'_>, x: &Planes, out: &mut [f32]) {
    // SAFETY: the instructions are there.
    unsafe { multiply_all::<Widening>(rows, x, out) }
}

/// The same for `Level::NeonDot`.
#[target_feature(enable = "neon,dotprod")]
pub fn multiply_codes_dot(rows: &CodeRows<'_>, x: &Planes, out: &mut [f32]) {
    // SAFETY: the instructions are there.
    unsafe { multiply_all::<Dot>(rows, x, out) }
}

/// How the codes of a chunk, which are UNITS vectors, come out of their bytes.
struct Chunks<F> {
    bytes: usize,
    /// What is missing in codes that had to become signed.
    shift: f32,
    /// Makes zeros of bytes that are not there.
    load: F,
}

#[inline(always)]
unsafe fn multiply_all<B: ByteProducts>(rows: &CodeRows<'_>, x: &Planes, out: &mut [f32]) {
    // SAFETY: see the top of the file; the table is sixteen bytes.
    unsafe {
        let nibbles = |codes: &[u8]| {
            let pairs = load_padded(codes);
            [vandq_u8(pairs, vdupq_n_u8(0xf)), vshrq_n_u8::<4>(pairs)]
        };
        let (bits, shift) = (rows.bits, 0.0);
        match (x.order, rows.table) {
            (Order::Nibbles { .. }, None) => {
                let load = |codes: &[u8]| nibbles(codes).map(|unit| vreinterpretq_s8_u8(unit));
                let bytes = UNIT;
                multiply_rows::<B, _, 2>(rows, x, &Chunks { bytes, shift, load }, out);
            }
            (Order::Nibbles { .. }, Some(table)) => {
                let table = vld1q_s8(table.as_ptr().cast());
                let load = |codes: &[u8]| nibbles(codes).map(|unit| vqtbl1q_s8(table, unit));
                let bytes = UNIT;
                multiply_rows::<B, _, 2>(rows, x, &Chunks { bytes, shift, load }, out);
            }
            _ if bits == 8 => {
                let sign = vdupq_n_u8(0x80);
                let load = |codes: &[u8]| [vreinterpretq_s8_u8(veorq_u8(load_padded(codes), sign))];
                let (bytes, shift) = (UNIT, 128.0);
                multiply_rows::<B, _, 1>(rows, x, &Chunks { bytes, shift, load }, out);
            }
            _ => {
                let unpacker = Unpacker::new(bits);
                let load = |codes: &[u8]| [vreinterpretq_s8_u8(unpacker.bytes(codes))];
                let bytes = UNIT * bits / 8;
                multiply_rows::<B, _, 1>(rows, x, &Chunks { bytes, shift, load }, out);
            }
        }
    }
}

#[inline(always)]
unsafe fn multiply_rows<B: ByteProducts, F, const UNITS: usize>(
    rows: &CodeRows<'_>,
    x: &Planes,
    chunks: &Chunks<F>,
    out: &mut [f32],
) where
    F: Fn(&[u8]) -> [int8x16_t; UNITS],
{
    for row in 0..rows.len() {
        let mut token = 0;
        while token < x.n() {
            let place = (row, token);
            // SAFETY: the same contract.
            token += unsafe {
                match (x.resolution.planes, x.n() - token) {
                    (1, 4..) => multiply_row::<B, F, UNITS, 1, 4>(rows, x, chunks, place, out),
                    (1, 2..) => multiply_row::<B, F, UNITS, 1, 2>(rows, x, chunks, place, out),
                    (1, _) => multiply_row::<B, F, UNITS, 1, 1>(rows, x, chunks, place, out),
                    (_, 4..) => multiply_row::<B, F, UNITS, 2, 4>(rows, x, chunks, place, out),
                    (_, 2..) => multiply_row::<B, F, UNITS, 2, 2>(rows, x, chunks, place, out),
                    (_, _) => multiply_row::<B, F, UNITS, 2, 1>(rows, x, chunks, place, out),
                }
            };
        }
    }
}

/// The products of a row of codes with N rows of `x` from `first` on; gives N.
#[inline(always)]
unsafe fn multiply_row<
    B: ByteProducts,
    F,
    const UNITS: usize,
    const PLANES: usize,
    const N: usize,
>(
    rows: &CodeRows<'_>,
    x: &Planes,
    chunks: &Chunks<F>,
    (row, first): (usize, usize),
    out: &mut [f32],
) -> usize
where
    F: Fn(&[u8]) -> [int8x16_t; UNITS],
{
    let chunk = UNITS * UNIT;
    // Sums are those of a part, or of two that share a chunk.
    let parts_per_sum = (chunk / x.resolution.part_size).max(1);
    let chunks_per_sum = (x.resolution.part_size / chunk).max(1);
    let parts_per_group = x.parts / rows.groups;
    let (scales, biases) = (
        rows.scales.row(row, rows.groups),
        rows.biases.row(row, rows.groups),
    );
    let mut codes = rows.row_codes(row);
    let mut planes = x.bytes.as_slice()[first * x.row_bytes..].as_ptr();
    // SAFETY: see the top of the file; scales and sums of `x` are padded to
    // vectors, planes to chunks.
    unsafe {
        let mut sums = [vdupq_n_f32(0.0); N];
        for block in (0..x.parts).step_by(LANES) {
            let scales = load_parts(&scales, block, parts_per_group);
            let biases = load_parts(&biases, block, parts_per_group);
            let biases = vfmaq_n_f32(biases, scales, chunks.shift);
            let mut factors = [[0.0; LANES]; N];
            for (token, factors) in factors.iter_mut().enumerate() {
                let parts = (first + token) * x.parts_stride + block;
                let x_scales = vld1q_f32(x.scales.as_ptr().add(parts));
                let x_sums = vld1q_f32(x.sums.as_ptr().add(parts));
                vst1q_f32(factors.as_mut_ptr(), vmulq_f32(scales, x_scales));
                sums[token] = vfmaq_f32(sums[token], biases, x_sums);
            }
            for part in (0..LANES).step_by(parts_per_sum) {
                if codes.is_empty() {
                    break;
                }
                let mut wholes = [[vdupq_n_s32(0); PLANES]; N];
                for _ in 0..chunks_per_sum {
                    let units = (chunks.load)(codes);
                    for (token, wholes) in wholes.iter_mut().enumerate() {
                        let mut x = planes.add(token * x.row_bytes);
                        for whole in wholes {
                            for unit in units {
                                *whole = B::add(*whole, unit, vld1q_s8(x));
                                x = x.add(UNIT);
                            }
                        }
                    }
                    codes = codes.get(chunks.bytes..).unwrap_or_default();
                    planes = planes.add(PLANES * chunk);
                }
                for (token, wholes) in wholes.into_iter().enumerate() {
                    let mut whole = wholes[0];
                    if PLANES == 2 {
                        whole = vaddq_s32(vshlq_n_s32::<7>(whole), wholes[1]);
                    }
                    let factor = vcombine_f32(
                        vdup_n_f32(factors[token][part]),
                        vdup_n_f32(factors[token][(part + parts_per_sum - 1) % LANES]),
                    );
                    sums[token] = vfmaq_f32(sums[token], vcvtq_f32_s32(whole), factor);
                }
            }
        }
        for (token, sum) in sums.into_iter().enumerate() {
            out[(first + token) * rows.len() + row] = vaddvq_f32(sum);
        }
    }
    N
}

/// What four parts from `block` on have of their groups' floats.
#[inline]
#[target_feature(enable = "neon")]
fn load_parts(floats: &Floats<'_>, block: usize, parts_per_group: usize) -> float32x4_t {
    let groups = load_at_most_4(floats, block / parts_per_group);
    match parts_per_group {
        1 => groups,
        2 => vzip1q_f32(groups, groups),
        _ => vdupq_laneq_f32::<0>(groups),
    }
}

/// Four floats from `first` on, with zeros behind the last.
#[inline]
#[target_feature(enable = "neon")]
fn load_at_most_4(floats: &Floats<'_>, first: usize) -> float32x4_t {
    if first + LANES <= floats.len() {
        let at = first * floats.float().bytes();
        // SAFETY: four elements are there.
        return unsafe { load(floats.float(), floats.bytes()[at..].as_ptr()) };
    }
    let mut values = [0.0; LANES];
    for (index, value) in (first..floats.len()).zip(&mut values) {
        *value = floats.get(index);
    }
    // SAFETY: four elements are there.
    unsafe { vld1q_f32(values.as_ptr()) }
}

/// The sum of `weights[i] * x[i]` with `x.len()` packed weights.
#[target_feature(enable = "neon")]
pub fn dot(float: Float, weights: &[u8], x: &[f32]) -> f32 {
    const UNROLL: usize = 4;
    let whole = x.len() / (UNROLL * LANES) * (UNROLL * LANES);
    let step = LANES * float.bytes();
    let mut sums = [vdupq_n_f32(0.0); UNROLL];
    for column in (0..whole).step_by(UNROLL * LANES) {
        for (part, sum) in sums.iter_mut().enumerate() {
            // SAFETY: columns up to `whole` are there.
            unsafe {
                let w = weights.as_ptr().add(column * float.bytes() + part * step);
                let x = vld1q_f32(x.as_ptr().add(column + part * LANES));
                *sum = vfmaq_f32(*sum, load(float, w), x);
            }
        }
    }
    let [a, b, c, d] = sums;
    let sum = vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
    sum + scalar::dot(float, &weights[whole * float.bytes()..], &x[whole..])
}

/// The products of a row with four rows of `x` after one another.
#[target_feature(enable = "neon")]
pub fn dot4(weights: &[f32], x: &[f32]) -> [f32; 4] {
    let columns = weights.len();
    let whole = columns / LANES * LANES;
    let mut sums = [vdupq_n_f32(0.0); 4];
    for column in (0..whole).step_by(LANES) {
        // SAFETY: columns up to `whole` are there, in each of four rows.
        unsafe {
            let w = vld1q_f32(weights.as_ptr().add(column));
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = vfmaq_f32(*sum, w, vld1q_f32(x.as_ptr().add(row * columns + column)));
            }
        }
    }
    std::array::from_fn(|row| {
        let rest = &x[row * columns + whole..(row + 1) * columns];
        let products = weights[whole..].iter().zip(rest).map(|(w, x)| w * x);
        vaddvq_f32(sums[row]) + products.sum::<f32>()
    })
}

/// Rows of a tile.
pub const TILE_ROWS: usize = 6;

/// One panel of sixteen.
///
/// # Safety
/// What the tile describes is there.
#[target_feature(enable = "neon")]
pub unsafe fn tile_f32(tile: &Tile) {
    const VECTORS: usize = PANEL / LANES;
    // SAFETY: the caller's words.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); VECTORS]; TILE_ROWS];
        for word in 0..tile.words {
            let x: *const f32 = tile.panel.add(word * PANEL).cast();
            let x: [_; VECTORS] = std::array::from_fn(|part| vld1q_f32(x.add(part * LANES)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let w = *tile.weights.add(row * tile.weights_stride + word).cast();
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = vfmaq_n_f32(*sum, x, w);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (part, sum) in sums.into_iter().enumerate() {
                let out = tile.out.add(row * PANEL + part * LANES);
                vst1q_f32(out, vaddq_f32(vld1q_f32(out), sum));
            }
        }
    }
}

/// Four packed floats.
///
/// # Safety
/// They are there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(float: Float, from: *const u8) -> float32x4_t {
    // SAFETY: the caller's elements.
    unsafe {
        match float {
            Float::F32 => vld1q_f32(from.cast()),
            Float::F16 => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.cast()))),
            Float::Bf16 => {
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(from.cast()))))
            }
        }
    }
}
