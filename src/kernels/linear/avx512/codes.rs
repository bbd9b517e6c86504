//! Codes times whole activations, one row after the other. SAFETY: see the top
//! of `avx512.rs`.

use std::arch::x86_64::*;

use super::{LANES, load_from, prefetch};
use crate::kernels::linear::codes::CodeRows;
use crate::kernels::linear::planes::Planes;

/// How 64 codes (with nibbles twice 64) come out of their bytes.
#[derive(Clone, Copy)]
struct Unpack {
    nibbles: bool,
    bytes: usize,
    /// The bytes of eight codes to each quarter of 32 bits.
    spread: __m512i,
    shifts: __m512i,
    mask: __m512i,
}

impl Unpack {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn new(bits: usize, nibbles: bool) -> Unpack {
        let (mut spread, mut shifts) = ([0_u8; 64], [0_u8; 64]);
        for (place, (spread, shift)) in spread.iter_mut().zip(&mut shifts).enumerate() {
            let (eight, code) = (place / 8, place % 8);
            *spread = if code < bits {
                (eight * bits + code) as u8
            } else {
                0
            };
            *shift = (code * bits) as u8;
        }
        let mask = if nibbles { 0xf } else { (1 << bits) - 1 };
        // SAFETY: the arrays are 64 bytes long.
        unsafe {
            Unpack {
                nibbles,
                bytes: if nibbles { 64 } else { 8 * bits },
                spread: _mm512_loadu_epi8(spread.as_ptr().cast()),
                shifts: _mm512_loadu_epi8(shifts.as_ptr().cast()),
                mask: _mm512_set1_epi8(mask as u8 as i8),
            }
        }
    }

    /// Codes of one chunk at `from`, of which `left` bytes are there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    unsafe fn load(&self, from: *const u8, left: usize) -> [__m512i; 2] {
        // SAFETY: only bytes that are there are read.
        let packed = unsafe {
            if left >= 64 {
                _mm512_loadu_epi8(from.cast())
            } else {
                _mm512_maskz_loadu_epi8(u64::MAX >> (64 - left), from.cast())
            }
        };
        if self.nibbles {
            let high = _mm512_srli_epi16::<4>(packed);
            [
                _mm512_and_si512(packed, self.mask),
                _mm512_and_si512(high, self.mask),
            ]
        } else {
            let spread = _mm512_permutexvar_epi8(self.spread, packed);
            let codes = _mm512_multishift_epi64_epi8(self.shifts, spread);
            [_mm512_and_si512(codes, self.mask), _mm512_setzero_si512()]
        }
    }
}

/// See `Level::multiply_codes`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c")]
pub unsafe fn multiply_codes(rows: &CodeRows<'_>, x: &Planes, out: &mut [f32]) {
    // SAFETY: the same contract.
    unsafe {
        match (x.order.nibbles, rows.table) {
            (true, None) => multiply_codes_in::<2, false>(rows, x, out),
            (true, Some(_)) => multiply_codes_in::<2, true>(rows, x, out),
            (false, _) => multiply_codes_in::<1, false>(rows, x, out),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c")]
unsafe fn multiply_codes_in<const UNITS: usize, const TABLE: bool>(
    rows: &CodeRows<'_>,
    x: &Planes,
    out: &mut [f32],
) {
    let codes = Codes::<UNITS, TABLE>::new(rows, x);
    let (n, n_rows) = (x.n(), rows.len());
    for row in 0..n_rows {
        let mut token = 0;
        while token < n {
            let out = &mut out[token * n_rows + row..];
            // SAFETY: the same contract.
            token += unsafe {
                match n - token {
                    4.. => put(codes.dot::<4>(rows, x, row, token), n_rows, out),
                    2.. => put(codes.dot::<2>(rows, x, row, token), n_rows, out),
                    _ => put(codes.dot::<1>(rows, x, row, token), n_rows, out),
                }
            };
        }
    }
}

/// Writes every `stride`th element; gives the number of products.
fn put<const N: usize>(products: [f32; N], stride: usize, out: &mut [f32]) -> usize {
    for (product, out) in products.iter().zip(out.iter_mut().step_by(stride)) {
        *out = *product;
    }
    N
}

/// What all rows of codes have in common. A chunk is UNITS vectors of 64 codes.
struct Codes<const UNITS: usize, const TABLE: bool> {
    unpack: Unpack,
    table: __m512i,
    /// The first column of each sum of a chunk; its group is this by group size.
    columns: __m512i,
    group_shift: __m128i,
}

impl<const UNITS: usize, const TABLE: bool> Codes<UNITS, TABLE> {
    const CHUNK: usize = 64 * UNITS;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn new(rows: &CodeRows<'_>, x: &Planes) -> Self {
        let table = match rows.table {
            // SAFETY: sixteen bytes.
            Some(table) => _mm512_broadcast_i32x4(unsafe { _mm_loadu_epi8(table.as_ptr().cast()) }),
            None => _mm512_setzero_si512(),
        };
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let columns_per_sum = _mm512_set1_epi32((Self::CHUNK / LANES) as i32);
        Codes {
            unpack: Unpack::new(rows.bits, UNITS == 2),
            table,
            columns: _mm512_mullo_epi32(lanes, columns_per_sum),
            group_shift: _mm_cvtsi32_si128(x.group_size.trailing_zeros() as i32),
        }
    }

    /// The products of a row with N rows of `x`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c")]
    unsafe fn dot<const N: usize>(
        &self,
        rows: &CodeRows<'_>,
        x: &Planes,
        row: usize,
        first: usize,
    ) -> [f32; N] {
        let mut sums = [_mm512_setzero_ps(); N];
        let mut codes = rows.row_codes(row).as_ptr();
        let mut left = rows.row_bytes;
        // SAFETY: see the top of the file; the planes' scales and sums are padded
        // to vectors, their bytes to chunks.
        unsafe {
            let mut planes = x.bytes.as_slice().as_ptr().add(first * x.row_bytes);
            for block in (0..rows.groups).step_by(LANES) {
                let mask = u16::MAX >> (LANES - (rows.groups - block).min(LANES));
                let scales = load_from(&rows.scales, row * rows.groups + block, mask);
                let biases = load_from(&rows.biases, row * rows.groups + block, mask);
                let mut factors = [_mm512_setzero_ps(); N];
                for token in 0..N {
                    let groups = (first + token) * x.groups_stride + block;
                    let x_scales = _mm512_loadu_ps(x.scales.as_ptr().add(groups));
                    let x_sums = _mm512_loadu_ps(x.sums.as_ptr().add(groups));
                    factors[token] = _mm512_mul_ps(scales, x_scales);
                    sums[token] = _mm512_fmadd_ps(biases, x_sums, sums[token]);
                }
                let mut columns = self.columns;
                for _ in 0..LANES * x.group_size / Self::CHUNK {
                    prefetch(codes);
                    let mut units = self.unpack.load(codes, left);
                    if TABLE {
                        units = units.map(|unit| _mm512_shuffle_epi8(self.table, unit));
                    }
                    let groups = _mm512_srl_epi32(columns, self.group_shift);
                    columns = _mm512_add_epi32(columns, _mm512_set1_epi32(Self::CHUNK as i32));
                    for token in 0..N {
                        let x = planes.add(token * x.row_bytes);
                        let plane = |x: *const i8| {
                            let mut sum = _mm512_setzero_si512();
                            for (index, unit) in units[..UNITS].iter().enumerate() {
                                let x = _mm512_loadu_epi8(x.add(index * 64));
                                sum = _mm512_dpbusd_epi32(sum, *unit, x);
                            }
                            sum
                        };
                        let high = _mm512_slli_epi32::<7>(plane(x));
                        let sum = _mm512_add_epi32(high, plane(x.add(Self::CHUNK)));
                        let factor = _mm512_permutexvar_ps(groups, factors[token]);
                        let sum = _mm512_cvtepi32_ps(sum);
                        sums[token] = _mm512_fmadd_ps(sum, factor, sums[token]);
                    }
                    planes = planes.add(2 * Self::CHUNK);
                    if left <= self.unpack.bytes {
                        break;
                    }
                    codes = codes.add(self.unpack.bytes);
                    left -= self.unpack.bytes;
                }
            }
        }
        sums.map(|sum| _mm512_reduce_add_ps(sum))
    }
}
