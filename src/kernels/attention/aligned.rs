//! [`Aligned`]: float32 memory in which a vector never crosses a cache line.

/// Zeroed floats that start at a cache line.
pub struct Aligned(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read as part of a slice")] [f32; Line::FLOATS]);

impl Line {
    const FLOATS: usize = 16;
}

impl Aligned {
    pub fn zeroed(length: usize) -> Self {
        Aligned(vec![
            Line([0.0; Line::FLOATS]);
            length.div_ceil(Line::FLOATS)
        ])
    }

    pub fn as_slice(&self) -> &[f32] {
        let length = self.0.len() * Line::FLOATS;
        // SAFETY: a line is its floats, without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), length) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        let length = self.0.len() * Line::FLOATS;
        // SAFETY: a line is its floats, without padding.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), length) }
    }
}
