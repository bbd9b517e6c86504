//! Those of feed-forward networks and experts.

use super::MlpWeights;
use super::layer::Layer;
use crate::decoder::family::{Fused, MlpNames};
use crate::decoder::loader::Place;
use crate::decoder::mlp::{DenseForm, DenseSpec, ExpertsSpec, STACKED_LINEARS};
use crate::error::Result;
use crate::mlx::{
    Activation, ExpertLinears, ExpertWeights, Experts, Gate, GatedLinears, JoinedLinears, Linear,
    RowOrder, SharedExpert, TransposedWeight, Weight,
};

impl Layer<'_, '_> {
    pub(super) fn dense(&mut self, dense: &DenseSpec) -> Result<MlpWeights> {
        let (names, hidden) = (self.mlp_names(), self.spec.hidden_size);
        let (inner, bias) = (dense.intermediate_size, dense.has_bias);
        let down = self.matrix(names.down, [hidden, inner], bias)?;
        if let (DenseForm::Plain(activation), Fused::Separate([_, up])) =
            (dense.form, names.gate_up)
        {
            return Ok(MlpWeights::Plain {
                up: self.matrix(up, [inner, hidden], bias)?,
                down,
                activation: self.with_parameters(activation)?,
            });
        }
        let [gate, up] = self.fused(names.gate_up, [inner; 2], hidden, bias)?;
        Ok(MlpWeights::Gated(GatedLinears { gate, up, down }))
    }

    /// Those that the layer has of a dense network's.
    fn mlp_names(&self) -> MlpNames {
        let names = self.spec.names.mlp;
        let is_converted = |[_, _, down]: &[&str; 3]| self.loader.has_module(&self.name(down));
        match names.converted.filter(is_converted) {
            Some([gate, up, down]) => MlpNames {
                gate_up: Fused::Separate([gate, up]),
                down,
                ..names
            },
            None => names,
        }
    }

    /// The activation with the parameters that the layer has for it.
    fn with_parameters(&mut self, activation: Activation) -> Result<Activation> {
        if !matches!(activation, Activation::Xielu { .. }) {
            return Ok(activation);
        }
        let mut parameter = |name| {
            let name = self.name(&format!("mlp.act_fn.{name}"));
            self.loader.scalar(&name)
        };
        let softplus = |x: f32| x.exp().ln_1p();
        let beta = parameter("beta")?;
        Ok(Activation::Xielu {
            positive: softplus(parameter("alpha_p")?),
            negative: beta + softplus(parameter("alpha_n")?),
            beta,
        })
    }

    pub fn experts(&mut self, experts: &ExpertsSpec) -> Result<Experts> {
        let (names, hidden) = (&experts.names, self.spec.hidden_size);
        let n = experts.n_experts;
        let weights = self.routed(experts)?;
        let shared = experts.shared.map(|shared| {
            let module = self.name(shared.name);
            let inner = shared.intermediate_size;
            let share = shared.share_name;
            let share = share.map(|name| self.matrix(name, [1, hidden], false));
            Ok(SharedExpert {
                share: share.transpose()?,
                weights: match shared.fused {
                    None => self.expert(&module, STACKED_LINEARS, experts, inner, None)?,
                    Some(names) => self.fused_expert(names, inner)?,
                },
            })
        });
        let is_there = |name: &&str| self.loader.has_module(&self.name(name));
        let router = names.converted_router.filter(is_there);
        let router = router.unwrap_or(names.router);
        let converted = experts.converted_corrections;
        let is_there = |name: &&str| self.loader.has_tensor(&self.name(name));
        let corrections = converted.filter(is_there).or(experts.corrections);
        let corrections = corrections.map(|name| {
            let name = self.name(name);
            self.loader.row(&name, n)
        });
        Ok(Experts {
            corrections: corrections.transpose()?,
            shared: shared.transpose()?,
            weights,
            router: self.matrix(router, [n, hidden], experts.has_bias)?,
            logit_factor: 1.0,
            share_factors: None,
            routing: experts.routing,
            gate: experts.gate,
        })
    }

    fn routed(&mut self, experts: &ExpertsSpec) -> Result<ExpertWeights> {
        let names = &experts.names;
        let (n, inner) = (experts.n_experts, experts.intermediate_size);
        let stacked = self.name(names.stacked);
        let linears = experts.stacked_linears();
        let [_, up, _] = linears;
        if self.loader.has_module(&format!("{stacked}.{up}")) {
            let stacks = self.expert(&stacked, linears, experts, inner, Some(n))?;
            return Ok(ExpertWeights::Stacked(stacks));
        }
        if let Some(joined) = self.joined(experts)? {
            return Ok(apart_if_by_input(joined, inner));
        }
        let module = self.name(names.separate);
        let expert = |index: usize| {
            let module = format!("{module}.{index}");
            self.expert(&module, names.linears, experts, inner, None)
        };
        let all = (0..n).map(expert).collect::<Result<_>>()?;
        Ok(ExpertWeights::Separate(all))
    }

    /// Experts with gate and up in one, if the checkpoint has them so.
    fn joined(&mut self, experts: &ExpertsSpec) -> Result<Option<JoinedLinears>> {
        let Some(names) = experts.names.joined else {
            return Ok(None);
        };
        let (gate_up, down) = (self.name(names.gate_up), self.name(names.down));
        let has_blocks = self.loader.has_blocks(&gate_up);
        let is_bare = self.loader.has_tensor(&gate_up);
        if !has_blocks && !is_bare && !self.loader.has_module(&gate_up) {
            return Ok(None);
        }
        let (n, hidden) = (experts.n_experts, self.spec.hidden_size);
        let inner = experts.intermediate_size;
        let mut linear = |module: &str, shape| match (has_blocks, is_bare) {
            (true, _) => self.loader.mxfp4_blocks(module, n, shape),
            (false, true) if !names.by_input => self.loader.bare_stack(module, n, shape),
            (false, true) => {
                let bias = experts.has_bias;
                self.loader.transposed_stack(module, n, shape, bias)
            }
            (false, false) => {
                let place = Place::stacked(module, n, shape);
                self.loader.matrix(&place, experts.has_bias)
            }
        };
        Ok(Some(JoinedLinears {
            gate_up: linear(&gate_up, [2 * inner, hidden])?,
            down: linear(&down, [hidden, inner])?,
            order: names.order,
        }))
    }

    /// Matrices of which gate and up are one.
    fn fused_expert(
        &mut self,
        [gate_up, down]: [&'static str; 2],
        inner: usize,
    ) -> Result<ExpertLinears> {
        let hidden = self.spec.hidden_size;
        let [gate, up] = self.fused(Fused::Together(gate_up), [inner; 2], hidden, false)?;
        let gate = Some(gate);
        let down = self.matrix(down, [hidden, inner], false)?;
        Ok(ExpertLinears { gate, up, down })
    }

    /// The matrices of one expert, or of `n_stacked`.
    fn expert(
        &mut self,
        module: &str,
        [gate, up, down]: [&str; 3],
        experts: &ExpertsSpec,
        inner: usize,
        n_stacked: Option<usize>,
    ) -> Result<ExpertLinears> {
        let (hidden, bias) = (self.spec.hidden_size, experts.has_bias);
        let has_gate = !matches!(experts.gate, Gate::Absent(_));
        let mut linear = |name: &str, shape| {
            let module = format!("{module}.{name}");
            let place = match n_stacked {
                Some(n) => Place::stacked(&module, n, shape),
                None => Place::whole(&module, shape),
            };
            self.loader.matrix(&place, bias)
        };
        let gate = has_gate.then(|| linear(gate, [inner, hidden]));
        Ok(ExpertLinears {
            gate: gate.transpose()?,
            up: linear(up, [inner, hidden])?,
            down: linear(down, [hidden, inner])?,
        })
    }
}

/// Gate and up that are stored by input, one behind the other, are parts of their columns.
fn apart_if_by_input(joined: JoinedLinears, inner: usize) -> ExpertWeights {
    let (RowOrder::GateFirst, Weight::Transposed(both)) = (joined.order, &joined.gate_up.weight)
    else {
        return ExpertWeights::Joined(joined);
    };
    let half = |first: usize| Linear {
        weight: Weight::Transposed(TransposedWeight {
            values: both.values.clone(),
            outputs: first..first + inner,
        }),
        bias: None,
    };
    ExpertWeights::Stacked(ExpertLinears {
        gate: Some(half(0)),
        up: half(inner),
        down: joined.down,
    })
}
