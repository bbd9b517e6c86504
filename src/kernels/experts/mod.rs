//! Mixtures of experts: each row goes through a few of many feed-forward
//! networks, and their results are added. Only weights of experts that a row
//! goes through are read.

mod routing;

use std::collections::BTreeMap;

use super::activation::Gate;
use super::float::Float;
use super::floats::{Floats, FloatsMut};
use super::lanes::{Kernel, Lanes};
use super::level::Level;
use super::linear::{Arithmetic, Finish, Projection, Rows, linear};
use super::output::Output;
use super::pool::Pool;
pub use routing::{Choice, Groups, Routing, Scores, Shares};

/// One feed-forward network: `down(up(x) through the gate)`
#[derive(Clone, Copy)]
pub struct Expert<'a> {
    pub gate_up: GateUp<'a>,
    pub down: Projection<'a>,
}

/// The gate and what goes through it.
#[derive(Clone, Copy)]
pub enum GateUp<'a> {
    Separate([Projection<'a>; 2]),
    /// Rows of both in turn, the gate's first.
    InTurn(Projection<'a>),
    /// There is no gate.
    Up(Projection<'a>),
}

impl<'a> GateUp<'a> {
    fn projections(&self) -> &[Projection<'a>] {
        match self {
            GateUp::Separate(both) => both,
            GateUp::InTurn(one) | GateUp::Up(one) => std::slice::from_ref(one),
        }
    }

    /// Rows of all its matrices.
    fn rows(&self) -> usize {
        self.projections().iter().map(|one| one.rows).sum()
    }

    /// How long the rows are that have gone through the gate.
    fn width(&self) -> usize {
        match self {
            GateUp::Separate(_) | GateUp::InTurn(_) => self.rows() / 2,
            GateUp::Up(up) => up.rows,
        }
    }
}

/// What rows may go through.
#[derive(Clone, Copy)]
pub struct Experts<'a> {
    /// By index.
    pub all: &'a [Expert<'a>],
    pub gate: Gate,
    pub shares: Shares,
    pub arithmetic: Arithmetic,
}

/// Rows that a piece of work adds up.
const PIECE_ROWS: usize = 16;

/// Writes the sum of `share * expert(row)`, or of `expert(share * row)`, over the choices of
/// each row of `x`, `[choices.len(), columns]`, plus the row of `addend`.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub fn mix_experts(
    pool: &Pool,
    x: Floats<'_>,
    choices: &[Vec<Choice>],
    experts: Experts<'_>,
    addend: Option<Floats<'_>>,
    out: FloatsMut<'_>,
) {
    if choices.is_empty() {
        return assert!(x.is_empty() && out.is_empty());
    }
    assert!(x.len().is_multiple_of(choices.len()));
    let level = Level::detect();
    let mut sums = vec![0.0; out.len()];
    if let Some(addend) = addend {
        level.convert(addend, FloatsMut::from(&mut sums[..]));
    }
    let mixture = Mixture {
        pool,
        level,
        x,
        columns: x.len() / choices.len(),
        experts,
    };
    match choices {
        [choices] => mixture.add_one_row(choices, &mut sums),
        _ => mixture.add_by_expert(choices, &mut sums),
    }
    level.convert(Floats::from(&sums[..]), out);
}

struct Mixture<'a> {
    pool: &'a Pool,
    level: Level,
    x: Floats<'a>,
    columns: usize,
    experts: Experts<'a>,
}

impl Mixture<'_> {
    /// All experts see the same row: their first projections are one product.
    fn add_one_row(&self, choices: &[Choice], sums: &mut [f32]) {
        // What they give is added in the same order as with more rows.
        let mut choices = choices.to_vec();
        choices.sort_unstable_by_key(|choice| choice.expert);
        let expert = |choice: &Choice| self.experts.all[choice.expert];
        let chosen: Vec<_> = choices.iter().map(expert).collect();
        let first = chosen.iter().flat_map(|e| e.gate_up.projections());
        let first: Vec<_> = first.copied().collect();
        let mut products = self.product(self.x, self.columns, &first);
        let mut rest = &mut products[..];
        for (choice, expert) in choices.iter().zip(&chosen) {
            let (mine, behind) = rest.split_at_mut(expert.gate_up.rows());
            rest = behind;
            let (of_input, of_result) = self.experts.shares.factors(choice.share);
            multiply(mine, of_input);
            let mut gated = vec![0; expert.gate_up.width() * self.float().bytes()];
            let row = FloatsMut::new(self.float(), &mut gated);
            match expert.gate_up {
                GateUp::Separate([gate, _]) => self.gate(mine.split_at(gate.rows), row),
                GateUp::InTurn(_) => {
                    let [gates, up] = apart(mine);
                    self.gate((&gates, &up), row);
                }
                GateUp::Up(_) => self.gate((mine, mine), row),
            }
            let gated = Floats::new(self.float(), &gated);
            let result = self.product(gated, gated.len(), &[expert.down]);
            self.level.add_scaled(sums, &result, of_result);
        }
    }

    /// One expert after the other, each with all of its rows.
    fn add_by_expert(&self, choices: &[Vec<Choice>], sums: &mut [f32]) {
        let row_bytes = self.columns * self.float().bytes();
        for (index, rows) in by_expert(choices) {
            let expert = self.experts.all[index];
            let mut x = Vec::with_capacity(rows.len() * row_bytes);
            for (row, _) in &rows {
                x.extend_from_slice(self.x.row(*row, self.columns).bytes());
            }
            let x = Floats::new(self.float(), &x);
            let width = expert.gate_up.width();
            let mut gated = vec![0; rows.len() * width * self.float().bytes()];
            match &expert.gate_up {
                GateUp::Separate(both) if !self.scales_inputs(&rows) => linear(
                    self.pool,
                    &plain_rows(x, self.columns),
                    both,
                    Finish::Gated(self.experts.gate),
                    self.experts.arithmetic,
                    &mut gated,
                    self.float(),
                ),
                GateUp::Separate(both) => {
                    let products = self.scaled_product(x, &rows, both);
                    let gated = FloatsMut::new(self.float(), &mut gated);
                    let products = Floats::from(&products[..]);
                    let gate = self.experts.gate;
                    gate.joined_rows(self.pool, products, width, gated);
                }
                GateUp::InTurn(one) => {
                    let [gates, up] = apart(&self.scaled_product(x, &rows, &[*one]));
                    let (gates, up) = (Floats::from(&gates[..]), Floats::from(&up[..]));
                    let gated = FloatsMut::new(self.float(), &mut gated);
                    self.experts.gate.rows(self.pool, gates, up, width, gated);
                }
                GateUp::Up(one) => {
                    let up = self.scaled_product(x, &rows, &[*one]);
                    let up = Floats::from(&up[..]);
                    let gated = FloatsMut::new(self.float(), &mut gated);
                    self.experts.gate.rows(self.pool, up, up, width, gated);
                }
            }
            let gated = Floats::new(self.float(), &gated);
            let results = self.product(gated, width, &[expert.down]);
            self.add(&rows, &results, sums);
        }
    }

    fn scales_inputs(&self, rows: &[(usize, f32)]) -> bool {
        let factor = |share| self.experts.shares.factors(share).0;
        rows.iter().any(|(_, share)| factor(*share) != 1.0)
    }

    /// The products of an expert's rows, times the factors of its inputs, with which they
    /// are products of these.
    fn scaled_product(
        &self,
        x: Floats<'_>,
        rows: &[(usize, f32)],
        projections: &[Projection<'_>],
    ) -> Vec<f32> {
        let mut products = self.product(x, self.columns, projections);
        let width = products.len() / rows.len();
        let all = Output::new(&mut products);
        self.pool.run_ranges(rows.len(), PIECE_ROWS, &|range| {
            for index in range {
                let (factor, _) = self.experts.shares.factors(rows[index].1);
                // SAFETY: each row is in one range.
                let row = unsafe { all.part(index * width..(index + 1) * width) };
                multiply(row, factor);
            }
        });
        products
    }

    fn gate(&self, (gates, up): (&[f32], &[f32]), out: FloatsMut<'_>) {
        let (gates, up) = (Floats::from(gates), Floats::from(up));
        self.experts.gate.row(self.level, gates, up, out);
    }

    fn float(&self) -> Float {
        self.x.float()
    }

    /// The products of rows with all projections, next to each other.
    fn product(&self, x: Floats<'_>, columns: usize, projections: &[Projection<'_>]) -> Vec<f32> {
        let x = plain_rows(x, columns);
        let width: usize = projections.iter().map(|projection| projection.rows).sum();
        let mut products = vec![0.0; x.n() * width];
        let out = FloatsMut::from(&mut products[..]).into_bytes();
        let arithmetic = self.experts.arithmetic;
        linear(
            self.pool,
            &x,
            projections,
            Finish::Store,
            arithmetic,
            out,
            Float::F32,
        );
        products
    }

    /// `sums[row] += factor * result` for each row of an expert.
    fn add(&self, rows: &[(usize, f32)], results: &[f32], sums: &mut [f32]) {
        let columns = results.len() / rows.len();
        let sums = Output::new(sums);
        self.pool.run_ranges(rows.len(), PIECE_ROWS, &|range| {
            for index in range {
                let (row, share) = rows[index];
                let (_, factor) = self.experts.shares.factors(share);
                // SAFETY: a row goes through an expert once.
                let sum = unsafe { sums.part(row * columns..(row + 1) * columns) };
                let result = &results[index * columns..(index + 1) * columns];
                self.level.add_scaled(sum, result, factor);
            }
        });
    }
}

/// The rows of each expert that is chosen, and its share in them.
fn by_expert(choices: &[Vec<Choice>]) -> BTreeMap<usize, Vec<(usize, f32)>> {
    let mut groups: BTreeMap<usize, Vec<(usize, f32)>> = BTreeMap::new();
    for (row, choices) in choices.iter().enumerate() {
        for choice in choices {
            let rows = groups.entry(choice.expert).or_default();
            assert!(rows.last().is_none_or(|(last, _)| *last != row));
            rows.push((row, choice.share));
        }
    }
    groups
}

/// Rows that go through some of many experts.
#[derive(Clone, Copy, Debug)]
pub struct MixtureShape {
    pub n_rows: usize,
    pub columns: usize,
    /// Of the largest expert.
    pub intermediate: usize,
    pub n_experts: usize,
    /// Of each row.
    pub n_chosen: usize,
    pub float: Float,
}

impl MixtureShape {
    /// Sums, and what the largest group of rows takes: all of them, if they choose
    /// the same expert.
    pub fn scratch_bytes(&self) -> usize {
        let (float, wide) = (self.float.bytes(), size_of::<f32>());
        let sums = self.n_rows * self.columns * wide;
        let found = self.n_experts * size_of::<Expert<'_>>();
        let chosen = self.n_rows * (self.n_chosen * size_of::<Choice>() + size_of::<Vec<Choice>>());
        let work = match self.n_rows {
            1 => {
                let products = 2 * self.n_chosen * self.intermediate * wide;
                products + self.intermediate * float + self.columns * wide
            }
            n_rows => {
                // A vector that grows has room for up to twice as many.
                let grouped = 2 * n_rows * self.n_chosen * size_of::<(usize, f32)>();
                // Gate and up in turn are taken apart in front of the gate.
                let inner = self.intermediate * (float + 4 * wide);
                grouped + n_rows * (self.columns * (float + wide) + inner)
            }
        };
        sums + found + chosen + work
    }
}

fn multiply(values: &mut [f32], factor: f32) {
    if factor != 1.0 {
        values.iter_mut().for_each(|value| *value *= factor);
    }
}

/// What is in turn, one after the other.
fn apart(values: &[f32]) -> [Vec<f32>; 2] {
    [0, 1].map(|first| values.iter().skip(first).step_by(2).copied().collect())
}

fn plain_rows(values: Floats<'_>, columns: usize) -> Rows<'_> {
    Rows {
        values,
        columns,
        norm: None,
    }
}

impl Level {
    /// `values[i] += factor * addends[i]`
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_scaled(self, values: &mut [f32], addends: &[f32], factor: f32) {
        assert_eq!(values.len(), addends.len());
        self.run(AddScaled {
            values,
            addends,
            factor,
        });
    }
}

struct AddScaled<'a> {
    values: &'a mut [f32],
    addends: &'a [f32],
    factor: f32,
}

impl Kernel for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let addends = Floats::from(self.addends);
        let mut values = FloatsMut::from(self.values);
        for first in (0..values.len()).step_by(V::N) {
            let value: V = values.as_floats().lanes(first, 0.0);
            let addend: V = addends.lanes(first, 0.0);
            values.set_lanes(first, addend.mul_add(V::splat(self.factor), value));
        }
    }
}

#[cfg(test)]
mod tests;
