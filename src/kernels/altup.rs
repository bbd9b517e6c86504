//! Alternating updates (Baykal et al., 2023): a token has several states, of which a layer
//! updates one; the others follow by what it made of that one.
//!
//! Rows have the states of a token one after the other. Everything is float32 and rounded
//! once.

use super::floats::{Floats, FloatsMut};
use super::level::Level;
use super::norm::Norm;
use super::pool::Pool;
use super::share::share_rows;

/// How many states a token has, and how long each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States {
    pub n: usize,
    pub columns: usize,
}

impl States {
    pub fn width(&self) -> usize {
        self.n * self.columns
    }

    /// Computes rows of all states: `compute` gets a row's number and its states in
    /// float32, which hold what `from` has.
    fn rows(
        &self,
        pool: &Pool,
        from: Floats<'_>,
        out: FloatsMut<'_>,
        compute: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        assert_eq!(from.len(), out.len());
        let (level, width) = (Level::detect(), self.width());
        share_rows(pool, [out], width, &|row, [out]| {
            let mut states = vec![0.0; width];
            level.convert(from.row(row, width), FloatsMut::from(&mut states[..]));
            compute(row, &mut states);
            level.convert(Floats::from(&states[..]), out);
        });
    }

    /// `state i += sum over j of factor * coefficients[i, j] * state j`
    pub fn predict(
        &self,
        pool: &Pool,
        states: Floats<'_>,
        (coefficients, factor): (&[f32], f32),
        out: FloatsMut<'_>,
    ) {
        let n = self.n;
        self.rows(pool, states, out, &|row, states| {
            let before = states.to_vec();
            let own = &coefficients[row * n * n..(row + 1) * n * n];
            for (state, own) in states.chunks_mut(self.columns).zip(own.chunks(n)) {
                for (other, coefficient) in before.chunks(self.columns).zip(own) {
                    let coefficient = factor * coefficient;
                    let pairs = state.iter_mut().zip(other);
                    pairs.for_each(|(x, other)| *x += coefficient * other);
                }
            }
        });
    }

    /// `state i += (1 + factor * coefficients[i]) * (updated - state active)`
    pub fn correct(
        &self,
        pool: &Pool,
        (states, updated, active): (Floats<'_>, Floats<'_>, usize),
        (coefficients, factor): (&[f32], f32),
        out: FloatsMut<'_>,
    ) {
        assert_eq!(states.len(), updated.len() * self.n);
        let (n, columns, level) = (self.n, self.columns, Level::detect());
        self.rows(pool, states, out, &|row, states| {
            let mut change = vec![0.0; columns];
            let updated = updated.row(row, columns);
            level.convert(updated, FloatsMut::from(&mut change[..]));
            let before = &states[active * columns..(active + 1) * columns];
            let pairs = change.iter_mut().zip(before);
            pairs.for_each(|(change, before)| *change -= before);
            let own = &coefficients[row * n..(row + 1) * n];
            for (state, coefficient) in states.chunks_mut(columns).zip(own) {
                let share = 1.0 + factor * coefficient;
                let pairs = state.iter_mut().zip(&change);
                pairs.for_each(|(x, change)| *x += share * change);
            }
        });
    }

    /// Adds the normalized `x` to all states but the first.
    pub fn add_to_others(
        &self,
        pool: &Pool,
        (states, x): (Floats<'_>, Floats<'_>),
        norm: &Norm<'_>,
        out: FloatsMut<'_>,
    ) {
        assert_eq!(states.len(), x.len() * self.n);
        let (columns, level) = (self.columns, Level::detect());
        self.rows(pool, states, out, &|row, states| {
            let mut addend = vec![0.0; columns];
            norm.row(level, x.row(row, columns), FloatsMut::from(&mut addend[..]));
            for state in states.chunks_mut(columns).skip(1) {
                let pairs = state.iter_mut().zip(&addend);
                pairs.for_each(|(x, addend)| *x += addend);
            }
        });
    }

    /// State `index` of each row, times `weight`.
    pub fn one(
        &self,
        pool: &Pool,
        states: Floats<'_>,
        (index, weight): (usize, Option<Floats<'_>>),
        out: FloatsMut<'_>,
    ) {
        assert_eq!(states.len(), out.len() * self.n);
        let (columns, level) = (self.columns, Level::detect());
        let weight = weight.map(|weight| weight.to_vec());
        share_rows(pool, [out], columns, &|row, [out]| {
            let state = states.row(row * self.n + index, columns);
            let Some(weight) = &weight else {
                return level.convert(state, out);
            };
            let mut values = vec![0.0; columns];
            level.convert(state, FloatsMut::from(&mut values[..]));
            let pairs = values.iter_mut().zip(weight);
            pairs.for_each(|(x, weight)| *x *= weight);
            level.convert(Floats::from(&values[..]), out);
        });
    }

    /// Rows of all states: `first`, and each of `others` with the magnitude of that.
    pub fn spread(
        &self,
        pool: &Pool,
        (first, others): (Floats<'_>, &[Floats<'_>]),
        out: FloatsMut<'_>,
    ) {
        assert!(others.len() + 1 == self.n && out.len() == first.len() * self.n);
        let (columns, level) = (self.columns, Level::detect());
        share_rows(pool, [out], self.width(), &|row, [out]| {
            let mut states = vec![0.0; self.width()];
            let all = std::iter::once(&first).chain(others);
            for (x, state) in all.zip(states.chunks_mut(columns)) {
                level.convert(x.row(row, columns), FloatsMut::from(state));
            }
            equalize(&mut states, columns);
            level.convert(Floats::from(&states[..]), out);
        });
    }

    /// The mean of what `spread` would make.
    pub fn mean(
        &self,
        pool: &Pool,
        (first, others): (Floats<'_>, &[Floats<'_>]),
        out: FloatsMut<'_>,
    ) {
        assert!(others.len() + 1 == self.n && out.len() == first.len());
        let (columns, level) = (self.columns, Level::detect());
        share_rows(pool, [out], columns, &|row, [out]| {
            let mut states = vec![0.0; self.width()];
            let all = std::iter::once(&first).chain(others);
            for (x, state) in all.zip(states.chunks_mut(columns)) {
                level.convert(x.row(row, columns), FloatsMut::from(state));
            }
            equalize(&mut states, columns);
            let (mean, others) = states.split_at_mut(columns);
            for other in others.chunks(columns) {
                mean.iter_mut()
                    .zip(other)
                    .for_each(|(x, other)| *x += other);
            }
            mean.iter_mut().for_each(|x| *x /= self.n as f32);
            level.convert(Floats::from(&*mean), out);
        });
    }
}

/// What a mean of squares is at least when a state is divided by its root.
pub const LEAST_SQUARE: f32 = 1e-5;

/// Gives all states the magnitude of the first.
fn equalize(states: &mut [f32], columns: usize) {
    let mean_square = |state: &[f32]| {
        let sum: f64 = state.iter().map(|x| f64::from(x * x)).sum();
        (sum / columns as f64) as f32
    };
    let (first, others) = states.split_at_mut(columns);
    let magnitude = mean_square(first).sqrt();
    for state in others.chunks_mut(columns) {
        let factor = magnitude / mean_square(state).max(LEAST_SQUARE).sqrt();
        state.iter_mut().for_each(|x| *x *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::values;

    const SHAPE: States = States { n: 3, columns: 5 };
    const ROWS: usize = 4;

    fn run(compute: impl FnOnce(&Pool, FloatsMut<'_>), length: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; length];
        compute(&Pool::new(2), FloatsMut::from(&mut out[..]));
        out
    }

    fn assert_close(found: &[f32], expected: impl Fn(usize, usize, usize) -> f64) {
        let columns = SHAPE.columns;
        let n = found.len() / ROWS / columns;
        for (place, found) in found.iter().enumerate() {
            let (row, state) = (place / columns / n, place / columns % n);
            let expected = expected(row, state, place % columns);
            assert!(
                (f64::from(*found) - expected).abs() < 1e-5,
                "{found} {expected}"
            );
        }
    }

    fn states() -> Vec<f32> {
        values(1, ROWS * SHAPE.width())
    }

    fn state_of(states: &[f32], (row, state, column): (usize, usize, usize)) -> f64 {
        f64::from(states[(row * SHAPE.n + state) * SHAPE.columns + column])
    }

    #[test]
    fn states_are_predicted_and_corrected() {
        let (states, updated) = (states(), values(2, ROWS * SHAPE.columns));
        let coefficients = values(3, ROWS * 9);
        let own = |row: usize, index: usize| 0.5 * f64::from(coefficients[row * 9 + index]);
        let found = run(
            |pool, out| {
                let states = Floats::from(&states[..]);
                SHAPE.predict(pool, states, (&coefficients, 0.5), out);
            },
            states.len(),
        );
        assert_close(&found, |row, state, column| {
            let others = (0..3)
                .map(|other| own(row, state * 3 + other) * state_of(&states, (row, other, column)));
            state_of(&states, (row, state, column)) + others.sum::<f64>()
        });
        let coefficients = &coefficients[..ROWS * 3];
        let found = run(
            |pool, out| {
                let rows = (Floats::from(&states[..]), Floats::from(&updated[..]), 1);
                SHAPE.correct(pool, rows, (coefficients, 0.5), out);
            },
            states.len(),
        );
        assert_close(&found, |row, state, column| {
            let before = state_of(&states, (row, 1, column));
            let change = f64::from(updated[row * SHAPE.columns + column]) - before;
            let share = 1.0 + 0.5 * f64::from(coefficients[row * 3 + state]);
            state_of(&states, (row, state, column)) + share * change
        });
    }

    #[test]
    fn other_states_get_what_is_let_in_and_the_magnitude_of_the_first() {
        let (states, x) = (states(), values(2, ROWS * SHAPE.columns));
        let norm = Norm::Rms {
            weight: None,
            offset: 0.0,
            eps: 0.0,
        };
        let square = |x: &[f32]| x.iter().map(|x| f64::from(x * x)).sum::<f64>() / 5.0;
        let found = run(
            |pool, out| {
                let rows = (Floats::from(&states[..]), Floats::from(&x[..]));
                SHAPE.add_to_others(pool, rows, &norm, out);
            },
            states.len(),
        );
        assert_close(&found, |row, state, column| {
            let own = &x[row * 5..row * 5 + 5];
            let addend = f64::from(own[column]) / square(own).sqrt();
            state_of(&states, (row, state, column)) + if state > 0 { addend } else { 0.0 }
        });
        let parts: Vec<_> = (1..4)
            .map(|seed| values(seed, ROWS * SHAPE.columns))
            .collect();
        let all = |out: FloatsMut<'_>, pool: &Pool, takes_mean: bool| {
            let others = [&parts[1], &parts[2]].map(|part| Floats::from(&part[..]));
            let all = (Floats::from(&parts[0][..]), &others[..]);
            match takes_mean {
                true => SHAPE.mean(pool, all, out),
                false => SHAPE.spread(pool, all, out),
            }
        };
        let expected = |row: usize, state: usize, column: usize| {
            let [first, own] = [0, state].map(|part: usize| &parts[part][row * 5..row * 5 + 5]);
            f64::from(own[column]) * (square(first) / square(own)).sqrt()
        };
        let found = run(|pool, out| all(out, pool, false), states.len());
        assert_close(&found, expected);
        let found = run(|pool, out| all(out, pool, true), x.len());
        assert_close(&found, |row, _, column| {
            (0..3)
                .map(|state| expected(row, state, column))
                .sum::<f64>()
                / 3.0
        });
    }

    #[test]
    fn one_state_may_be_weighted() {
        let (states, weight) = (states(), values(7, SHAPE.columns));
        let found = run(
            |pool, out| {
                let weight = Some(Floats::from(&weight[..]));
                SHAPE.one(pool, Floats::from(&states[..]), (2, weight), out);
            },
            ROWS * SHAPE.columns,
        );
        assert_close(&found, |row, _, column| {
            state_of(&states, (row, 2, column)) * f64::from(weight[column])
        });
    }
}
