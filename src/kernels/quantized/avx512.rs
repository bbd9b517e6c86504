//! AVX-512 with VBMI: 64 codes at a time, which are at most 64 bytes.
//!
//! SAFETY of this file: every function needs the features; outputs are whole
//! multiples of sixteen, and codes as many bytes as they take.

use std::arch::x86_64::*;

use super::{Format, Span};

const CODES: usize = 64;
const LANES: usize = 16;

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub unsafe fn dequantize(span: &Span<'_>, out: &mut [f32]) {
    let scale = |group: usize| _mm512_set1_ps(span.scales[group]);
    // SAFETY: see the top of the file.
    unsafe {
        match span.format {
            Format::Affine { .. } => by_quarters(span, out, |codes, group| {
                let codes = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes));
                let products = _mm512_mul_ps(scale(group), codes);
                _mm512_add_ps(products, _mm512_set1_ps(span.biases[group]))
            }),
            Format::Mxfp4 | Format::Nvfp4 => by_quarters(span, out, |codes, group| {
                _mm512_mul_ps(scale(group), e2m1(codes))
            }),
            Format::Mxfp8 => by_quarters(span, out, |codes, group| {
                _mm512_mul_ps(scale(group), e4m3(codes))
            }),
            Format::Blocks(_) => unreachable!("blocks are no spans"),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub unsafe fn unpack(codes: &[u8], format: Format, out: &mut [u8]) {
    let doubled_e2m1 = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    let doubled_e2m1 = _mm512_broadcast_i32x4(doubled_e2m1);
    let bytes = |codes| match format {
        Format::Affine { .. } => codes,
        _ => _mm512_shuffle_epi8(doubled_e2m1, codes),
    };
    let in_nibbles = format.bits() == 4;
    let (whole, rest) = out.split_at_mut(if in_nibbles {
        out.len() / CODES * CODES
    } else {
        0
    });
    let (packed, codes) = codes.split_at(whole.len() / 2);
    for (packed, out) in packed
        .chunks_exact(CODES / 2)
        .zip(whole.chunks_exact_mut(CODES))
    {
        // SAFETY: chunks of so many bytes.
        unsafe {
            let packed = _mm256_loadu_si256(packed.as_ptr().cast());
            _mm512_storeu_si512(out.as_mut_ptr().cast(), bytes(nibbles(packed)));
        }
    }
    let unpacker = Unpacker::new(format.bits());
    for (index, out) in rest.chunks_mut(CODES).enumerate() {
        let bytes = bytes(unpacker.codes(codes, index));
        // SAFETY: the mask covers `out`.
        unsafe { _mm512_mask_storeu_epi8(out.as_mut_ptr().cast(), first(out.len()), bytes) };
    }
}

/// Codes of four bits, the lower ones of each byte first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles(packed: __m256i) -> __m512i {
    let pairs = _mm512_cvtepu8_epi16(packed);
    let halves = _mm512_or_si512(pairs, _mm512_slli_epi16::<4>(pairs));
    _mm512_and_si512(halves, _mm512_set1_epi8(0xf))
}

/// Writes `value(codes, group)` for sixteen codes, as bytes, after the other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn by_quarters(span: &Span<'_>, out: &mut [f32], value: impl Fn(__m128i, usize) -> __m512) {
    let unpacker = Unpacker::new(span.format.bits());
    let group_shift = span.format.group_size().trailing_zeros();
    for (index, out) in out.chunks_mut(CODES).enumerate() {
        let codes = unpacker.codes(span.codes, index);
        let quarters = [
            _mm512_castsi512_si128(codes),
            _mm512_extracti32x4_epi32::<1>(codes),
            _mm512_extracti32x4_epi32::<2>(codes),
            _mm512_extracti32x4_epi32::<3>(codes),
        ];
        for (quarter, out) in out.chunks_exact_mut(LANES).enumerate() {
            let group = (index * CODES + quarter * LANES) >> group_shift;
            // SAFETY: see the top of the file.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), value(quarters[quarter], group)) };
        }
    }
}

/// Moves codes of one width into bytes: eight codes are `bits` bytes, which go
/// into a word of eight; every byte of the word then takes the eight bits that
/// begin with its code, and clears those above it.
struct Unpacker {
    bits: usize,
    words: __m512i,
    shifts: __m512i,
    mask: __m512i,
}

impl Unpacker {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn new(bits: usize) -> Unpacker {
        let tables = &TABLES[bits];
        // SAFETY: both tables are 64 bytes.
        unsafe {
            Unpacker {
                bits,
                words: _mm512_loadu_si512(tables.words.as_ptr().cast()),
                shifts: _mm512_loadu_si512(tables.shifts.as_ptr().cast()),
                mask: _mm512_set1_epi8((u8::MAX >> (8 - bits)) as i8),
            }
        }
    }

    /// The codes from `64 * index` on, as far as there are any.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn codes(&self, codes: &[u8], index: usize) -> __m512i {
        let packed = &codes[index * 8 * self.bits..];
        let here = first(packed.len().min(8 * self.bits));
        // SAFETY: the mask covers bytes of `packed`.
        let packed = unsafe { _mm512_maskz_loadu_epi8(here, packed.as_ptr().cast()) };
        let words = _mm512_permutexvar_epi8(self.words, packed);
        _mm512_and_si512(_mm512_multishift_epi64_epi8(self.shifts, words), self.mask)
    }
}

/// A mask of the first `n` of 64, which are at least one.
#[inline]
fn first(n: usize) -> __mmask64 {
    u64::MAX >> (64 - n)
}

#[derive(Clone, Copy)]
struct Tables {
    /// The byte that comes to each place.
    words: [u8; 64],
    /// Where its code begins in the word.
    shifts: [u8; 64],
}

static TABLES: [Tables; 9] = {
    let mut tables = [Tables {
        words: [0; 64],
        shifts: [0; 64],
    }; 9];
    let mut bits = 2;
    while bits <= 8 {
        let mut place = 0;
        while place < CODES {
            let (word, byte) = (place / 8, place % 8);
            // Bytes from `bits` on are not looked at.
            let from = word * bits + if byte < bits { byte } else { 0 };
            tables[bits].words[place] = from as u8;
            tables[bits].shifts[place] = (byte * bits) as u8;
            place += 1;
        }
        bits += 1;
    }
    tables
};

/// E2M1 codes, as bytes, by table.
#[inline]
#[target_feature(enable = "avx512f")]
fn e2m1(codes: __m128i) -> __m512 {
    let values = _mm512_setr_ps(
        0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
    );
    _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), values)
}

/// E4M3 codes, as bytes, as `scalar::e4m3` does it.
#[inline]
#[target_feature(enable = "avx512f")]
fn e4m3(codes: __m128i) -> __m512 {
    const SIGN_AND_MAGNITUDE: i32 = 0x87f0_0000_u32 as i32;
    // Widening copies the sign to the top.
    let wide = _mm512_slli_epi32::<20>(_mm512_cvtepi8_epi32(codes));
    let bits = _mm512_and_si512(wide, _mm512_set1_epi32(SIGN_AND_MAGNITUDE));
    let rebias = _mm512_castsi512_ps(_mm512_set1_epi32((127 + 120) << 23));
    _mm512_mul_ps(_mm512_castsi512_ps(bits), rebias)
}
