//! Products of one row of a weight matrix. `scalar` says what each of them
//! means; `avx2` does it with vectors, and sums in another order.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;

use super::float::Float;
use super::level::Level;

/// Groups of a quantized row: `scale * code + bias` per group.
#[derive(Clone, Copy)]
pub struct AffineRow<'a> {
    /// Codes of `bits` bits, least significant first.
    pub codes: &'a [u8],
    pub scales: &'a [u8],
    pub biases: &'a [u8],
    /// The format of scales and biases.
    pub float: Float,
    pub group_size: usize,
    /// 4 or 8.
    pub bits: usize,
}

impl AffineRow<'_> {
    fn n_groups(&self) -> usize {
        self.scales.len() / self.float.bytes()
    }
}

impl Level {
    /// The sum of `weights[i] * x[i]`, with `x.len()` packed weights.
    pub fn dot(self, float: Float, weights: &[u8], x: &[f32]) -> f32 {
        assert_eq!(weights.len(), x.len() * float.bytes());
        match self {
            Level::Scalar => scalar::dot(float, weights, x),
            // SAFETY: `detect` found the features; the lengths agree.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => unsafe { avx2::dot(float, weights, x) },
        }
    }

    /// The sum of `(scale * code[i] + bias) * x[i]`. `group_sums` are the sums of
    /// `x` over each group.
    pub fn affine_dot(self, row: &AffineRow<'_>, x: &[f32], group_sums: &[f32]) -> f32 {
        assert_affine(row, x.len());
        assert_eq!(group_sums.len(), row.n_groups());
        match self {
            Level::Scalar => scalar::affine_dot(row, x, group_sums),
            // SAFETY: as for `dot`; the sizes of the row's parts were checked.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => unsafe { avx2::affine_dot(row, x, group_sums) },
        }
    }

    /// Writes a row of floats as float32.
    pub fn widen(self, float: Float, weights: &[u8], out: &mut [f32]) {
        assert_eq!(weights.len(), out.len() * float.bytes());
        match self {
            Level::Scalar => scalar::widen(float, weights, out),
            // SAFETY: as for `dot`.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => unsafe { avx2::widen(float, weights, out) },
        }
    }

    /// Writes a quantized row as float32.
    pub fn dequantize(self, row: &AffineRow<'_>, out: &mut [f32]) {
        assert_affine(row, out.len());
        match self {
            Level::Scalar => scalar::dequantize(row, out),
            // SAFETY: as for `affine_dot`.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => unsafe { avx2::dequantize(row, out) },
        }
    }

    /// The products of one float32 row with four rows of activations, each
    /// `weights.len()` long and after one another.
    pub fn dot4(self, weights: &[f32], x: &[f32]) -> [f32; 4] {
        assert_eq!(x.len(), 4 * weights.len());
        match self {
            Level::Scalar => scalar::dot4(weights, x),
            // SAFETY: as for `dot`.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => unsafe { avx2::dot4(weights, x) },
        }
    }
}

fn assert_affine(row: &AffineRow<'_>, columns: usize) {
    assert!(matches!(row.bits, 4 | 8) && row.group_size.is_multiple_of(32));
    assert_eq!(row.n_groups() * row.group_size, columns);
    assert_eq!(row.biases.len(), row.scales.len());
    assert_eq!(row.codes.len(), columns * row.bits / 8);
}

#[cfg(test)]
mod tests;
