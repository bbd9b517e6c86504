//! AVX-512 with VBMI, VNNI and BF16.
//!
//! SAFETY of this file: every function needs `Level::Avx512`, and slices and
//! pointers of the sizes that its comment names. All loads are unaligned loads.

use std::arch::x86_64::*;

use super::codes::CodeRows;
use super::planes::{LARGEST, Planes, inverse, sum_of};
use super::tiles::{PANEL, Tile};
use crate::kernels::float::Float;
use crate::kernels::floats::Floats;

/// Floats in a vector, and groups whose scales are read at once.
const LANES: usize = 16;

/// Asks for weights that follow those at `from`. The processor's own prefetching
/// ends at each page of 4 KiB, and the first-level cache alone cannot have enough
/// on their way: far ahead into the second level, from there into the first.
#[inline]
#[target_feature(enable = "sse")]
fn prefetch(from: *const u8) {
    _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(4096).cast());
    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(512).cast());
}

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

/// The products of a bfloat16 row with the first N of `x`, rows of the same
/// length after one another.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn dot_halves<const N: usize>(weights: &[u8], x: &[u8]) -> [f32; N] {
    const UNROLL: usize = 4;
    let mut sums = [[_mm512_setzero_ps(); UNROLL]; N];
    let length = weights.len();
    // SAFETY: see the top of the file; the last loads are masked.
    unsafe {
        let load = |from: *const u8| as_bf16(_mm512_loadu_epi8(from.cast()));
        let whole = length / (64 * UNROLL) * (64 * UNROLL);
        for start in (0..whole).step_by(64 * UNROLL) {
            for part in 0..UNROLL {
                let at = weights.as_ptr().add(start + 64 * part);
                prefetch(at);
                let w = load(at);
                for (token, sums) in sums.iter_mut().enumerate() {
                    let x = load(x.as_ptr().add(token * length + start + 64 * part));
                    sums[part] = _mm512_dpbf16_ps(sums[part], w, x);
                }
            }
        }
        for start in (whole..length).step_by(64) {
            let mask = u64::MAX >> (64 - (length - start).min(64));
            let load = |from: *const u8| as_bf16(_mm512_maskz_loadu_epi8(mask, from.cast()));
            let w = load(weights.as_ptr().add(start));
            for (token, sums) in sums.iter_mut().enumerate() {
                let x = load(x.as_ptr().add(token * length + start));
                sums[0] = _mm512_dpbf16_ps(sums[0], w, x);
            }
        }
    }
    sums.map(|[a, b, c, d]| {
        _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
    })
}

/// The sum of `weights[i] * x[i]` with `x.len()` packed weights.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub unsafe fn dot(float: Float, weights: &[u8], x: &[f32]) -> f32 {
    const UNROLL: usize = 4;
    let mut sums = [_mm512_setzero_ps(); UNROLL];
    let step = LANES * float.bytes();
    let whole = x.len() / (LANES * UNROLL) * (LANES * UNROLL);
    // SAFETY: see the top of the file; the last loads are masked.
    unsafe {
        for column in (0..whole).step_by(LANES * UNROLL) {
            for (part, sum) in sums.iter_mut().enumerate() {
                let at = weights.as_ptr().add(column * float.bytes() + part * step);
                prefetch(at);
                let x = _mm512_loadu_ps(x.as_ptr().add(column + part * LANES));
                *sum = _mm512_fmadd_ps(load(float, at, u16::MAX), x, *sum);
            }
        }
        for column in (whole..x.len()).step_by(LANES) {
            let mask = u16::MAX >> (LANES - (x.len() - column).min(LANES));
            let w = load(float, weights.as_ptr().add(column * float.bytes()), mask);
            let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(column));
            sums[0] = _mm512_fmadd_ps(w, x, sums[0]);
        }
    }
    let [a, b, c, d] = sums;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
}

/// The products of a row with four rows of `x` after one another.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn dot4(weights: &[f32], x: &[f32]) -> [f32; 4] {
    let mut sums = [_mm512_setzero_ps(); 4];
    let columns = weights.len();
    // SAFETY: see the top of the file; `x` holds four rows; loads are masked.
    unsafe {
        for column in (0..columns).step_by(LANES) {
            let mask = u16::MAX >> (LANES - (columns - column).min(LANES));
            let w = _mm512_maskz_loadu_ps(mask, weights.as_ptr().add(column));
            for (row, sum) in sums.iter_mut().enumerate() {
                let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(row * columns + column));
                *sum = _mm512_fmadd_ps(w, x, *sum);
            }
        }
    }
    sums.map(|sum| _mm512_reduce_add_ps(sum))
}

/// The floats from `first` on that `mask` names.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
unsafe fn load_from(floats: &Floats<'_>, first: usize, mask: u16) -> __m512 {
    let from = floats
        .bytes()
        .as_ptr()
        .wrapping_add(first * floats.float().bytes());
    // SAFETY: the masked elements are there.
    unsafe { load(floats.float(), from, mask) }
}

/// The packed floats that `mask` names.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
unsafe fn load(float: Float, from: *const u8, mask: u16) -> __m512 {
    // SAFETY: the caller has those elements there.
    unsafe {
        match float {
            Float::F32 => _mm512_maskz_loadu_ps(mask, from.cast()),
            Float::F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from.cast())),
            Float::Bf16 => {
                let halves = _mm256_maskz_loadu_epi16(mask, from.cast());
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
            }
        }
    }
}

/// See `Level::split`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn split(values: &[f32], high: &mut [i8], low: &mut [i8]) -> (f32, f32) {
    let (mut largest, mut sum) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    let mut whole_sum = _mm512_setzero_si512();
    // SAFETY: see the top of the file; all three are equally long.
    unsafe {
        let load = |start: usize| _mm512_loadu_ps(values.as_ptr().add(start));
        for start in (0..values.len()).step_by(LANES) {
            largest = _mm512_max_ps(largest, _mm512_abs_ps(load(start)));
            sum = _mm512_add_ps(sum, load(start));
        }
        let scale = _mm512_reduce_max_ps(largest) / LARGEST;
        let inverse = _mm512_set1_ps(inverse(scale));
        for start in (0..values.len()).step_by(LANES) {
            let whole = _mm512_cvtps_epi32(_mm512_mul_ps(load(start), inverse));
            whole_sum = _mm512_add_epi32(whole_sum, whole);
            let above = _mm512_srai_epi32::<7>(_mm512_add_epi32(whole, _mm512_set1_epi32(64)));
            let below = _mm512_sub_epi32(whole, _mm512_slli_epi32::<7>(above));
            _mm_storeu_epi8(high.as_mut_ptr().add(start), _mm512_cvtepi32_epi8(above));
            _mm_storeu_epi8(low.as_mut_ptr().add(start), _mm512_cvtepi32_epi8(below));
        }
        let whole_sum = _mm512_reduce_add_epi32(whole_sum);
        (scale, sum_of(scale, whole_sum, _mm512_reduce_add_ps(sum)))
    }
}

/// Bytes as bfloat16 numbers, two bytes each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn bytes_as_bf16<const SIGNED: bool>(bytes: &[u8], out: &mut [u8]) {
    for start in (0..bytes.len()).step_by(LANES) {
        let mask = u16::MAX >> (LANES - (bytes.len() - start).min(LANES));
        // SAFETY: see the top of the file; loads and stores are masked.
        unsafe {
            let bytes = _mm_maskz_loadu_epi8(mask, bytes.as_ptr().add(start).cast());
            let whole = match SIGNED {
                true => _mm512_cvtepi8_epi32(bytes),
                false => _mm512_cvtepu8_epi32(bytes),
            };
            let bits = _mm512_castps_si512(_mm512_cvtepi32_ps(whole));
            let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits));
            _mm256_mask_storeu_epi16(out.as_mut_ptr().add(2 * start).cast(), mask, halves);
        }
    }
}

/// Rows of a tile without groups, and of one with them.
pub const TILE_ROWS: usize = 12;
pub const TILE_ROWS_CODES: usize = 6;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn tile_f32<const P: usize>(tile: &Tile) {
    // SAFETY: see the top of the file; the tile says what is there.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); P]; TILE_ROWS];
        for word in 0..tile.words {
            let mut x = [_mm512_setzero_ps(); P];
            for (panel, x) in x.iter_mut().enumerate() {
                *x = _mm512_loadu_ps(
                    tile.panel
                        .add(panel * tile.panel_stride + word * PANEL)
                        .cast(),
                );
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let w = _mm512_set1_ps(*tile.weights.add(row * tile.weights_stride + word).cast());
                for panel in 0..P {
                    sums[panel] = _mm512_fmadd_ps(w, x[panel], sums[panel]);
                }
            }
        }
        add_to(tile, &sums);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn tile_bf16<const P: usize>(tile: &Tile) {
    // SAFETY: see the top of the file; the tile says what is there.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); P]; TILE_ROWS];
        for word in 0..tile.words {
            multiply_pairs(tile, word, &mut sums);
        }
        add_to(tile, &sums);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn tile_codes<const P: usize>(tile: &Tile) {
    // SAFETY: see the top of the file; the tile says what is there.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); P]; TILE_ROWS_CODES];
        for group in 0..tile.words / tile.group_words {
            let mut products = [[_mm512_setzero_ps(); P]; TILE_ROWS_CODES];
            for word in group * tile.group_words..(group + 1) * tile.group_words {
                multiply_pairs(tile, word, &mut products);
            }
            let mut x_sums = [_mm512_setzero_ps(); P];
            for (panel, sums) in x_sums.iter_mut().enumerate() {
                *sums = _mm512_loadu_ps(tile.sums.add(panel * tile.sums_stride + group * PANEL));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let at = row * tile.groups_stride + group;
                let scale = _mm512_set1_ps(*tile.scales.add(at));
                let bias = _mm512_set1_ps(*tile.biases.add(at));
                for panel in 0..P {
                    sums[panel] = _mm512_fmadd_ps(products[row][panel], scale, sums[panel]);
                    sums[panel] = _mm512_fmadd_ps(x_sums[panel], bias, sums[panel]);
                }
            }
        }
        add_to(tile, &sums);
    }
}

/// The same bits as bfloat16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: any bits are bfloat16 numbers, and the sizes agree.
    unsafe { std::mem::transmute(bits) }
}

/// One pair of columns of all rows and panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn multiply_pairs<const P: usize, const R: usize>(
    tile: &Tile,
    word: usize,
    sums: &mut [[__m512; P]; R],
) {
    // SAFETY: see the top of the file.
    unsafe {
        let mut x = [as_bf16(_mm512_setzero_si512()); P];
        for (panel, x) in x.iter_mut().enumerate() {
            let at = tile.panel.add(panel * tile.panel_stride + word * PANEL);
            *x = as_bf16(_mm512_loadu_epi32(at.cast()));
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let pair = *tile.weights.add(row * tile.weights_stride + word);
            let w = as_bf16(_mm512_set1_epi32(pair as i32));
            for panel in 0..P {
                sums[panel] = _mm512_dpbf16_ps(sums[panel], w, x[panel]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn add_to<const P: usize, const R: usize>(tile: &Tile, sums: &[[__m512; P]; R]) {
    for (row, sums) in sums.iter().enumerate() {
        for (panel, sum) in sums.iter().enumerate() {
            // SAFETY: see the top of the file; the tile's sums are its own.
            unsafe {
                let out = tile.out.add(panel * tile.out_stride + row * PANEL);
                _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), *sum));
            }
        }
    }
}
