//! [`Floats`]: packed floats as kernels read and write them, at any alignment.

use super::float::Float;
use super::lanes::{Lanes, MOST_LANES};

/// Packed floats to read.
#[derive(Clone, Copy)]
pub struct Floats<'a> {
    bytes: &'a [u8],
    float: Float,
}

/// Packed floats to write.
pub struct FloatsMut<'a> {
    bytes: &'a mut [u8],
    float: Float,
}

impl<'a> Floats<'a> {
    /// # Panics
    /// If the bytes are not whole elements.
    pub fn new(float: Float, bytes: &'a [u8]) -> Self {
        assert!(bytes.len().is_multiple_of(float.bytes()));
        Floats { bytes, float }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.float.bytes()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn float(&self) -> Float {
        self.float
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn get(&self, index: usize) -> f32 {
        self.float.get(self.bytes, index)
    }

    pub fn to_vec(&self) -> Vec<f32> {
        (0..self.len()).map(|index| self.get(index)).collect()
    }

    /// Row `index` of rows of `columns`.
    pub fn row(&self, index: usize, columns: usize) -> Floats<'a> {
        let row_bytes = columns * self.float.bytes();
        Floats {
            bytes: &self.bytes[index * row_bytes..][..row_bytes],
            float: self.float,
        }
    }

    /// The first `n` elements, and those behind.
    pub fn split_at(&self, n: usize) -> (Floats<'a>, Floats<'a>) {
        let float = self.float;
        let (bytes, behind) = self.bytes.split_at(n * float.bytes());
        (
            Floats { bytes, float },
            Floats {
                bytes: behind,
                float,
            },
        )
    }

    /// The elements from `first` on, as many as there are lanes; where they end
    /// before that, `padding` follows.
    #[inline(always)]
    pub(super) fn lanes<V: Lanes>(&self, first: usize, padding: f32) -> V {
        let bytes = &self.bytes[first * self.float.bytes()..];
        if bytes.len() >= V::N * self.float.bytes() {
            V::read(self.float, bytes)
        } else {
            let padded = padded(self.float, bytes, padding);
            V::read(Float::F32, Floats::from(&padded[..]).bytes)
        }
    }
}

impl<'a> FloatsMut<'a> {
    /// # Panics
    /// If the bytes are not whole elements.
    pub fn new(float: Float, bytes: &'a mut [u8]) -> Self {
        assert!(bytes.len().is_multiple_of(float.bytes()));
        FloatsMut { bytes, float }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.float.bytes()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn float(&self) -> Float {
        self.float
    }

    pub fn as_floats(&self) -> Floats<'_> {
        Floats {
            bytes: self.bytes,
            float: self.float,
        }
    }

    pub fn into_bytes(self) -> &'a mut [u8] {
        self.bytes
    }

    /// Row `index` of rows of `columns`.
    pub fn row_mut(&mut self, index: usize, columns: usize) -> FloatsMut<'_> {
        let row_bytes = columns * self.float.bytes();
        FloatsMut {
            bytes: &mut self.bytes[index * row_bytes..][..row_bytes],
            float: self.float,
        }
    }

    /// The first `n` elements, and those behind.
    pub fn split_at(self, n: usize) -> (FloatsMut<'a>, FloatsMut<'a>) {
        let float = self.float;
        let (bytes, behind) = self.bytes.split_at_mut(n * float.bytes());
        (
            FloatsMut { bytes, float },
            FloatsMut {
                bytes: behind,
                float,
            },
        )
    }

    /// Rounds the lanes into the elements from `first` on, as many as there are.
    #[inline(always)]
    pub(super) fn set_lanes<V: Lanes>(&mut self, first: usize, values: V) {
        let bytes = &mut self.bytes[first * self.float.bytes()..];
        if bytes.len() >= V::N * self.float.bytes() {
            values.write(self.float, bytes);
        } else {
            let mut padded = [0.0; MOST_LANES];
            values.write(Float::F32, FloatsMut::from(&mut padded[..]).bytes);
            set_first(self.float, bytes, &padded);
        }
    }
}

#[inline(never)]
fn padded(float: Float, bytes: &[u8], padding: f32) -> [f32; MOST_LANES] {
    let mut values = [padding; MOST_LANES];
    for (index, value) in values[..bytes.len() / float.bytes()].iter_mut().enumerate() {
        *value = float.get(bytes, index);
    }
    values
}

#[inline(never)]
fn set_first(float: Float, bytes: &mut [u8], values: &[f32; MOST_LANES]) {
    for (index, value) in values[..bytes.len() / float.bytes()].iter().enumerate() {
        float.set(bytes, index, *value);
    }
}

impl<'a> From<&'a [f32]> for Floats<'a> {
    fn from(values: &'a [f32]) -> Self {
        // SAFETY: a float32 is four bytes, and bytes have no alignment.
        let bytes =
            unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        Floats {
            bytes,
            float: Float::F32,
        }
    }
}

impl<'a> From<&'a mut [f32]> for FloatsMut<'a> {
    fn from(values: &'a mut [f32]) -> Self {
        // SAFETY: a float32 is four bytes, bytes have no alignment, and any four
        // bytes are a float32.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values))
        };
        FloatsMut {
            bytes,
            float: Float::F32,
        }
    }
}
