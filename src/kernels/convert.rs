//! Packed floats of one format as another, with `half`'s results: widening is
//! exact, narrowing rounds to the nearest with ties to even, NaN stays NaN.

use super::float::Float;
use super::floats::{Floats, FloatsMut};
use super::lanes::{Kernel, Lanes, MOST_LANES};
use super::level::Level;

impl Level {
    /// `to[i] = from[i]`
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn convert(self, from: Floats<'_>, to: FloatsMut<'_>) {
        self.scale(from, None, to);
    }

    /// `to[i] = from[i] * factor`, rounded once.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn scale(self, from: Floats<'_>, factor: Option<f32>, to: FloatsMut<'_>) {
        assert_eq!(from.len(), to.len());
        self.run(Scale { from, factor, to });
    }

    /// `values[i] += addends[i]`
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_to(self, values: &mut [f32], addends: Floats<'_>) {
        assert_eq!(addends.len(), values.len());
        self.run(AddTo { values, addends });
    }

    /// Rounds values to a format in place.
    pub fn round(self, values: &mut [f32], float: Float) {
        if float != Float::F32 {
            self.run(Round { values, float });
        }
    }

    /// `to[i] = a[i] + b[i]`, rounded once.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(self, a: Floats<'_>, b: Floats<'_>, to: FloatsMut<'_>) {
        assert!(a.len() == to.len() && b.len() == to.len());
        self.run(Sum { a, b, to });
    }
}

struct AddTo<'a> {
    values: &'a mut [f32],
    addends: Floats<'a>,
}

impl Kernel for AddTo<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let length = self.values.len();
        let mut values = FloatsMut::from(self.values);
        for first in (0..length).step_by(V::N) {
            let value: V = values.as_floats().lanes(first, 0.0);
            values.set_lanes(first, value + self.addends.lanes(first, 0.0));
        }
    }
}

struct Round<'a> {
    values: &'a mut [f32],
    float: Float,
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let mut rounded = [0_u8; 4 * MOST_LANES];
        let length = self.values.len();
        let mut values = FloatsMut::from(self.values);
        for first in (0..length).step_by(V::N) {
            let value: V = values.as_floats().lanes(first, 0.0);
            value.write(self.float, &mut rounded);
            values.set_lanes(first, V::read(self.float, &rounded));
        }
    }
}

struct Scale<'a> {
    from: Floats<'a>,
    factor: Option<f32>,
    to: FloatsMut<'a>,
}

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        for first in (0..self.to.len()).step_by(V::N) {
            let values: V = self.from.lanes(first, 0.0);
            let values = match self.factor {
                Some(factor) => values * V::splat(factor),
                None => values,
            };
            self.to.set_lanes(first, values);
        }
    }
}

struct Sum<'a> {
    a: Floats<'a>,
    b: Floats<'a>,
    to: FloatsMut<'a>,
}

impl Kernel for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        for first in (0..self.to.len()).step_by(V::N) {
            let a: V = self.a.lanes(first, 0.0);
            self.to.set_lanes(first, a + self.b.lanes(first, 0.0));
        }
    }
}

#[cfg(test)]
mod tests;
