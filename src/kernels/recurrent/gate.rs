//! [`GatedNorm`]: what a head says, normalized and through a gate.

use super::parts::HeadParts;
use crate::kernels::activation::Gate;
use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::level::Level;
use crate::kernels::norm::Norm;
use crate::kernels::pool::Pool;
use crate::kernels::share::share_rows;

/// Of rows, or of parts of them.
#[derive(Clone, Copy)]
pub struct GatedNorm<'a> {
    pub gate: Gate,
    pub norm: Option<GroupNorm<'a>>,
}

/// The root mean square norm of each of equally long groups of a row by itself.
#[derive(Clone, Copy)]
pub struct GroupNorm<'a> {
    /// As long as a row.
    pub weight: Floats<'a>,
    pub eps: f32,
    pub n_groups: usize,
    /// Whether the gate comes behind the norm.
    pub is_before_gate: bool,
}

impl GatedNorm<'_> {
    /// `scratch` is as long as a row.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn row(
        &self,
        level: Level,
        said: &[f32],
        gate: Floats<'_>,
        scratch: &mut [f32],
        out: FloatsMut<'_>,
    ) {
        let said = Floats::from(said);
        match &self.norm {
            None => self.gate.row(level, gate, said, out),
            Some(norm) if norm.is_before_gate => {
                norm.row(level, said, FloatsMut::from(&mut *scratch));
                self.gate.row(level, gate, Floats::from(&*scratch), out);
            }
            Some(norm) => {
                let gated = FloatsMut::from(&mut *scratch);
                self.gate.row(level, gate, said, gated);
                norm.row(level, Floats::from(&*scratch), out);
            }
        }
    }

    /// Rows of what `n_heads` say, each through its part of the gates.
    ///
    /// # Panics
    /// If the sizes do not belong together.
    pub fn rows(
        &self,
        pool: &Pool,
        said: Floats<'_>,
        (gates, n_heads): (&HeadParts<'_>, usize),
        out: FloatsMut<'_>,
    ) {
        assert_eq!(said.len(), out.len());
        gates.place.check(n_heads);
        let length = gates.place.length;
        let columns = n_heads * length;
        let level = Level::detect();
        share_rows(pool, [out], columns, &|row, [mut out]| {
            let said = said.row(row, columns);
            let mut scratch = vec![0.0; 2 * length];
            let (wide, scratch) = scratch.split_at_mut(length);
            for head in 0..n_heads {
                level.convert(said.row(head, length), FloatsMut::from(&mut *wide));
                let out = out.row_mut(head, length);
                self.row(level, wide, gates.part(row, head), scratch, out);
            }
        });
    }
}

impl GroupNorm<'_> {
    fn row(&self, level: Level, x: Floats<'_>, mut y: FloatsMut<'_>) {
        assert!(x.len() == self.weight.len() && x.len().is_multiple_of(self.n_groups));
        let length = x.len() / self.n_groups;
        for group in 0..self.n_groups {
            let norm = Norm::Rms {
                weight: Some(self.weight.row(group, length)),
                offset: 0.0,
                eps: self.eps,
            };
            norm.row(level, x.row(group, length), y.row_mut(group, length));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parts::PartPlace;
    use super::*;
    use crate::kernels::activation::Activation;
    use crate::kernels::testing::{FLOATS, Packed, assert_all_close, values};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn rows_go_through_their_norms_and_gates(
            n in 0_usize..5, n_heads in 1_usize..4, n_groups in 1_usize..4, per_group in 1_usize..30,
            norms in prop::sample::select(vec![None, Some(false), Some(true)]),
            float in prop::sample::select(&FLOATS[..]), seed: u32,
        ) {
            let length = n_groups * per_group;
            let columns = n_heads * (length + 1);
            let place = PartPlace { columns, first: 1, stride: length + 1, length };
            let said = Packed::of(float, 1, &values(seed, n * n_heads * length));
            let gates = Packed::of(float, 1, &values(!seed, n * columns));
            let weight = Packed::of(float, 1, &values(seed ^ 1, length));
            let norm = norms.map(|is_before_gate| GroupNorm {
                weight: weight.floats(),
                eps: 0.01,
                n_groups,
                is_before_gate,
            });
            let gated = GatedNorm { gate: Gate::Times(Activation::Silu), norm };
            let mut out = Packed::unset(float, 1, n * n_heads * length);
            let parts = HeadParts { rows: gates.floats(), place };
            gated.rows(&Pool::new(2), said.floats(), (&parts, n_heads), out.floats_mut());

            let (said, gates, weight) = (said.f64s(), gates.f64s(), weight.f64s());
            let gate = |row: usize, index: usize| {
                let (head, index) = (index / length, index % length);
                let gate = gates[row * columns + 1 + head * (length + 1) + index];
                gate / (1.0 + (-gate).exp())
            };
            let normalize = |x: Vec<f64>| -> Vec<f64> {
                let groups = x.chunks(per_group).enumerate();
                groups.flat_map(|(group, x)| {
                    let mean = x.iter().map(|x| x * x).sum::<f64>() / per_group as f64;
                    let first = group % n_groups * per_group;
                    let weights = &weight[first..first + per_group];
                    let factor = (mean + f64::from(0.01_f32)).powf(-0.5);
                    x.iter().zip(weights).map(move |(x, w)| x * w * factor).collect::<Vec<_>>()
                }).collect()
            };
            let through = |row: usize, x: Vec<f64>| -> Vec<f64> {
                x.iter().enumerate().map(|(index, x)| x * gate(row, index)).collect()
            };
            let expected: Vec<f64> = said.chunks(n_heads * length).enumerate().flat_map(|(row, x)| {
                match norms {
                    None => through(row, x.to_vec()),
                    Some(true) => through(row, normalize(x.to_vec())),
                    Some(false) => normalize(through(row, x.to_vec())),
                }
            }).collect();
            assert_all_close(&out, &expected, (1e-5, 1e-5));
        }
    }
}
