//! Codes times whole activations, one row after the other. SAFETY: see the top
//! of `avx512.rs`.

use std::arch::x86_64::*;

use super::{LANES, load_from, prefetch};
use crate::kernels::floats::Floats;
use crate::kernels::linear::codes::CodeRows;
use crate::kernels::linear::planes::Planes;

/// How 64 codes come out of their bytes.
#[derive(Clone, Copy)]
struct Unpack {
    bytes: usize,
    /// The bytes of eight codes to each quarter of 32 bits.
    spread: __m512i,
    shifts: __m512i,
    mask: __m512i,
}

impl Unpack {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn new(bits: usize) -> Unpack {
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
        // SAFETY: the arrays are 64 bytes long.
        unsafe {
            Unpack {
                bytes: 8 * bits,
                spread: _mm512_loadu_epi8(spread.as_ptr().cast()),
                shifts: _mm512_loadu_epi8(shifts.as_ptr().cast()),
                mask: _mm512_set1_epi8(((1 << bits) - 1) as u8 as i8),
            }
        }
    }

    /// The codes at `from`, of whose bytes `left` are there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    unsafe fn load(&self, from: *const u8, left: usize) -> __m512i {
        // SAFETY: the same contract.
        let packed = unsafe { load_at_most_64(from, left) };
        let spread = _mm512_permutexvar_epi8(self.spread, packed);
        let codes = _mm512_multishift_epi64_epi8(self.shifts, spread);
        _mm512_and_si512(codes, self.mask)
    }
}

/// Bytes at `from`, of which `left` are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn load_at_most_64(from: *const u8, left: usize) -> __m512i {
    let mask = match left {
        64.. => u64::MAX,
        _ => (1 << left) - 1,
    };
    // SAFETY: only bytes that are there are read.
    unsafe { _mm512_maskz_loadu_epi8(mask, from.cast()) }
}

/// The products of rows of codes with all of `x`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,f16c")]
pub unsafe fn multiply<const PLANES: usize>(rows: &CodeRows<'_>, x: &Planes, out: &mut [f32]) {
    let codes = Codes::<PLANES>::new(rows, x);
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
pub fn put<const N: usize>(products: [f32; N], stride: usize, out: &mut [f32]) -> usize {
    for (product, out) in products.iter().zip(out.iter_mut().step_by(stride)) {
        *out = *product;
    }
    N
}

/// What all rows of codes have in common. A chunk is 64 codes, multiplied with a
/// vector of each of PLANES.
struct Codes<const PLANES: usize> {
    unpack: Unpack,
    /// The first column of each sum of a chunk; this by `part_size` is its part.
    columns: __m512i,
    part_shift: __m128i,
    parts: Parts,
}

impl<const PLANES: usize> Codes<PLANES> {
    const CHUNK: usize = 64;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn new(rows: &CodeRows<'_>, x: &Planes) -> Self {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let columns_per_sum = _mm512_set1_epi32((Self::CHUNK / LANES) as i32);
        Codes {
            unpack: Unpack::new(rows.bits),
            columns: _mm512_mullo_epi32(lanes, columns_per_sum),
            part_shift: _mm_cvtsi32_si128(x.resolution.part_size.trailing_zeros() as i32),
            parts: Parts::new(rows, x),
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
                let scales = self.parts.read::<false>(&rows.scales, row, block / LANES);
                let biases = self.parts.read::<false>(&rows.biases, row, block / LANES);
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
                    let unit = self.unpack.load(codes, left);
                    let parts = _mm512_srl_epi32(columns, self.part_shift);
                    columns = _mm512_add_epi32(columns, _mm512_set1_epi32(Self::CHUNK as i32));
                    for token in 0..N {
                        let whole = Self::multiply(unit, planes.add(token * x.row_bytes));
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

    /// A chunk's codes times the planes of a row of activations.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn multiply(unit: __m512i, planes: *const i8) -> __m512i {
        let mut whole = _mm512_setzero_si512();
        for plane in 0..PLANES {
            if plane > 0 {
                whole = _mm512_slli_epi32::<7>(whole);
            }
            // SAFETY: see the top of the file.
            let x = unsafe { _mm512_loadu_epi8(planes.add(plane * Self::CHUNK)) };
            whole = _mm512_dpbusd_epi32(whole, unit, x);
        }
        whole
    }
}

/// Where the groups of sixteen parts are.
pub struct Parts {
    groups: usize,
    /// A group is two to this many parts.
    shift: u32,
    /// Of the part in each lane.
    group: __m512i,
}

impl Parts {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn new(rows: &CodeRows<'_>, x: &Planes) -> Parts {
        let shift = (x.parts / rows.groups).trailing_zeros();
        let mut group = [0; LANES];
        for part in 0..LANES {
            group[x.order.lane(part)] = (part >> shift) as i32;
        }
        Parts {
            groups: rows.groups,
            shift,
            // SAFETY: sixteen numbers.
            group: unsafe { _mm512_loadu_epi32(group.as_ptr()) },
        }
    }

    /// For each of sixteen parts what its group has in a row; zero behind the last,
    /// which a WHOLE block does not reach.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    pub unsafe fn read<const WHOLE: bool>(
        &self,
        floats: &Floats<'_>,
        row: usize,
        block: usize,
    ) -> __m512 {
        let groups = LANES >> self.shift;
        let first = block * groups;
        let mask = match WHOLE {
            true => u16::MAX >> (LANES - groups),
            false => u16::MAX >> (LANES - groups.min(self.groups - first)),
        };
        // SAFETY: the row has so many groups.
        let of_groups = unsafe { load_from(floats, row * self.groups + first, mask) };
        _mm512_permutexvar_ps(self.group, of_groups)
    }
}
