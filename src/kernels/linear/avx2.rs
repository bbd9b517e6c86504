//! AVX2, FMA and F16C: eight columns at a time.
//!
//! SAFETY of this file: every function needs `Level::Avx2`, and slices and
//! pointers of the sizes that its comment names. All loads are unaligned loads.

use std::arch::x86_64::*;

use super::codes::CodeRows;
use super::panels::PANEL;
use super::planes::Planes;
use super::scalar;
use super::tiles::Tile;
use crate::kernels::float::Float;
use crate::kernels::floats::Floats;

const LANES: usize = 8;
/// Bytes ahead at which weights are asked for: the processor's own prefetching
/// ends at each page of 4 KiB.
const AHEAD: usize = 1536;

/// See `Level::multiply_codes`; codes of 4 bits.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn multiply_codes(rows: &CodeRows<'_>, x: &Planes, out: &mut [f32]) {
    // SAFETY: the same contract.
    unsafe {
        match x.resolution.planes {
            1 => multiply_codes_in::<1>(rows, x, out),
            _ => multiply_codes_in::<2>(rows, x, out),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_codes_in<const PLANES: usize>(rows: &CodeRows<'_>, x: &Planes, out: &mut [f32]) {
    let (n, n_rows) = (x.n(), rows.len());
    for row in 0..n_rows {
        let mut token = 0;
        while token < n {
            // SAFETY: the same contract.
            let done = unsafe {
                let out = &mut out[token * n_rows + row..];
                match n - token {
                    4.. => put(dot_codes::<4, PLANES>(rows, x, (row, token)), n_rows, out),
                    2.. => put(dot_codes::<2, PLANES>(rows, x, (row, token)), n_rows, out),
                    _ => put(dot_codes::<1, PLANES>(rows, x, (row, token)), n_rows, out),
                }
            };
            token += done;
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

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_codes<const N: usize, const PLANES: usize>(
    rows: &CodeRows<'_>,
    x: &Planes,
    (row, first): (usize, usize),
) -> [f32; N] {
    const CHUNK: usize = 64;
    let part_size = x.resolution.part_size;
    let parts_per_group = x.parts / rows.groups;
    let mask = _mm256_set1_epi8(0xf);
    let ones = _mm256_set1_epi16(1);
    let lanes = _mm256_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56);
    let shift = |by: usize| _mm_cvtsi32_si128(by.trailing_zeros() as i32);
    let part_shift = shift(part_size);
    let group_of_part = _mm256_srl_epi32(
        _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
        shift(parts_per_group),
    );
    let mut sums = [_mm256_setzero_ps(); N];
    let mut codes = rows.row_codes(row).as_ptr();
    let end = rows.row_codes(row).as_ptr_range().end;
    // SAFETY: see the top of the file; scales and sums are padded to vectors,
    // planes to chunks.
    unsafe {
        let table = rows
            .table
            .map(|table| _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())));
        let (scales, biases) = (
            rows.scales.row(row, rows.groups),
            rows.biases.row(row, rows.groups),
        );
        for block in 0..x.parts.div_ceil(LANES) {
            let of_parts = |floats: &Floats<'_>| {
                let of_groups = load_at_most_8(floats, block * LANES / parts_per_group);
                _mm256_permutevar8x32_ps(of_groups, group_of_part)
            };
            let (scales, biases) = (of_parts(&scales), of_parts(&biases));
            let mut factors = [_mm256_setzero_ps(); N];
            for token in 0..N {
                let parts = (first + token) * x.parts_stride + block * LANES;
                let x_scales = _mm256_loadu_ps(x.scales.as_ptr().add(parts));
                let x_sums = _mm256_loadu_ps(x.sums.as_ptr().add(parts));
                factors[token] = _mm256_mul_ps(scales, x_scales);
                sums[token] = _mm256_fmadd_ps(biases, x_sums, sums[token]);
            }
            for chunk in 0..LANES * part_size / CHUNK {
                let left = end.offset_from(codes) as usize;
                if left == 0 {
                    break;
                }
                _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD).cast());
                let packed = load_at_most_32(codes, left);
                codes = codes.add(left.min(CHUNK / 2));
                let mut low = _mm256_and_si256(packed, mask);
                let mut high = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), mask);
                if let Some(table) = table {
                    low = _mm256_shuffle_epi8(table, low);
                    high = _mm256_shuffle_epi8(table, high);
                }
                let columns = _mm256_add_epi32(lanes, _mm256_set1_epi32((chunk * CHUNK) as i32));
                let parts = _mm256_srl_epi32(columns, part_shift);
                let at = (block * LANES * part_size + chunk * CHUNK) * PLANES;
                for token in 0..N {
                    let x = x
                        .bytes
                        .as_slice()
                        .as_ptr()
                        .add((first + token) * x.row_bytes + at);
                    let plane = |x: *const i8| {
                        let x: *const __m256i = x.cast();
                        let even = _mm256_maddubs_epi16(low, _mm256_loadu_si256(x));
                        let odd = _mm256_maddubs_epi16(high, _mm256_loadu_si256(x.add(1)));
                        _mm256_madd_epi16(_mm256_add_epi16(even, odd), ones)
                    };
                    let mut sum = plane(x);
                    if PLANES == 2 {
                        let above = _mm256_slli_epi32::<7>(sum);
                        sum = _mm256_add_epi32(above, plane(x.add(CHUNK)));
                    }
                    let factor = _mm256_permutevar8x32_ps(factors[token], parts);
                    sums[token] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), factor, sums[token]);
                }
            }
        }
    }
    sums.map(|sum| total(sum))
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_at_most_32(from: *const u8, left: usize) -> __m256i {
    if left >= 32 {
        // SAFETY: 32 bytes are there.
        return unsafe { _mm256_loadu_si256(from.cast()) };
    }
    let mut bytes = [0_u8; 32];
    // SAFETY: `left` bytes are there.
    unsafe {
        bytes[..left].copy_from_slice(std::slice::from_raw_parts(from, left));
        _mm256_loadu_si256(bytes.as_ptr().cast())
    }
}

/// Eight floats from `first` on, with zeros behind the last.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_at_most_8(floats: &Floats<'_>, first: usize) -> __m256 {
    if first + LANES <= floats.len() {
        // SAFETY: eight elements are there.
        return unsafe {
            load(
                floats.float(),
                floats.bytes()[first * floats.float().bytes()..].as_ptr(),
            )
        };
    }
    let mut values = [0.0; LANES];
    for (index, value) in (first..floats.len()).zip(&mut values) {
        *value = floats.get(index);
    }
    // SAFETY: eight elements are there.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// The sum of `weights[i] * x[i]` with `x.len()` packed weights.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot(float: Float, weights: &[u8], x: &[f32]) -> f32 {
    const UNROLL: usize = 4;
    let whole = x.len() / (UNROLL * LANES) * (UNROLL * LANES);
    let step = LANES * float.bytes();
    // SAFETY: see the top of the file; columns up to `whole` are there.
    let sum = unsafe {
        let mut sums = [_mm256_setzero_ps(); UNROLL];
        for column in (0..whole).step_by(UNROLL * LANES) {
            let w = weights.as_ptr().add(column * float.bytes());
            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD).cast());
            let x = x.as_ptr().add(column);
            for (part, sum) in sums.iter_mut().enumerate() {
                let w = load(float, w.add(part * step));
                *sum = _mm256_fmadd_ps(w, _mm256_loadu_ps(x.add(part * LANES)), *sum);
            }
        }
        let [a, b, c, d] = sums;
        total(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)))
    };
    sum + scalar::dot(float, &weights[whole * float.bytes()..], &x[whole..])
}

/// The products of a row with four rows of `x` after one another.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dot4(weights: &[f32], x: &[f32]) -> [f32; 4] {
    let columns = weights.len();
    let whole = columns / LANES * LANES;
    // SAFETY: see the top of the file; `x` holds four rows of `columns`.
    let mut products = unsafe {
        let mut sums = [_mm256_setzero_ps(); 4];
        for column in (0..whole).step_by(LANES) {
            let w = _mm256_loadu_ps(weights.as_ptr().add(column));
            for (row, sum) in sums.iter_mut().enumerate() {
                let x = _mm256_loadu_ps(x.as_ptr().add(row * columns + column));
                *sum = _mm256_fmadd_ps(w, x, *sum);
            }
        }
        sums.map(|sum| total(sum))
    };
    for (row, product) in products.iter_mut().enumerate() {
        let rest = &x[row * columns + whole..(row + 1) * columns];
        let products = weights[whole..].iter().zip(rest).map(|(w, x)| w * x);
        *product += products.sum::<f32>();
    }
    products
}

/// Rows of a tile.
pub const TILE_ROWS: usize = 6;

/// One panel of sixteen.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn tile_f32(tile: &Tile) {
    // SAFETY: see the top of the file; the tile says what is there.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; TILE_ROWS];
        for word in 0..tile.words {
            let x: *const f32 = tile.panel.add(word * PANEL).cast();
            let x = [_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(LANES))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let at = tile.weights.add(row * tile.weights_stride + word);
                let w = _mm256_set1_ps(*at.cast());
                sums[0] = _mm256_fmadd_ps(w, x[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(w, x[1], sums[1]);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                let out = tile.out.add(row * PANEL + half * LANES);
                _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), *sum));
            }
        }
    }
}

/// Eight packed floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load(float: Float, weights: *const u8) -> __m256 {
    // SAFETY: the caller has eight elements there.
    unsafe {
        match float {
            Float::F32 => _mm256_loadu_ps(weights.cast()),
            Float::F16 => _mm256_cvtph_ps(_mm_loadu_si128(weights.cast())),
            Float::Bf16 => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(weights.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
    }
}

/// The sum of eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn total(lanes: __m256) -> f32 {
    let halves = _mm_add_ps(
        _mm256_castps256_ps128(lanes),
        _mm256_extractf128_ps::<1>(lanes),
    );
    let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
    _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
}
