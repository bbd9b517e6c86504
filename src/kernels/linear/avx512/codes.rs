//! Codes times whole activations, one row after the other. SAFETY: see the top
//! of `avx512.rs`.

use std::arch::x86_64::*;

use super::{LANES, load_from, prefetch};
use crate::kernels::floats::Floats;
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
        match (x.order.nibbles, rows.table, x.resolution.planes) {
            (true, None, 1) => multiply_codes_in::<2, 1, false>(rows, x, out),
            (true, None, _) => multiply_codes_in::<2, 2, false>(rows, x, out),
            (true, Some(_), 1) => multiply_codes_in::<2, 1, true>(rows, x, out),
            (true, Some(_), _) => multiply_codes_in::<2, 2, true>(rows, x, out),
            (false, _, 1) => multiply_codes_in::<1, 1, false>(rows, x, out),
            (false, _, _) => multiply_codes_in::<1, 2, false>(rows, x, out),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c")]
unsafe fn multiply_codes_in<const UNITS: usize, const PLANES: usize, const TABLE: bool>(
    rows: &CodeRows<'_>,
    x: &Planes,
    out: &mut [f32],
) {
    let codes = Codes::<UNITS, PLANES, TABLE>::new(rows, x);
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

/// What all rows of codes have in common. A chunk is UNITS vectors of 64 codes,
/// multiplied with as many vectors of each of PLANES.
struct Codes<const UNITS: usize, const PLANES: usize, const TABLE: bool> {
    unpack: Unpack,
    table: __m512i,
    /// The first column of each sum of a chunk; this by `part_size` is its part.
    columns: __m512i,
    part_shift: __m128i,
    parts_per_group: usize,
    /// The group of each of sixteen parts.
    group_of_part: __m512i,
}

impl<const UNITS: usize, const PLANES: usize, const TABLE: bool> Codes<UNITS, PLANES, TABLE> {
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
        let shift = |by: usize| _mm_cvtsi32_si128(by.trailing_zeros() as i32);
        let parts_per_group = x.parts / rows.groups;
        Codes {
            unpack: Unpack::new(rows.bits, UNITS == 2),
            table,
            columns: _mm512_mullo_epi32(lanes, columns_per_sum),
            part_shift: shift(x.resolution.part_size),
            parts_per_group,
            group_of_part: _mm512_srl_epi32(lanes, shift(parts_per_group)),
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
            for block in (0..x.parts).step_by(LANES) {
                let scales = self.of_parts(&rows.scales, rows.groups, row, block);
                let biases = self.of_parts(&rows.biases, rows.groups, row, block);
                let mut factors = [_mm512_setzero_ps(); N];
                for token in 0..N {
                    let parts = (first + token) * x.parts_stride + block;
                    let x_scales = _mm512_loadu_ps(x.scales.as_ptr().add(parts));
                    let x_sums = _mm512_loadu_ps(x.sums.as_ptr().add(parts));
                    factors[token] = _mm512_mul_ps(scales, x_scales);
                    sums[token] = _mm512_fmadd_ps(biases, x_sums, sums[token]);
                }
                let mut columns = self.columns;
                for _ in 0..LANES * x.resolution.part_size / Self::CHUNK {
                    prefetch(codes);
                    let mut units = self.unpack.load(codes, left);
                    if TABLE {
                        units = units.map(|unit| _mm512_shuffle_epi8(self.table, unit));
                    }
                    let parts = _mm512_srl_epi32(columns, self.part_shift);
                    columns = _mm512_add_epi32(columns, _mm512_set1_epi32(Self::CHUNK as i32));
                    for token in 0..N {
                        let whole = Self::multiply(&units, planes.add(token * x.row_bytes));
                        let factor = _mm512_permutexvar_ps(parts, factors[token]);
                        let whole = _mm512_cvtepi32_ps(whole);
                        sums[token] = _mm512_fmadd_ps(whole, factor, sums[token]);
                    }
                    planes = planes.add(PLANES * Self::CHUNK);
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

    /// For each of sixteen parts from `block` on what its group has in a row, or
    /// zero behind the last.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn of_parts(
        &self,
        floats: &Floats<'_>,
        groups: usize,
        row: usize,
        block: usize,
    ) -> __m512 {
        let first = block / self.parts_per_group;
        let mask = u16::MAX >> (LANES - (groups - first).min(LANES / self.parts_per_group));
        // SAFETY: the row has so many groups.
        let of_groups = unsafe { load_from(floats, row * groups + first, mask) };
        _mm512_permutexvar_ps(self.group_of_part, of_groups)
    }

    /// A chunk's codes times the planes of a row of activations.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn multiply(units: &[__m512i; 2], planes: *const i8) -> __m512i {
        let mut whole = _mm512_setzero_si512();
        for plane in 0..PLANES {
            if plane > 0 {
                whole = _mm512_slli_epi32::<7>(whole);
            }
            for (index, unit) in units[..UNITS].iter().enumerate() {
                // SAFETY: see the top of the file.
                let x = unsafe { _mm512_loadu_epi8(planes.add(plane * Self::CHUNK + index * 64)) };
                whole = _mm512_dpbusd_epi32(whole, *unit, x);
            }
        }
        whole
    }
}
