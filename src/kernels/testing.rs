//! Values for the tests of kernels.

use super::float::Float;
use super::floats::Floats;

pub const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];

/// Deterministic values between -2 and 2 from a seed.
pub fn values(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 4.0 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

/// Packed floats that begin `shift` bytes into an allocation.
pub struct Packed {
    bytes: Vec<u8>,
    shift: usize,
    float: Float,
}

impl Packed {
    /// The values, rounded.
    pub fn of(float: Float, shift: usize, values: &[f32]) -> Packed {
        let mut bytes = vec![0; shift + values.len() * float.bytes()];
        for (index, value) in values.iter().enumerate() {
            float.set(&mut bytes[shift..], index, *value);
        }
        Packed {
            bytes,
            shift,
            float,
        }
    }

    /// Place for results, filled with a value that no test expects.
    pub fn unset(float: Float, shift: usize, count: usize) -> Packed {
        Packed::of(float, shift, &vec![-77.0; count])
    }

    pub fn floats(&self) -> Floats<'_> {
        Floats::new(self.float, &self.bytes[self.shift..])
    }

    pub fn floats_mut(&mut self) -> super::FloatsMut<'_> {
        super::FloatsMut::new(self.float, &mut self.bytes[self.shift..])
    }

    pub fn f64s(&self) -> Vec<f64> {
        let bytes = &self.bytes[self.shift..];
        (0..bytes.len() / self.float.bytes())
            .map(|index| f64::from(self.float.get(bytes, index)))
            .collect()
    }
}

/// Half a unit in the last place, relative; half the smallest subnormal.
pub fn rounding(float: Float) -> (f64, f64) {
    let (bits, smallest) = match float {
        Float::F32 => (24, -149),
        Float::F16 => (11, -24),
        Float::Bf16 => (8, -133),
    };
    (2f64.powi(-bits), 2f64.powi(smallest - 1))
}

/// Whether `found`, rounded to `float`, is `expected` up to an error before the
/// rounding: `relative` to it, and `absolute`.
pub fn is_close(float: Float, found: f64, expected: f64, (relative, absolute): (f64, f64)) -> bool {
    let largest = match float {
        Float::F16 => 65_520.0,
        Float::F32 | Float::Bf16 => f64::from(f32::MAX),
    };
    if expected.is_nan() || found.is_nan() {
        return expected.is_nan() && found.is_nan();
    }
    if expected.abs() > largest * 0.99 || found.is_infinite() {
        return found.abs() >= 0.98 * largest && found.signum() == expected.signum();
    }
    let (unit, smallest) = rounding(float);
    let allowed = (relative + unit) * expected.abs() + absolute + smallest;
    (found - expected).abs() <= allowed * (1.0 + 1e-9)
}

/// Fails with the first element that is not close, see [`is_close`].
#[track_caller]
pub fn assert_all_close(found: &Packed, expected: &[f64], errors: (f64, f64)) {
    let found_values = found.f64s();
    assert_eq!(found_values.len(), expected.len());
    for (index, (value, expected)) in found_values.iter().zip(expected).enumerate() {
        assert!(
            is_close(found.float, *value, *expected, errors),
            "element {index} of {}: {value:e} instead of {expected:e}",
            found_values.len()
        );
    }
}

/// `erfc(x)` for `x >= 0` in float64: the Taylor series, then the continued
/// fraction (Abramowitz and Stegun 7.1.6 and 7.1.14).
fn erfc(x: f64) -> f64 {
    let root = std::f64::consts::PI.sqrt();
    if x < 2.5 {
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - 2.0 / root * (-x * x).exp() * sum;
    }
    let fraction = (1..200)
        .rev()
        .fold(x, |rest, n| x + f64::from(n) / 2.0 / rest);
    (-x * x).exp() / root / fraction
}

/// `(1 + erf(x / sqrt 2)) / 2`, without cancellation.
pub fn normal_cdf_f64(x: f64) -> f64 {
    let tail = erfc(x.abs() / 2f64.sqrt()) / 2.0;
    if x < 0.0 { tail } else { 1.0 - tail }
}
