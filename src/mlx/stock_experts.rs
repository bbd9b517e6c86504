//! Mixtures of experts by stock operations. Stacked weights are gathered inside
//! of the graph; for separate ones the router is evaluated first, so that only the
//! chosen experts are computed. So are stacks that gathering would make float32 as a
//! whole, which MLX's CPU backend does.

use mlx_sys as sys;

use super::array::{Array, Dtype};
use super::device::Device;
use super::experts::{
    ExpertLinears, ExpertWeights, Experts, JoinedLinears, RowOrder, SharedExpert,
};
use super::ops::{NULL, Ops, some};
use super::projections::{Linear, TransposedWeight, Weight};
use super::quantized::{QuantizedWeight, no_blocks, raw_or_null};
use crate::error::Result;
use crate::kernels::{Choice, Gate, Routing, Shares};

impl Ops {
    pub(super) fn stock_mixture(
        &self,
        (routed, x): (&Array, &Array),
        experts: &Experts,
        addend: Option<&Array>,
    ) -> Result<Array> {
        let logits = self.astype(&self.stock_linear(routed, &experts.router)?, Dtype::F32)?;
        let routed = match &experts.weights {
            weights if self.are_apart(weights)? => {
                let expert =
                    |rows: &Array, index| self.chosen_expert(rows, weights, index, experts.gate);
                self.one_by_one(x, &logits, experts, &expert)?
            }
            ExpertWeights::Stacked(stacks) => {
                let gated = |x: &Array, chosen: &Array| {
                    let up = self.gathered_linear(x, &stacks.up, chosen)?;
                    let gates = stacks.gate.as_ref();
                    let gates = gates.map(|gate| self.gathered_linear(x, gate, chosen));
                    self.gated_or_activated(experts.gate, gates.transpose()?, &up)
                };
                self.gathered(x, &logits, experts, &gated, &stacks.down)?
            }
            ExpertWeights::Separate(_) => unreachable!("they are apart"),
            ExpertWeights::Joined(stacks) => {
                let gated = |x: &Array, chosen: &Array| {
                    let [gates, up] = self.joined_linear(x, stacks, chosen)?;
                    self.stock_gate(experts.gate, &gates, &up)
                };
                self.gathered(x, &logits, experts, &gated, &stacks.down)?
            }
        };
        let sum = match &experts.shared {
            Some(shared) => self.add(&routed, &self.stock_shared(x, shared, experts.gate)?)?,
            None => routed,
        };
        let sum = match addend {
            Some(addend) => self.add(&sum, addend)?,
            None => sum,
        };
        self.astype(&sum, x.dtype()?)
    }

    fn stock_shared(&self, x: &Array, shared: &SharedExpert, gate: Gate) -> Result<Array> {
        let result = self.stock_expert(x, &shared.weights, gate)?;
        let Some(share) = &shared.share else {
            return Ok(result);
        };
        let share = self.astype(&self.stock_linear(x, share)?, Dtype::F32)?;
        self.multiply(&result, &self.sigmoid(&share)?)
    }

    fn stock_expert(&self, x: &Array, weights: &ExpertLinears, gate: Gate) -> Result<Array> {
        let up = self.stock_linear(x, &weights.up)?;
        let gates = weights.gate.as_ref();
        let gates = gates.map(|gate| self.stock_linear(x, gate));
        let gated = self.gated_or_activated(gate, gates.transpose()?, &up)?;
        self.stock_linear(&gated, &weights.down)
    }

    fn gated_or_activated(&self, gate: Gate, gates: Option<Array>, up: &Array) -> Result<Array> {
        match gates {
            Some(gates) => self.stock_gate(gate, &gates, up),
            None => self.plain_gate(gate, up, up),
        }
    }

    /// The routed experts' sum, float32. `gated` gives what goes into `down`.
    fn gathered(
        &self,
        x: &Array,
        logits: &Array,
        experts: &Experts,
        gated: &dyn Fn(&Array, &Array) -> Result<Array>,
        down: &Linear,
    ) -> Result<Array> {
        let (n, columns) = (x.dim(0), x.dim(1));
        let n_chosen = experts.routing.n_chosen as i32;
        let (chosen, shares) = self.stock_routes(logits, experts)?;
        let x = self.reshape(x, &[n, 1, 1, columns])?;
        let of_inputs = experts.routing.shares == Shares::OfInputs;
        let x = match of_inputs {
            true => {
                let shares = self.reshape(&shares, &[n, n_chosen, 1, 1])?;
                self.scaled_inputs(&x, &shares)?
            }
            false => x,
        };
        let results = self.gathered_linear(&gated(&x, &chosen)?, down, &chosen)?;
        let results = self.reshape(&results, &[n, n_chosen, columns])?;
        if of_inputs {
            return self.sum(&self.astype(&results, Dtype::F32)?, 1);
        }
        let shares = self.reshape(&shares, &[n, n_chosen, 1])?;
        self.sum(&self.multiply(&results, &shares)?, 1)
    }

    /// Inputs of experts times their shares, in the inputs' type.
    fn scaled_inputs(&self, x: &Array, shares: &Array) -> Result<Array> {
        let wide = self.multiply(&self.astype(x, Dtype::F32)?, shares)?;
        self.astype(&wide, x.dtype()?)
    }

    /// The chosen experts' indices and shares, both `[n, n_chosen]`: inside of the
    /// graph if they are the largest of a softmax.
    fn stock_routes(&self, logits: &Array, experts: &Experts) -> Result<(Array, Array)> {
        let routing = &experts.routing;
        let (n_chosen, normalized) = (routing.n_chosen as i32, routing.normalized);
        let is_softmax = *routing == Routing::softmax(routing.n_chosen, normalized);
        if !is_softmax || experts.corrections.is_some() {
            let routes = self.evaluated_routes(logits, experts)?;
            let chosen: Vec<_> = routes.iter().map(|choice| choice.expert as i32).collect();
            let shares: Vec<_> = routes.iter().map(|choice| choice.share).collect();
            let shape = [logits.dim(0), n_chosen];
            return Ok((
                Array::from_i32(&chosen, &shape)?,
                Array::from_f32(&shares, &shape)?,
            ));
        }
        let logits = &match experts.logit_factor {
            1.0 => logits.clone(),
            factor => self.scale(logits, factor)?,
        };
        let negative = self.unary(sys::mlx_negative, logits)?;
        let order = Array::build(|out| {
            let stream = self.stream().raw();
            // SAFETY: live handles; mlx-c keeps references of its own.
            unsafe { sys::mlx_argpartition_axis(out, negative.raw(), n_chosen - 1, -1, stream) }
        })?;
        let chosen = self.slice(&order, &[0, 0], &[logits.dim(0), n_chosen])?;
        let shares = match normalized {
            true => self.softmax(&self.take_along_rows(logits, &chosen)?)?,
            false => self.take_along_rows(&self.softmax(logits)?, &chosen)?,
        };
        match &experts.share_factors {
            Some(factors) => {
                let factors = self.astype(&self.take_rows(factors, &chosen)?, Dtype::F32)?;
                Ok((chosen, self.multiply(&shares, &factors)?))
            }
            None => Ok((chosen, shares)),
        }
    }

    /// `x W^T + b` with the chosen of stacked weights: `[n, n_chosen, 1, outputs]`.
    fn gathered_linear(&self, x: &Array, stack: &Linear, chosen: &Array) -> Result<Array> {
        let stream = self.stream().raw();
        let product = match &stack.weight {
            Weight::Float(weight) => {
                self.gathered_floats(x, &self.transpose(weight, &[0, 2, 1])?, chosen)?
            }
            Weight::Transposed(weight) => {
                self.gathered_floats(x, &self.own_outputs(weight)?, chosen)?
            }
            Weight::Blocks(_) => return Err(no_blocks()),
            Weight::Quantized(weight) => Array::build(|out| {
                // SAFETY: as above, and a literal.
                unsafe {
                    sys::mlx_gather_qmm(
                        out,
                        x.raw(),
                        weight.codes.raw(),
                        weight.scales.raw(),
                        raw_or_null(weight.biases.as_ref()),
                        NULL,
                        chosen.raw(),
                        true,
                        some(weight.group_size),
                        some(weight.bits),
                        weight.mode.name().as_ptr(),
                        false,
                        stream,
                    )
                }
            })?,
        };
        let product = self.astype(&product, x.dtype()?)?;
        let Some(bias) = &stack.bias else {
            return Ok(product);
        };
        let bias = self.take_rows(bias, chosen)?;
        let shape = [chosen.dim(0), chosen.dim(1), 1, bias.dim(2)];
        self.add(&product, &self.reshape(&bias, &shape)?)
    }

    /// `x` times the chosen matrices `[inputs, outputs]`.
    fn gathered_floats(&self, x: &Array, matrices: &Array, chosen: &Array) -> Result<Array> {
        // MLX's CPU backend gathers nothing but float32.
        let wide = self.stream().device() == Device::Cpu;
        let wide = if wide { Dtype::F32 } else { x.dtype()? };
        let x = self.astype(x, wide)?;
        let stream = self.stream().raw();
        Array::build(|out| {
            let (x, matrices) = (x.raw(), matrices.raw());
            // SAFETY: as above, or null.
            unsafe { sys::mlx_gather_mm(out, x, matrices, NULL, chosen.raw(), false, stream) }
        })
    }

    /// Gate and up of the chosen experts, each `[n, n_chosen, 1, columns]`.
    fn joined_linear(
        &self,
        x: &Array,
        stacks: &JoinedLinears,
        chosen: &Array,
    ) -> Result<[Array; 2]> {
        let both = self.gathered_linear(x, &stacks.gate_up, chosen)?;
        self.gate_and_up(&both, stacks.order)
    }

    /// Both, `[n, n_chosen, 1, columns]`, of rows that have them.
    fn gate_and_up(&self, both: &Array, order: RowOrder) -> Result<[Array; 2]> {
        let [n, n_chosen, columns] = [both.dim(0), both.dim(1), both.dim(3) / 2];
        let in_turn = order == RowOrder::InTurn;
        let pairs = if in_turn { [columns, 2] } else { [2, columns] };
        let both = self.reshape(both, &[n, n_chosen, pairs[0], pairs[1]])?;
        let half = |half: i32| {
            let (start, stop) = match in_turn {
                true => ([0, 0, 0, half], [n, n_chosen, columns, half + 1]),
                false => ([0, 0, half, 0], [n, n_chosen, half + 1, columns]),
            };
            let part = self.slice(&both, &start, &stop)?;
            self.reshape(&part, &[n, n_chosen, 1, columns])
        };
        Ok([half(0)?, half(1)?])
    }

    /// The routed experts' sum, float32.
    fn one_by_one(
        &self,
        x: &Array,
        logits: &Array,
        experts: &Experts,
        expert: &dyn Fn(&Array, usize) -> Result<Array>,
    ) -> Result<Array> {
        let (n, columns) = (x.dim(0), x.dim(1));
        let n_chosen = experts.routing.n_chosen;
        let routes = self.evaluated_routes(logits, experts)?;
        let mut results = Vec::new();
        // Where each of `routes` is found among the results.
        let mut places = vec![0; routes.len()];
        let mut n_placed = 0;
        for index in 0..experts.router.outputs() as usize {
            let mine = || (0..routes.len()).filter(|route| routes[*route].expert == index);
            let rows: Vec<i32> = mine().map(|route| (route / n_chosen) as i32).collect();
            if rows.is_empty() {
                continue;
            }
            for route in mine() {
                places[route] = n_placed;
                n_placed += 1;
            }
            let n_rows = rows.len() as i32;
            let rows = self.take_rows(x, &Array::from_i32(&rows, &[n_rows])?)?;
            let rows = match experts.routing.shares {
                Shares::OfInputs => {
                    let shares: Vec<f32> = mine().map(|route| routes[route].share).collect();
                    self.scaled_inputs(&rows, &Array::from_f32(&shares, &[n_rows, 1])?)?
                }
                Shares::OfResults => rows,
            };
            results.push(expert(&rows, index)?);
        }
        let places = Array::from_i32(&places, &[places.len() as i32])?;
        let results = self.take_rows(&self.concatenate(&results, 0)?, &places)?;
        let results = self.reshape(&results, &[n, n_chosen as i32, columns])?;
        let of_results = |choice: &Choice| experts.routing.shares.factors(choice.share).1;
        let shares: Vec<f32> = routes.iter().map(of_results).collect();
        let shares = Array::from_f32(&shares, &[n, n_chosen as i32, 1])?;
        self.sum(&self.multiply(&results, &shares)?, 1)
    }

    /// Whether experts are stored apart, or gathering some would make all float32.
    fn are_apart(&self, weights: &ExpertWeights) -> Result<bool> {
        let down = match weights {
            ExpertWeights::Stacked(stacks) => &stacks.down,
            ExpertWeights::Joined(stacks) => &stacks.down,
            ExpertWeights::Separate(_) => return Ok(true),
        };
        let values = match &down.weight {
            Weight::Float(values) => values,
            Weight::Transposed(weight) => &weight.values,
            Weight::Quantized(_) | Weight::Blocks(_) => return Ok(false),
        };
        Ok(self.stream().device() == Device::Cpu && values.dtype()? != Dtype::F32)
    }

    /// What one of the experts that are apart makes of `x`.
    fn chosen_expert(
        &self,
        x: &Array,
        weights: &ExpertWeights,
        index: usize,
        gate: Gate,
    ) -> Result<Array> {
        match weights {
            ExpertWeights::Separate(all) => self.stock_expert(x, &all[index], gate),
            ExpertWeights::Stacked(stacks) => {
                let one = |stack| self.one_of(stack, index);
                let one = ExpertLinears {
                    gate: stacks.gate.as_ref().map(one).transpose()?,
                    up: one(&stacks.up)?,
                    down: one(&stacks.down)?,
                };
                self.stock_expert(x, &one, gate)
            }
            ExpertWeights::Joined(stacks) => {
                let both = self.stock_linear(x, &self.one_of(&stacks.gate_up, index)?)?;
                let (n, width) = (both.dim(0), both.dim(1));
                let both = self.reshape(&both, &[n, 1, 1, width])?;
                let [gates, up] = self.gate_and_up(&both, stacks.order)?;
                let gated = self.stock_gate(gate, &gates, &up)?;
                let gated = self.reshape(&gated, &[n, width / 2])?;
                self.stock_linear(&gated, &self.one_of(&stacks.down, index)?)
            }
        }
    }

    /// One of a stack.
    fn one_of(&self, stack: &Linear, index: usize) -> Result<Linear> {
        let part = |all: &Array| {
            let shape = all.shape();
            let mut start = vec![0; shape.len()];
            let mut stop = shape.to_vec();
            (start[0], stop[0]) = (index as i32, index as i32 + 1);
            self.reshape(&self.slice(all, &start, &stop)?, &shape[1..])
        };
        Ok(Linear {
            weight: match &stack.weight {
                Weight::Float(values) => Weight::Float(part(values)?),
                Weight::Transposed(weight) => Weight::Transposed(TransposedWeight {
                    values: part(&weight.values)?,
                    outputs: weight.outputs.clone(),
                }),
                Weight::Quantized(weight) => Weight::Quantized(QuantizedWeight {
                    codes: part(&weight.codes)?,
                    scales: part(&weight.scales)?,
                    biases: weight.biases.as_ref().map(part).transpose()?,
                    ..*weight
                }),
                Weight::Blocks(_) => return Err(no_blocks()),
            },
            bias: stack.bias.as_ref().map(part).transpose()?,
        })
    }

    /// The choices of all rows, one after the other.
    fn evaluated_routes(&self, logits: &Array, experts: &Experts) -> Result<Vec<Choice>> {
        self.stream().eval([logits])?;
        let rows = logits.as_f32()?.chunks_exact(logits.dim(1) as usize);
        Ok(rows.flat_map(experts.chooser()).collect())
    }

    pub(super) fn take_along_rows(&self, x: &Array, indices: &Array) -> Result<Array> {
        Array::build(|out| {
            let stream = self.stream().raw();
            // SAFETY: as above.
            unsafe { sys::mlx_take_along_axis(out, x.raw(), indices.raw(), -1, stream) }
        })
    }

    fn sum(&self, x: &Array, axis: i32) -> Result<Array> {
        Array::build(|out| {
            // SAFETY: as above.
            unsafe { sys::mlx_sum_axis(out, x.raw(), axis, false, self.stream().raw()) }
        })
    }
}
