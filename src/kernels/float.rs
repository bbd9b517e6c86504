//! 16-bit and 32-bit floats as bytes, as they lie in a file: at any alignment.

use half::{bf16, f16};

/// A float format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    pub fn bytes(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::Bf16 => 2,
        }
    }

    /// Element `index` of packed elements.
    #[inline]
    pub fn get(self, bytes: &[u8], index: usize) -> f32 {
        match self {
            Float::F32 => f32::from_le_bytes(element(bytes, index)),
            Float::F16 => f16::from_le_bytes(element(bytes, index)).to_f32(),
            Float::Bf16 => bf16::from_le_bytes(element(bytes, index)).to_f32(),
        }
    }

    /// Rounds `value` into element `index`.
    #[inline]
    pub fn set(self, bytes: &mut [u8], index: usize, value: f32) {
        match self {
            Float::F32 => store(bytes, index, value.to_le_bytes()),
            Float::F16 => store(bytes, index, f16::from_f32(value).to_le_bytes()),
            Float::Bf16 => store(bytes, index, bf16::from_f32(value).to_le_bytes()),
        }
    }
}

#[inline]
fn element<const N: usize>(bytes: &[u8], index: usize) -> [u8; N] {
    bytes.as_chunks::<N>().0[index]
}

#[inline]
fn store<const N: usize>(bytes: &mut [u8], index: usize, value: [u8; N]) {
    bytes.as_chunks_mut::<N>().0[index] = value;
}
