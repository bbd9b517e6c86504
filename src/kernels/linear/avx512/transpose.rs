//! Panels of sums, turned. SAFETY: see the top of `avx512.rs`.

use std::arch::x86_64::*;

use super::LANES;
use crate::kernels::linear::scalar;

/// `[rows, 16]` -> `[16, rows]`, 16 rows at a time.
#[target_feature(enable = "avx512f,avx512dq")]
pub unsafe fn transpose_panel(from: &[f32], to: &mut [f32]) {
    let n_rows = from.len() / LANES;
    let whole = n_rows / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        let mut square = [_mm512_setzero_ps(); LANES];
        for (row, vector) in square.iter_mut().enumerate() {
            // SAFETY: see the top of the file; the row is one of `from`.
            *vector = unsafe { _mm512_loadu_ps(from.as_ptr().add((first + row) * LANES)) };
        }
        for (column, vector) in transpose(square).into_iter().enumerate() {
            // SAFETY: as above; columns have `n_rows` elements each.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr().add(column * n_rows + first), vector) };
        }
    }
    scalar::transpose_panel(from, to, whole);
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn transpose(rows: [__m512; LANES]) -> [__m512; LANES] {
    let mut pairs = rows;
    for i in (0..LANES).step_by(2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    // Afterwards vector 4 * i + j has four rows of column 4 * k + j in its quarter k.
    let mut fours = pairs.map(|pair| _mm512_castps_pd(pair));
    for i in (0..LANES).step_by(4) {
        let [a, b, c, d] = [0, 1, 2, 3].map(|j| _mm512_castps_pd(pairs[i + j]));
        fours[i] = _mm512_unpacklo_pd(a, c);
        fours[i + 1] = _mm512_unpackhi_pd(a, c);
        fours[i + 2] = _mm512_unpacklo_pd(b, d);
        fours[i + 3] = _mm512_unpackhi_pd(b, d);
    }
    let fours = fours.map(|four| _mm512_castpd_ps(four));
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut columns = rows;
    for j in 0..4 {
        let [a, b, c, d] = [0, 4, 8, 12].map(|i| fours[i + j]);
        let even = [
            _mm512_shuffle_f32x4::<EVEN>(a, b),
            _mm512_shuffle_f32x4::<EVEN>(c, d),
        ];
        let odd = [
            _mm512_shuffle_f32x4::<ODD>(a, b),
            _mm512_shuffle_f32x4::<ODD>(c, d),
        ];
        columns[j] = _mm512_shuffle_f32x4::<EVEN>(even[0], even[1]);
        columns[8 + j] = _mm512_shuffle_f32x4::<ODD>(even[0], even[1]);
        columns[4 + j] = _mm512_shuffle_f32x4::<EVEN>(odd[0], odd[1]);
        columns[12 + j] = _mm512_shuffle_f32x4::<ODD>(odd[0], odd[1]);
    }
    columns
}
