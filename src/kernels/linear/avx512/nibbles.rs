//! Codes of four bits times whole activations, in blocks of sixteen parts of
//! groups, each of which has a lane. SAFETY: see the top of `avx512.rs`.

use std::arch::x86_64::*;

use super::codes::{Parts, load_at_most_64, put};
use super::{LANES, prefetch};
use crate::kernels::linear::codes::CodeRows;
use crate::kernels::linear::planes::Planes;

/// The products of rows of codes with all of `x`, in parts of 16 or 32 columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
pub unsafe fn multiply(rows: &CodeRows<'_>, x: &Planes, part_size: usize, out: &mut [f32]) {
    // SAFETY: the same contract.
    unsafe {
        match (part_size, x.resolution.planes, rows.table) {
            (32, 1, None) => multiply_in::<4, 1, false>(rows, x, out),
            (32, _, None) => multiply_in::<4, 2, false>(rows, x, out),
            (32, 1, Some(_)) => multiply_in::<4, 1, true>(rows, x, out),
            (32, _, Some(_)) => multiply_in::<4, 2, true>(rows, x, out),
            (16, 2, Some(_)) => multiply_in::<2, 2, true>(rows, x, out),
            (size, planes, _) => unreachable!("{planes} planes in parts of {size}"),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn multiply_in<const WORDS: usize, const PLANES: usize, const TABLE: bool>(
    rows: &CodeRows<'_>,
    x: &Planes,
    out: &mut [f32],
) {
    let nibbles = Nibbles::<WORDS, PLANES, TABLE>::new(rows, x);
    let n_rows = rows.len();
    let n_in_pairs = match x.n() * x.row_bytes > NEAR_BYTES {
        true => n_rows / 2 * 2,
        false => 0,
    };
    // SAFETY: the same contract.
    unsafe {
        for row in (0..n_in_pairs).step_by(2) {
            nibbles.multiply_pair(rows, x, row, out);
        }
        for row in n_in_pairs..n_rows {
            nibbles.multiply_row(rows, x, row, out);
        }
    }
}

/// Activations that are in the first-level cache when the next row of weights comes.
/// With more of them, two rows at a time make one trip to the second level of two.
const NEAR_BYTES: usize = 24 << 10;

/// What all rows have in common. A part is WORDS words of eight codes; a block has
/// as many vectors of them.
struct Nibbles<const WORDS: usize, const PLANES: usize, const TABLE: bool> {
    parts: Parts,
    table: __m512i,
}

impl<const WORDS: usize, const PLANES: usize, const TABLE: bool> Nibbles<WORDS, PLANES, TABLE> {
    const BLOCK_BYTES: usize = 64 * WORDS;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn new(rows: &CodeRows<'_>, x: &Planes) -> Self {
        let table = match rows.table {
            // SAFETY: sixteen bytes.
            Some(table) => _mm512_broadcast_i32x4(unsafe { _mm_loadu_epi8(table.as_ptr().cast()) }),
            None => _mm512_setzero_si512(),
        };
        Nibbles {
            parts: Parts::new(rows, x),
            table,
        }
    }

    /// The products of a row with all of `x`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn multiply_row(&self, rows: &CodeRows<'_>, x: &Planes, row: usize, out: &mut [f32]) {
        let mut token = 0;
        while token < x.n() {
            // SAFETY: the same contract.
            token += unsafe {
                match x.n() - token {
                    8.. => self.dot::<8, 1>(rows, x, (row, token), out),
                    4.. => self.dot::<4, 1>(rows, x, (row, token), out),
                    2.. => self.dot::<2, 1>(rows, x, (row, token), out),
                    _ => self.dot::<1, 1>(rows, x, (row, token), out),
                }
            };
        }
    }

    /// The same of two rows, to the same bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn multiply_pair(&self, rows: &CodeRows<'_>, x: &Planes, row: usize, out: &mut [f32]) {
        let mut token = 0;
        while token < x.n() {
            // SAFETY: the same contract.
            token += unsafe {
                match x.n() - token {
                    4.. => self.dot::<4, 2>(rows, x, (row, token), out),
                    2.. => self.dot::<2, 2>(rows, x, (row, token), out),
                    _ => self.dot::<1, 2>(rows, x, (row, token), out),
                }
            };
        }
    }

    /// Writes the products of R rows with N rows of `x`; gives N.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn dot<const N: usize, const R: usize>(
        &self,
        rows: &CodeRows<'_>,
        x: &Planes,
        (row, first): (usize, usize),
        out: &mut [f32],
    ) -> usize {
        let mut sums = [[_mm512_setzero_ps(); R]; N];
        let whole_blocks = rows.row_bytes / Self::BLOCK_BYTES;
        // SAFETY: the same contract.
        unsafe {
            for block in 0..whole_blocks {
                self.add_block::<N, R, true>(rows, x, (row, first), block, &mut sums);
            }
            if whole_blocks < x.parts.div_ceil(LANES) {
                self.add_block::<N, R, false>(rows, x, (row, first), whole_blocks, &mut sums);
            }
        }
        for index in 0..R {
            let products = sums.map(|sums| _mm512_reduce_add_ps(sums[index]));
            let out = &mut out[first * rows.len() + row + index..];
            put(products, rows.len(), out);
        }
        N
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn add_block<const N: usize, const R: usize, const WHOLE: bool>(
        &self,
        rows: &CodeRows<'_>,
        x: &Planes,
        (row, first): (usize, usize),
        block: usize,
        sums: &mut [[__m512; R]; N],
    ) {
        // SAFETY: see the top of the file; the planes' scales and sums are padded
        // to vectors, their bytes to blocks.
        unsafe {
            let mut words = [[[_mm512_setzero_si512(); 2]; WORDS]; R];
            let (mut scales, mut biases) = ([_mm512_setzero_ps(); R], [_mm512_setzero_ps(); R]);
            for index in 0..R {
                let row = row + index;
                words[index] = self.load::<WHOLE>(rows.row_codes(row), block);
                scales[index] = self.parts.read::<WHOLE>(&rows.scales, row, block);
                biases[index] = self.parts.read::<WHOLE>(&rows.biases, row, block);
            }
            let block_bytes = 2 * PLANES * Self::BLOCK_BYTES;
            let bytes = x.bytes.as_slice().as_ptr();
            let mut bytes = bytes.add(first * x.row_bytes + block * block_bytes);
            let mut parts = first * x.parts_stride + block * LANES;
            for sums in sums {
                let wholes = Self::multiply(&words, bytes);
                let x_scales = _mm512_loadu_ps(x.scales.as_ptr().add(parts));
                let x_sums = _mm512_loadu_ps(x.sums.as_ptr().add(parts));
                for index in 0..R {
                    let sum = &mut sums[index];
                    let scales = _mm512_mul_ps(scales[index], x_scales);
                    *sum = _mm512_fmadd_ps(biases[index], x_sums, *sum);
                    *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(wholes[index]), scales, *sum);
                }
                bytes = bytes.wrapping_add(x.row_bytes);
                parts += x.parts_stride;
            }
        }
    }

    /// A block's codes, of each word the even columns and the odd ones.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn load<const WHOLE: bool>(&self, codes: &[u8], block: usize) -> [[__m512i; 2]; WORDS] {
        let start = block * Self::BLOCK_BYTES;
        let mut packed = [_mm512_setzero_si512(); WORDS];
        for (index, packed) in packed.iter_mut().enumerate() {
            let from = codes.as_ptr().wrapping_add(start + index * 64);
            prefetch(from);
            let left = codes.len().saturating_sub(start + index * 64);
            // SAFETY: the rest of the row is there.
            *packed = unsafe { load_at_most_64(from, if WHOLE { 64 } else { left }) };
        }
        let mask = _mm512_set1_epi8(0xf);
        let mut words = [[_mm512_setzero_si512(); 2]; WORDS];
        for (packed, [even, odd]) in part_by_lane(packed).into_iter().zip(&mut words) {
            *even = _mm512_and_si512(packed, mask);
            *odd = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), mask);
            if TABLE {
                *even = _mm512_shuffle_epi8(self.table, *even);
                *odd = _mm512_shuffle_epi8(self.table, *odd);
            }
        }
        words
    }

    /// A block's codes of R rows times the planes of a row of activations, part by part.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn multiply<const R: usize>(
        words: &[[[__m512i; 2]; WORDS]; R],
        planes: *const i8,
    ) -> [__m512i; R] {
        let mut wholes = [_mm512_setzero_si512(); R];
        for plane in 0..PLANES {
            let mut sums = [[_mm512_setzero_si512(); 2]; R];
            for word in 0..WORDS {
                for half in 0..2 {
                    let vector = (plane * WORDS + word) * 2 + half;
                    // SAFETY: see the top of the file.
                    let x = unsafe { _mm512_loadu_epi8(planes.add(vector * 64)) };
                    for (sums, words) in sums.iter_mut().zip(words) {
                        sums[half] = _mm512_dpbusd_epi32(sums[half], words[word][half], x);
                    }
                }
            }
            for (whole, sums) in wholes.iter_mut().zip(sums) {
                let sum = _mm512_add_epi32(sums[0], sums[1]);
                *whole = match plane {
                    0 => sum,
                    _ => _mm512_add_epi32(_mm512_slli_epi32::<7>(*whole), sum),
                };
            }
        }
        wholes
    }
}

/// Vectors of words of parts after one another as vectors in which each part has a
/// lane, see `Order::Parts`.
#[inline]
#[target_feature(enable = "avx512f")]
fn part_by_lane<const WORDS: usize>(vectors: [__m512i; WORDS]) -> [__m512i; WORDS] {
    let mut words = vectors;
    match (vectors.as_slice(), words.as_mut_slice()) {
        (&[a, b, c, d], [first, second, third, fourth]) => {
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            *first = _mm512_unpacklo_epi64(ab, cd);
            *second = _mm512_unpackhi_epi64(ab, cd);
            let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            *third = _mm512_unpacklo_epi64(ab, cd);
            *fourth = _mm512_unpackhi_epi64(ab, cd);
        }
        (&[a, b], [first, second]) => {
            let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
            *first = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b));
            *second = _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b));
        }
        _ => unreachable!("parts of two words or four"),
    }
    words
}
