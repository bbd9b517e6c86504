//! Mixtures of experts beside a dense network (Gemma 4): both read what attention left,
//! each through norms of its own.

use std::sync::Arc;

use super::family::Family;
use super::mlp::{self, ExpertsSpec};
use super::weights::{Layer, NormWeights};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::mlx::{Array, Experts, Norm, Ops, Stream};

/// `None`: the model has none.
pub(super) fn from_config(config: &Config, family: &Family) -> Result<Option<ExpertsSpec>> {
    let Some((key, form)) = &family.experts_beside else {
        return Ok(None);
    };
    match config.opt_bool(*key)?.unwrap_or(false) {
        true => mlp::experts(config, family, form, mlp::activation(config, family)?).map(Some),
        false => Ok(None),
    }
}

/// One layer's.
pub struct ExpertsBeside {
    /// Of what the dense network gives.
    pub dense_norm: NormWeights,
    router_norm: NormWeights,
    before: NormWeights,
    after: NormWeights,
    experts: Arc<Experts>,
}

impl ExpertsBeside {
    pub(super) fn load(
        layer: &mut Layer<'_, '_>,
        spec: &ExpertsSpec,
        stream: &Stream,
    ) -> Result<ExpertsBeside> {
        let hidden = layer.spec.hidden_size;
        let mut experts = layer.experts(spec)?;
        let factors = layer.name("router.per_expert_scale");
        experts.share_factors = Some(layer.loader.vector(&factors, spec.n_experts)?);
        experts.logit_factor = (hidden as f32).powf(-0.5);
        experts.prepare(stream)?;
        let scale = layer.name("router.scale");
        Ok(ExpertsBeside {
            dense_norm: layer.plain_norm("post_feedforward_layernorm_1", hidden)?,
            router_norm: NormWeights {
                weight: Some(layer.loader.vector(&scale, hidden)?),
                bias: None,
            },
            before: layer.plain_norm("pre_feedforward_layernorm_2", hidden)?,
            after: layer.plain_norm("post_feedforward_layernorm_2", hidden)?,
            experts: Arc::new(experts),
        })
    }

    /// What the experts make of `input`, added to what the dense network made of it.
    pub fn add_onto<'a>(
        &'a self,
        ops: &Ops,
        (dense, input): (&Array, &Array),
        norm: impl Fn(&'a NormWeights) -> Norm<'a>,
    ) -> Result<Array> {
        let dense = ops.normalize(dense, norm(&self.dense_norm))?;
        let mixed = {
            let routed = ops.normalize(input, norm(&self.router_norm))?;
            let input = ops.normalize(input, norm(&self.before))?;
            ops.mix_experts((&routed, &input), &self.experts, None)?
        };
        ops.add_onto(&dense, &mixed, Some(norm(&self.after)), 1.0)
    }
}
