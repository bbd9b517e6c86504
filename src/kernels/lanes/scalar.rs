//! Four lanes in plain Rust: what the operations mean.

use super::{Lanes, TO_WHOLE};
use crate::kernels::Float;

#[derive(Clone, Copy)]
pub struct Plain([f32; 4]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Plain(std::array::from_fn(|i| operation(self.0[i], other.0[i])))
    }
}

macro_rules! operators {
    ($($operator:ident, $method:ident;)*) => {
        $(impl std::ops::$operator for Plain {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.zip(other, |a, b| std::ops::$operator::$method(a, b))
            }
        })*
    };
}

operators! {
    Add, add;
    Sub, sub;
    Mul, mul;
    Div, div;
}

impl std::ops::Neg for Plain {
    type Output = Self;

    #[inline(always)]
    fn neg(self) -> Self {
        Plain(self.0.map(|x| -x))
    }
}

impl Lanes for Plain {
    const N: usize = 4;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Plain([value; 4])
    }

    #[inline(always)]
    fn read(float: Float, bytes: &[u8]) -> Self {
        Plain(std::array::from_fn(|i| float.get(bytes, i)))
    }

    #[inline(always)]
    fn write(self, float: Float, bytes: &mut [u8]) {
        for (index, value) in self.0.into_iter().enumerate() {
            float.set(bytes, index, value);
        }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // Fused, it would be a slow library call where the processor cannot.
        self * factor + term
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        Plain(std::array::from_fn(|i| {
            if self.0[i] < limit.0[i] {
                then.0[i]
            } else {
                otherwise.0[i]
            }
        }))
    }

    #[inline(always)]
    fn times_power_of_two(self, exponent: Self) -> Self {
        let biased = exponent + Self::splat(TO_WHOLE + 127.0);
        self.zip(biased, |x, biased| {
            x * f32::from_bits(biased.to_bits() << 23)
        })
    }

    #[inline(always)]
    fn dot_pairs(self, other: Self, term: Self) -> Self {
        let low = |x: f32| f32::from_bits(x.to_bits() << 16);
        let high = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        self.zip(other, |a, b| low(a) * low(b) + high(a) * high(b)) + term
    }

    #[inline(always)]
    fn keep(self, first: usize, end: usize) -> Self {
        Plain(std::array::from_fn(|i| {
            if (first..end).contains(&i) {
                self.0[i]
            } else {
                f32::NEG_INFINITY
            }
        }))
    }

    #[inline(always)]
    fn total(self) -> f32 {
        self.0.into_iter().sum()
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for (row, column) in (0..4).flat_map(|row| (0..4).map(move |column| (row, column))) {
            // SAFETY: the caller has these words, at any alignment.
            unsafe {
                let word = from.add(row * from_stride + column).read_unaligned();
                to.add(column * to_stride + row).write_unaligned(word);
            }
        }
    }
}
