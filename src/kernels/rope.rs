//! Rotary position embeddings (Su et al., 2021).

use super::floats::{Floats, FloatsMut};
use super::lanes::{Kernel, Lanes};
use super::level::Level;
use super::norm::Norm;
use super::pool::Pool;
use super::share::share_rows;

/// Which dimensions rotate together, of `2 * n_pairs` that rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Pair i is dimensions i and `i + n_pairs`.
    Halves,
    /// Pair i is dimensions `2 * i` and `2 * i + 1`.
    Neighbours,
}

/// Cosines and sines of some positions: made once for a step, used by all of its
/// heads and layers.
pub struct RopeTable {
    pairing: Pairing,
    n_pairs: usize,
    // [n_positions, n_pairs]
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl RopeTable {
    /// `wavelengths` are positions per radian of each pair. `magnitude` multiplies
    /// the rotated dimensions; YaRN calls it the attention factor, others have 1.
    ///
    /// The angle is `position * (1 / wavelength)` in float32 twice rounded, because
    /// that is what models were trained and are evaluated with: at position 131072
    /// a more exact angle is up to 0.004 away from theirs. Its cosine and sine are
    /// exact to float32.
    pub fn new(
        pairing: Pairing,
        wavelengths: &[f32],
        magnitude: f32,
        positions: impl IntoIterator<Item = usize>,
    ) -> RopeTable {
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        let frequencies: Vec<f32> = wavelengths.iter().map(|length| 1.0 / length).collect();
        for position in positions {
            for frequency in &frequencies {
                let angle = position as f32 * frequency;
                let (sine, cosine) = f64::from(angle).sin_cos();
                cosines.push(cosine as f32 * magnitude);
                sines.push(sine as f32 * magnitude);
            }
        }
        RopeTable {
            pairing,
            n_pairs: wavelengths.len(),
            cosines,
            sines,
        }
    }

    /// From one position to another: what turns a head that was rotated for the first of
    /// each pair into one that is for the second, to the precision of the angles that
    /// `new` has for both.
    pub fn between(
        pairing: Pairing,
        wavelengths: &[f32],
        positions: impl IntoIterator<Item = [usize; 2]>,
    ) -> RopeTable {
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        let frequencies: Vec<f32> = wavelengths.iter().map(|length| 1.0 / length).collect();
        for positions in positions {
            for frequency in &frequencies {
                let [from, to] = positions.map(|p| f64::from(p as f32 * frequency));
                let (sine, cosine) = (to - from).sin_cos();
                cosines.push(cosine as f32);
                sines.push(sine as f32);
            }
        }
        RopeTable {
            pairing,
            n_pairs: wavelengths.len(),
            cosines,
            sines,
        }
    }

    /// Rotates one head at position `index` of the table.
    /// What is behind the rotated dimensions is copied.
    ///
    /// # Panics
    /// If the lengths differ, or the head is shorter than what rotates.
    pub fn rotate(&self, level: Level, index: usize, x: Floats<'_>, y: FloatsMut<'_>) {
        assert_eq!(x.len(), y.len());
        assert!(2 * self.n_pairs <= x.len());
        let row = index * self.n_pairs..(index + 1) * self.n_pairs;
        level.run(Rotate {
            pairing: self.pairing,
            cosines: &self.cosines[row.clone()],
            sines: &self.sines[row],
            x,
            y,
        });
    }

    /// One token's heads `[n_heads, head_dim]`: each normalized, then rotated, and
    /// rounded once.
    pub fn norm_and_rotate(
        &self,
        level: Level,
        index: usize,
        norm: &Norm<'_>,
        x: Floats<'_>,
        head_dim: usize,
        mut y: FloatsMut<'_>,
    ) {
        assert!(x.len() == y.len() && x.len().is_multiple_of(head_dim));
        let mut normalized = vec![0.0; head_dim];
        for head in 0..x.len() / head_dim {
            norm.row(
                level,
                x.row(head, head_dim),
                FloatsMut::from(&mut normalized[..]),
            );
            let normalized = Floats::from(&normalized[..]);
            self.rotate(level, index, normalized, y.row_mut(head, head_dim));
        }
    }

    /// One head, rotated, then normalized, and rounded once.
    pub fn rotate_and_norm(
        &self,
        level: Level,
        index: usize,
        norm: &Norm<'_>,
        x: Floats<'_>,
        y: FloatsMut<'_>,
    ) {
        let mut rotated = vec![0.0; x.len()];
        self.rotate(level, index, x, FloatsMut::from(&mut rotated[..]));
        norm.row(level, Floats::from(&rotated[..]), y);
    }

    /// The heads `[n_positions, n_heads, head_dim]` of all tokens, normalized
    /// first if there is a norm.
    pub fn rotate_tokens(
        &self,
        pool: &Pool,
        norm: Option<&Norm<'_>>,
        x: Floats<'_>,
        (n_heads, head_dim): (usize, usize),
        y: FloatsMut<'_>,
    ) {
        assert_eq!(x.len(), y.len());
        let level = Level::detect();
        let columns = n_heads * head_dim;
        share_rows(pool, [y], columns, &|index, [mut y]| {
            let x = x.row(index, columns);
            match norm {
                Some(norm) => self.norm_and_rotate(level, index, norm, x, head_dim, y),
                None => {
                    for head in 0..n_heads {
                        let x = x.row(head, head_dim);
                        self.rotate(level, index, x, y.row_mut(head, head_dim));
                    }
                }
            }
        });
    }
}

struct Rotate<'a> {
    pairing: Pairing,
    cosines: &'a [f32],
    sines: &'a [f32],
    x: Floats<'a>,
    y: FloatsMut<'a>,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let n_rotated = 2 * self.cosines.len();
        let (x, rest) = self.x.split_at(n_rotated);
        let (y, mut rest_out) = self.y.split_at(n_rotated);
        for first in (0..rest.len()).step_by(V::N) {
            rest_out.set_lanes::<V>(first, rest.lanes(first, 0.0));
        }
        match self.pairing {
            Pairing::Halves => rotate_halves::<V>(self.cosines, self.sines, x, y),
            Pairing::Neighbours => rotate_neighbours::<V>(self.cosines, self.sines, x, y),
        }
    }
}

#[inline(always)]
fn rotate_halves<V: Lanes>(cosines: &[f32], sines: &[f32], x: Floats<'_>, y: FloatsMut<'_>) {
    let (cosines, sines) = (Floats::from(cosines), Floats::from(sines));
    let n_pairs = cosines.len();
    let (x, x_ahead) = x.split_at(n_pairs);
    let (mut y, mut y_ahead) = y.split_at(n_pairs);
    for first in (0..n_pairs).step_by(V::N) {
        let (cosine, sine): (V, V) = (cosines.lanes(first, 0.0), sines.lanes(first, 0.0));
        let (a, b): (V, V) = (x.lanes(first, 0.0), x_ahead.lanes(first, 0.0));
        y.set_lanes(first, a * cosine - b * sine);
        y_ahead.set_lanes(first, b * cosine + a * sine);
    }
}

/// Pairs that are widened at a time.
const PAIRS: usize = 16;

#[inline(always)]
fn rotate_neighbours<V: Lanes>(
    cosines: &[f32],
    sines: &[f32],
    x: Floats<'_>,
    mut y: FloatsMut<'_>,
) {
    let angles = cosines.chunks(PAIRS).zip(sines.chunks(PAIRS));
    for (chunk, (cosines, sines)) in angles.enumerate() {
        let (first, n_values) = (2 * PAIRS * chunk, 2 * cosines.len());
        let mut values = [0.0; 2 * PAIRS];
        let mut wide = FloatsMut::from(&mut values[..]);
        for lane in (0..n_values).step_by(V::N) {
            wide.set_lanes::<V>(lane, x.lanes(first + lane, 0.0));
        }
        let pairs = values.as_chunks_mut::<2>().0;
        for ([a, b], (cosine, sine)) in pairs.iter_mut().zip(cosines.iter().zip(sines)) {
            (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
        }
        let rotated = Floats::from(&values[..]);
        for lane in (0..n_values).step_by(V::N) {
            y.set_lanes::<V>(first + lane, rotated.lanes(lane, 0.0));
        }
    }
}

#[cfg(test)]
mod tests;
