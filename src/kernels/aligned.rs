//! [`Aligned`]: scratch memory in which a vector never crosses a cache line.

use std::marker::PhantomData;

use crate::memory::{Category, Entry};

/// Zeroed numbers that start at a cache line. The ledger counts them.
pub struct Aligned<T> {
    lines: Vec<Line>,
    _counted: Entry,
    length: usize,
    element: PhantomData<T>,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read as part of a slice")] [u8; 64]);

/// Numbers of which any bits are one.
pub trait Number: Copy {}

impl Number for f32 {}
impl Number for u32 {}
impl Number for i8 {}

impl<T: Number> Default for Aligned<T> {
    fn default() -> Self {
        Aligned::zeroed(0)
    }
}

impl<T: Number> Aligned<T> {
    pub fn zeroed(length: usize) -> Self {
        let n_lines = (length * size_of::<T>()).div_ceil(64);
        Aligned {
            lines: vec![Line([0; 64]); n_lines],
            _counted: Entry::new(Category::Scratch, n_lines * size_of::<Line>()),
            length,
            element: PhantomData,
        }
    }

    /// Makes it at least that long, zeroed if it wasn't.
    pub fn grow(&mut self, length: usize) {
        if self.length < length {
            *self = Aligned::zeroed(length);
        }
    }

    pub fn as_slice(&self) -> &[T] {
        // SAFETY: the lines hold that many; any bits are numbers.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: the lines hold that many; any bits are numbers.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}
