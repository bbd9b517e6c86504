//! NEON: four lanes.
//!
//! SAFETY of this file: every AArch64 processor has the instructions. Loads and
//! stores work at any alignment and stay inside of a checked slice.

use std::arch::aarch64::*;

use super::{Kernel, Lanes, TO_WHOLE, operators};
use crate::kernels::Float;

#[derive(Clone, Copy)]
struct Neon(float32x4_t);

#[target_feature(enable = "neon")]
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Neon>()
}

operators! { Neon:
    Add, add, vaddq_f32;
    Sub, sub, vsubq_f32;
    Mul, mul, vmulq_f32;
    Div, div, vdivq_f32;
}

impl Lanes for Neon {
    const N: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    fn read(float: Float, bytes: &[u8]) -> Self {
        let from = bytes[..Self::N * float.bytes()].as_ptr();
        // SAFETY: see the top of the file.
        Self(unsafe {
            match float {
                Float::F32 => vld1q_f32(from.cast()),
                Float::F16 => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.cast()))),
                Float::Bf16 => {
                    vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(from.cast()))))
                }
            }
        })
    }

    #[inline(always)]
    fn write(self, float: Float, bytes: &mut [u8]) {
        let to = bytes[..Self::N * float.bytes()].as_mut_ptr();
        // SAFETY: see the top of the file.
        unsafe {
            match float {
                Float::F32 => vst1q_f32(to.cast(), self.0),
                Float::F16 => vst1_u16(to.cast(), vreinterpret_u16_f16(vcvt_f16_f32(self.0))),
                Float::Bf16 => vst1_u16(to.cast(), to_bf16(self.0)),
            }
        }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { vfmaq_f32(term.0, self.0, factor.0) })
    }

    // The instructions for minima and maxima give NaN where either is one.
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.if_less(other, self, other)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        other.if_less(self, self, other)
    }

    #[inline(always)]
    fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { vbslq_f32(vcltq_f32(self.0, limit.0), then.0, otherwise.0) })
    }

    #[inline(always)]
    fn times_power_of_two(self, exponent: Self) -> Self {
        let biased = exponent + Self::splat(TO_WHOLE + 127.0);
        // SAFETY: see the top of the file.
        let power = unsafe { vshlq_n_u32::<23>(vreinterpretq_u32_f32(biased.0)) };
        // SAFETY: see the top of the file.
        self * Self(unsafe { vreinterpretq_f32_u32(power) })
    }

    #[inline(always)]
    fn dot_pairs(self, other: Self, term: Self) -> Self {
        let low = self.low_halves().mul_add(other.low_halves(), term);
        self.high_halves().mul_add(other.high_halves(), low)
    }

    #[inline(always)]
    fn keep(self, first: usize, end: usize) -> Self {
        const LANES: [u32; 4] = [0, 1, 2, 3];
        // SAFETY: see the top of the file.
        unsafe {
            let lanes = vld1q_u32(LANES.as_ptr());
            let from_first = vcgeq_u32(lanes, vdupq_n_u32(first.min(4) as u32));
            let before_end = vcltq_u32(lanes, vdupq_n_u32(end.min(4) as u32));
            let kept = vandq_u32(from_first, before_end);
            Self(vbslq_f32(kept, self.0, vdupq_n_f32(f32::NEG_INFINITY)))
        }
    }

    #[inline(always)]
    fn total(self) -> f32 {
        // SAFETY: see the top of the file.
        unsafe { vaddvq_f32(self.0) }
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: see the top of the file.
        unsafe { vmaxnmvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: see the top of the file; the caller has these words.
        unsafe {
            let [a, b, c, d] = [0, 1, 2, 3].map(|row| vld1q_f32(from.add(row * from_stride)));
            let even = |a, b| vreinterpretq_f64_f32(vtrn1q_f32(a, b));
            let odd = |a, b| vreinterpretq_f64_f32(vtrn2q_f32(a, b));
            let columns = [
                vtrn1q_f64(even(a, b), even(c, d)),
                vtrn1q_f64(odd(a, b), odd(c, d)),
                vtrn2q_f64(even(a, b), even(c, d)),
                vtrn2q_f64(odd(a, b), odd(c, d)),
            ];
            for (index, column) in columns.into_iter().enumerate() {
                vst1q_f32(to.add(index * to_stride), vreinterpretq_f32_f64(column));
            }
        }
    }
}

impl Neon {
    #[inline(always)]
    fn low_halves(self) -> Self {
        // SAFETY: see the top of the file.
        Self(unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(vreinterpretq_u32_f32(self.0))) })
    }

    #[inline(always)]
    fn high_halves(self) -> Self {
        // SAFETY: see the top of the file.
        unsafe {
            let halves = vandq_u32(vreinterpretq_u32_f32(self.0), vdupq_n_u32(0xffff_0000));
            Self(vreinterpretq_f32_u32(halves))
        }
    }
}

/// Rounds to the nearest, ties to even; a NaN keeps its sign and becomes quiet.
#[inline]
#[target_feature(enable = "neon")]
fn to_bf16(values: float32x4_t) -> uint16x4_t {
    let bits = vreinterpretq_u32_f32(values);
    let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
    let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
    let is_number = vceqq_f32(values, values);
    vshrn_n_u32::<16>(vbslq_u32(is_number, rounded, quiet))
}
