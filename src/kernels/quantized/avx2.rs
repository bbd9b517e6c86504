//! AVX2: sixteen codes at a time, which are at most sixteen bytes.
//!
//! SAFETY of this file: every function needs the feature; outputs are whole
//! multiples of sixteen, and codes as many bytes as they take.

use std::arch::x86_64::*;

use super::{Format, Span};

const LANES: usize = 16;

#[target_feature(enable = "avx2")]
pub unsafe fn dequantize(span: &Span<'_>, out: &mut [f32]) {
    let scale = |group: usize| _mm256_set1_ps(span.scales[group]);
    // SAFETY: see the top of the file.
    unsafe {
        match span.format {
            Format::Affine { .. } => by_halves(span, out, |codes, group| {
                let products = _mm256_mul_ps(scale(group), _mm256_cvtepi32_ps(codes));
                _mm256_add_ps(products, _mm256_set1_ps(span.biases[group]))
            }),
            Format::Mxfp4 | Format::Nvfp4 => by_halves(span, out, |codes, group| {
                _mm256_mul_ps(scale(group), e2m1(codes))
            }),
            Format::Mxfp8 => by_halves(span, out, |codes, group| {
                _mm256_mul_ps(scale(group), e4m3(codes))
            }),
            Format::Blocks(_) => unreachable!("blocks are no spans"),
        }
    }
}

#[target_feature(enable = "avx2")]
pub unsafe fn unpack(codes: &[u8], format: Format, out: &mut [u8]) {
    let unpacker = Unpacker::new(format.bits());
    let doubled_e2m1 = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    for (index, out) in out.chunks_exact_mut(LANES).enumerate() {
        let lanes = unpacker.sixteen(codes, index);
        let bytes = _mm_packus_epi16(
            _mm256_castsi256_si128(lanes),
            _mm256_extracti128_si256::<1>(lanes),
        );
        let bytes = match format {
            Format::Affine { .. } => bytes,
            _ => _mm_shuffle_epi8(doubled_e2m1, bytes),
        };
        // SAFETY: see the top of the file.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), bytes) };
    }
}

/// Writes `value(codes, group)` for eight codes after the other.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn by_halves(span: &Span<'_>, out: &mut [f32], value: impl Fn(__m256i, usize) -> __m256) {
    let unpacker = Unpacker::new(span.format.bits());
    let group_size = span.format.group_size();
    for (index, out) in out.chunks_exact_mut(LANES).enumerate() {
        let group = index * LANES / group_size;
        let lanes = unpacker.sixteen(span.codes, index);
        let low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(lanes));
        let high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(lanes));
        // SAFETY: see the top of the file.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), value(low, group));
            _mm256_storeu_ps(out.as_mut_ptr().add(LANES / 2), value(high, group));
        }
    }
}

/// Moves codes of one width into lanes of sixteen bits: each lane takes the two
/// bytes in which its code lies, shifts the code to the top and down again.
struct Unpacker {
    bits: usize,
    bytes: __m256i,
    to_top: __m256i,
    from_top: __m128i,
}

impl Unpacker {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(bits: usize) -> Unpacker {
        let tables = &TABLES[bits];
        // SAFETY: both tables are 32 bytes.
        unsafe {
            Unpacker {
                bits,
                bytes: _mm256_loadu_si256(tables.bytes.as_ptr().cast()),
                to_top: _mm256_loadu_si256(tables.to_top.as_ptr().cast()),
                from_top: _mm_cvtsi32_si128(16 - bits as i32),
            }
        }
    }

    /// The sixteen codes from `16 * index` on.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn sixteen(&self, codes: &[u8], index: usize) -> __m256i {
        let packed = load_padded(&codes[index * 2 * self.bits..]);
        let pairs = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(packed), self.bytes);
        _mm256_srl_epi16(_mm256_mullo_epi16(pairs, self.to_top), self.from_top)
    }
}

/// The first sixteen bytes, as far as there are any.
#[inline]
#[target_feature(enable = "avx2")]
fn load_padded(bytes: &[u8]) -> __m128i {
    let mut padded = [0; 16];
    let whole = match bytes.first_chunk::<16>() {
        Some(whole) => whole,
        None => {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded
        }
    };
    // SAFETY: `whole` is sixteen bytes.
    unsafe { _mm_loadu_si128(whole.as_ptr().cast()) }
}

#[derive(Clone, Copy)]
struct Tables {
    /// Which bytes a lane takes; those with the highest bit set are zeros.
    bytes: [u8; 32],
    /// Powers of two.
    to_top: [i16; 16],
}

static TABLES: [Tables; 9] = {
    let mut tables = [Tables {
        bytes: [0; 32],
        to_top: [0; 16],
    }; 9];
    let mut bits = 2;
    while bits <= 8 {
        let mut lane = 0;
        while lane < LANES {
            let (byte, shift) = (lane * bits / 8, lane * bits % 8);
            let next = if shift + bits > 8 { byte + 1 } else { 0x80 };
            tables[bits].bytes[2 * lane] = byte as u8;
            tables[bits].bytes[2 * lane + 1] = next as u8;
            tables[bits].to_top[lane] = 1 << (16 - bits - shift);
            lane += 1;
        }
        bits += 1;
    }
    tables
};

/// E2M1 codes as float32: a table of magnitudes, and the sign.
#[inline]
#[target_feature(enable = "avx2")]
fn e2m1(codes: __m256i) -> __m256 {
    let magnitudes = _mm256_setr_ps(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0);
    let sign = _mm256_slli_epi32::<28>(_mm256_and_si256(codes, _mm256_set1_epi32(8)));
    let magnitude = _mm256_permutevar8x32_ps(magnitudes, codes);
    _mm256_or_ps(magnitude, _mm256_castsi256_ps(sign))
}

/// E4M3 codes as float32, as `scalar::e4m3` does it.
#[inline]
#[target_feature(enable = "avx2")]
fn e4m3(codes: __m256i) -> __m256 {
    let sign = _mm256_slli_epi32::<24>(_mm256_and_si256(codes, _mm256_set1_epi32(0x80)));
    let magnitude = _mm256_slli_epi32::<20>(_mm256_and_si256(codes, _mm256_set1_epi32(0x7f)));
    let bits = _mm256_or_si256(sign, magnitude);
    let rebias = _mm256_castsi256_ps(_mm256_set1_epi32((127 + 120) << 23));
    _mm256_mul_ps(_mm256_castsi256_ps(bits), rebias)
}
