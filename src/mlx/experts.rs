//! Mixtures of experts. Our kernel is one node, which reads the weights of the
//! experts that its rows go through where they are mapped.

use std::sync::Arc;

use super::array::{Array, Dtype};
use super::inputs::{Inputs, float_of, format_of, quantized_rows};
use super::ops::Ops;
use super::primitive::kernel;
use super::projections::{Linear, Weight};
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::kernels::{
    self, Choice, Columns, Expert, Floats, FloatsMut, Format, Gate, GateUp, Matrix, Pool,
    Projection, Routing, mix_experts,
};

/// The projections of a gated feed-forward network.
pub struct GatedLinears {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// The projections of an expert, or of many.
pub struct ExpertLinears {
    /// `None`: there is no gate.
    pub gate: Option<Linear>,
    pub up: Linear,
    pub down: Linear,
}

/// The experts that a router chooses from, as a checkpoint has them.
pub enum ExpertWeights {
    /// Each array has one more dimension, the first: the expert.
    Stacked(ExpertLinears),
    Joined(JoinedLinears),
    Separate(Vec<ExpertLinears>),
}

/// Stacked experts whose gate and up are one matrix, whose rows are in this order.
pub struct JoinedLinears {
    pub gate_up: Linear,
    pub down: Linear,
    pub order: RowOrder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// All rows of the gate in front of the others.
    GateFirst,
    /// A row of each in turn.
    InTurn,
}

/// An expert that every row goes through.
pub struct SharedExpert {
    pub weights: ExpertLinears,
    /// One row, whose sigmoid is the expert's share; `None`: 1.
    pub share: Option<Linear>,
}

/// A router, its experts, and how they are chosen and computed.
pub struct Experts {
    pub router: Linear,
    /// `[n]`, of the scores by which experts are chosen.
    pub corrections: Option<Array>,
    pub weights: ExpertWeights,
    pub shared: Option<SharedExpert>,
    pub routing: Routing,
    /// Of what the router gives.
    pub logit_factor: f32,
    /// `[n]`, of the shares of experts that were chosen.
    pub share_factors: Option<Array>,
    pub gate: Gate,
}

impl ExpertLinears {
    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    /// One expert of stacks of `n`.
    fn expert(&self, index: usize, n: usize) -> Expert<'_> {
        Expert {
            gate_up: match &self.gate {
                Some(gate) => GateUp::Separate([gate.part(index, n), self.up.part(index, n)]),
                None => GateUp::Up(self.up.part(index, n)),
            },
            down: self.down.part(index, n),
        }
    }
}

impl JoinedLinears {
    fn linears(&self) -> [&Linear; 2] {
        [&self.gate_up, &self.down]
    }

    /// One expert of `n`.
    fn expert(&self, index: usize, n: usize) -> Expert<'_> {
        Expert {
            gate_up: match self.order {
                RowOrder::GateFirst => GateUp::Separate(self.gate_up.halves(index, n)),
                RowOrder::InTurn => GateUp::InTurn(self.gate_up.part(index, n)),
            },
            down: self.down.part(index, n),
        }
    }
}

impl Linear {
    /// Where one of `n` equal parts lies. The arrays are evaluated.
    fn part(&self, index: usize, n: usize) -> Projection<'_> {
        let floats = |array| {
            let float = float_of(array).expect("checked by `prepare`");
            Floats::new(float, part_of(array, index, n))
        };
        let rows_of = |array: &Array| array.shape()[array.shape().len() - 2] as usize;
        let (matrix, rows) = match &self.weight {
            Weight::Float(weight) => (Matrix::Float(floats(weight)), rows_of(weight)),
            Weight::Transposed(weight) => {
                let (stride, first) = (weight.stride(), weight.outputs.start);
                let columns = Columns::new(floats(&weight.values), stride, first);
                (Matrix::Columns(columns), weight.outputs.len())
            }
            Weight::Quantized(weight) => {
                let format = format_of(weight).expect("checked by `prepare`");
                let columns = weight.codes.shape().last().copied().unwrap_or(0) * 32 / weight.bits;
                let parts: Vec<_> = self.weight.parts();
                let parts: Vec<_> = parts.iter().map(|array| part_of(array, index, n)).collect();
                let rows = quantized_rows(&parts, format, columns as usize);
                (Matrix::Quantized(rows), rows_of(&weight.codes))
            }
            Weight::Blocks(weight) => {
                let bytes = [part_of(&weight.bytes, index, n)];
                let format = Format::Blocks(weight.format);
                let rows = quantized_rows(&bytes, format, weight.columns());
                (Matrix::Quantized(rows), rows_of(&weight.bytes))
            }
        };
        Projection {
            matrix,
            rows,
            bias: self.bias.as_ref().map(floats),
        }
    }

    /// The first rows of one of `n` equal parts, and as many others behind them.
    fn halves(&self, index: usize, n: usize) -> [Projection<'_>; 2] {
        let whole = self.part(index, n);
        let rows = whole.rows / 2;
        match &self.weight {
            Weight::Transposed(weight) => [0, rows].map(|first| {
                assert!(self.bias.is_none(), "no family has one here");
                let float = float_of(&weight.values).expect("checked by `prepare`");
                let values = Floats::new(float, part_of(&weight.values, index, n));
                let first = weight.outputs.start + first;
                Projection {
                    matrix: Matrix::Columns(Columns::new(values, weight.stride(), first)),
                    rows,
                    bias: None,
                }
            }),
            _ => [0, 1].map(|half| Projection {
                rows,
                ..self.part(2 * index + half, 2 * n)
            }),
        }
    }

    /// Finds now what would fail in `part`.
    fn check(&self) -> Result<()> {
        if let Some(bias) = &self.bias {
            float_of(bias)?;
        }
        match &self.weight {
            Weight::Float(weight) => float_of(weight).map(|_| ()),
            Weight::Transposed(weight) => float_of(&weight.values).map(|_| ()),
            Weight::Quantized(weight) => format_of(weight).map(|_| ()),
            Weight::Blocks(_) => Ok(()),
        }
    }
}

fn part_of(array: &Array, index: usize, n: usize) -> &[u8] {
    let bytes = array.values().ok().flatten().expect("read by `prepare`");
    let length = bytes.len() / n;
    &bytes[index * length..(index + 1) * length]
}

impl Experts {
    /// Makes sure that the weights can be read in place.
    pub fn prepare(&self, stream: &Stream) -> Result<()> {
        let routed: Vec<&Linear> = match &self.weights {
            ExpertWeights::Stacked(all) => all.linears().collect(),
            ExpertWeights::Joined(all) => all.linears().to_vec(),
            ExpertWeights::Separate(all) => all.iter().flat_map(ExpertLinears::linears).collect(),
        };
        let shared = self.shared.iter();
        let shared = shared.flat_map(|shared| shared.weights.linears());
        let mut pending = Vec::new();
        let mut need = |array| -> Result<()> {
            if Array::values(array)?.is_none() {
                pending.push(array);
            }
            Ok(())
        };
        for linear in routed.into_iter().chain(shared) {
            linear.check()?;
            let mut arrays = linear.weight.parts().into_iter().chain(&linear.bias);
            arrays.try_for_each(&mut need)?;
        }
        for values in self.corrections.iter().chain(&self.share_factors) {
            float_of(values)?;
            need(values)?;
        }
        stream.eval(pending.iter().copied())?;
        for array in pending {
            array.values()?.ok_or_else(|| {
                Error::internal(format!("an expert's weights are not dense: {array:?}"))
            })?;
        }
        Ok(())
    }

    /// What is chosen by rows of the router's logits.
    pub(super) fn chooser(&self) -> impl Fn(&[f32]) -> Vec<Choice> + '_ {
        let values = |values: &Array| {
            let float = float_of(values).expect("checked by `prepare`");
            Floats::new(float, part_of(values, 0, 1)).to_vec()
        };
        let corrections = self.corrections.as_ref().map(values);
        let factors = self.share_factors.as_ref().map(values);
        move |logits| {
            let logits: Vec<f32> = logits.iter().map(|x| x * self.logit_factor).collect();
            let mut choices = self.routing.choose(&logits, corrections.as_deref());
            for choice in &mut choices {
                choice.share *= factors.as_ref().map_or(1.0, |all| all[choice.expert]);
            }
            choices
        }
    }

    /// By row: the experts that it goes through, the shared one behind the others.
    pub(super) fn choices(&self, logits: Floats<'_>, n_rows: usize) -> Vec<Vec<Choice>> {
        let n_experts = self.router.outputs() as usize;
        let columns = logits.len() / n_rows.max(1);
        let choose = self.chooser();
        let row = |row: usize| {
            let logits = logits.row(row, columns).to_vec();
            let (routed, share) = logits.split_at(n_experts);
            let mut choices = choose(routed);
            choices.extend(self.shared.iter().map(|_| Choice {
                expert: n_experts,
                share: share.first().map_or(1.0, |x| 1.0 / (1.0 + (-x).exp())),
            }));
            choices
        };
        (0..n_rows).map(row).collect()
    }

    /// The routed experts, and the shared one behind them.
    fn all(&self) -> Vec<Expert<'_>> {
        let n_experts = self.router.outputs() as usize;
        let routed: Vec<_> = match &self.weights {
            ExpertWeights::Stacked(stacks) => (0..n_experts)
                .map(|index| stacks.expert(index, n_experts))
                .collect(),
            ExpertWeights::Joined(stacks) => (0..n_experts)
                .map(|index| stacks.expert(index, n_experts))
                .collect(),
            ExpertWeights::Separate(all) => all.iter().map(|one| one.expert(0, 1)).collect(),
        };
        let shared = self.shared.iter().map(|shared| shared.weights.expert(0, 1));
        routed.into_iter().chain(shared).collect()
    }
}

impl Ops {
    /// What the experts that are chosen by `routed` make of `x`, `[n, columns]`, plus
    /// `addend`.
    pub fn mix_experts(
        &self,
        (routed, x): (&Array, &Array),
        experts: &Arc<Experts>,
        addend: Option<&Array>,
    ) -> Result<Array> {
        match self.pool() {
            Some(pool) => self.kernel_mixture(pool, (routed, x), experts, addend),
            None => self.stock_mixture((routed, x), experts, addend),
        }
    }

    fn kernel_mixture(
        &self,
        pool: &Arc<Pool>,
        (routed, x): (&Array, &Array),
        experts: &Arc<Experts>,
        addend: Option<&Array>,
    ) -> Result<Array> {
        let shared = experts.shared.as_ref();
        let share = shared.and_then(|shared| shared.share.as_ref());
        let routers: Vec<_> = std::iter::once(&experts.router).chain(share).collect();
        let logits = self.project_joined(pool, routed, &routers, Dtype::F32)?;
        let mut inputs = Inputs::default();
        let (rows, logits) = (inputs.floats(x)?, inputs.floats(&logits)?);
        let addend = addend.map(|addend| inputs.floats(addend)).transpose()?;
        let (pool, experts) = (pool.clone(), experts.clone());
        let (dtype, float) = (x.dtype()?, float_of(x)?);
        let (n_rows, arithmetic) = (x.dim(0) as usize, self.arithmetic());
        let body = move |inputs: &[&[u8]], out: &mut [u8]| {
            let choices = experts.choices(logits.of(inputs), n_rows);
            let all = kernels::Experts {
                all: &experts.all(),
                gate: experts.gate,
                shares: experts.routing.shares,
                arithmetic,
            };
            let addend = addend.map(|addend| addend.of(inputs));
            let out = FloatsMut::new(float, out);
            mix_experts(&pool, rows.of(inputs), &choices, all, addend, out);
        };
        kernel(self.stream(), inputs.as_slice(), x.shape(), dtype, body)
    }
}
