//! Feed-forward networks, and sums with what they and mixers give.

use super::Decoder;
use crate::decoder::adapter::{LayerUpdates, have_gains};
use crate::decoder::mlp::{DenseForm, MlpSpec};
use crate::decoder::weights::{MlpWeights, NormWeights};
use crate::error::Result;
use crate::mlx::{Array, Gate, GatedLinears, Linear, LowRank, Norm, Ops};

impl Decoder {
    /// `residual` plus what the feed-forward network makes of `input`.
    pub(super) fn mlp(
        &self,
        (ops, updates): (&Ops, &LayerUpdates),
        index: usize,
        input: &Array,
        residual: &Array,
    ) -> Result<Array> {
        let layer = &self.weights.layers[index];
        let norm = layer.mlp_norm.as_ref().map(|norm| self.norm(norm));
        let after = (layer.after_mlp.as_ref(), self.spec.branch_scales.mlp);
        match (&layer.mlp, &self.spec.mlps[index]) {
            (MlpWeights::Gated(weights), MlpSpec::Dense(dense)) => {
                let DenseForm::Gated(gate) = dense.form else {
                    unreachable!("loaded by its form")
                };
                let gate = (gate, dense.cutoff);
                let gated = gated(ops, input, norm, gate, weights, &updates.gate_up)?;
                let down = (&weights.down, &updates.down[..]);
                let Some(beside) = &layer.experts_beside else {
                    return self.project_onto(ops, residual, &gated, down, after);
                };
                let dense = self.project_and_adapt(ops, &gated, down)?;
                drop(gated);
                let sum = beside.add_onto(ops, (&dense, input), |norm| self.norm(norm))?;
                drop(dense);
                self.add_onto(ops, residual, &sum, after)
            }
            (
                MlpWeights::Plain {
                    up,
                    down,
                    activation,
                },
                _,
            ) => {
                let inner = ops.project_one(input, norm, up, self.dtype)?;
                let inner = ops.adapt_one(inner, input, norm, &updates.gate_up)?;
                let inner = ops.activate(*activation, &inner)?;
                let down = (down, &updates.down[..]);
                self.project_onto(ops, residual, &inner, down, after)
            }
            (MlpWeights::Experts(experts), _) => {
                let input = match norm {
                    Some(norm) => ops.normalize(input, norm)?,
                    None => input.clone(),
                };
                if after.0.is_none() && self.spec.residual_scale * after.1 == 1.0 {
                    return ops.mix_experts((&input, &input), experts, Some(residual));
                }
                let mixed = ops.mix_experts((&input, &input), experts, None)?;
                self.add_onto(ops, residual, &mixed, after)
            }
            (MlpWeights::None, _) => Ok(residual.clone()),
            _ => unreachable!("loaded by its kind"),
        }
    }

    /// `residual` plus a projection, perhaps normalized, and scaled by its kind.
    pub(super) fn project_onto(
        &self,
        ops: &Ops,
        residual: &Array,
        x: &Array,
        (linear, updates): (&Linear, &[LowRank]),
        after: (Option<&NormWeights>, f32),
    ) -> Result<Array> {
        // Gains change the product, which must not be in a sum yet.
        let is_plain = after.0.is_none() && self.spec.residual_scale * after.1 == 1.0;
        if is_plain && !have_gains(updates) {
            let sum = ops.project_onto(residual, x, linear)?;
            return ops.adapt_one(sum, x, None, updates);
        }
        let product = self.project_and_adapt(ops, x, (linear, updates))?;
        self.add_onto(ops, residual, &product, after)
    }

    pub(super) fn project_and_adapt(
        &self,
        ops: &Ops,
        x: &Array,
        (linear, updates): (&Linear, &[LowRank]),
    ) -> Result<Array> {
        let product = ops.project_one(x, None, linear, self.dtype)?;
        ops.adapt_one(product, x, None, updates)
    }

    pub(super) fn add_onto(
        &self,
        ops: &Ops,
        residual: &Array,
        x: &Array,
        (after, scale): (Option<&NormWeights>, f32),
    ) -> Result<Array> {
        let after = after.map(|norm| self.norm(norm));
        ops.add_onto(residual, x, after, self.spec.residual_scale * scale)
    }
}

/// What `up` makes of `x`, through the gate; in one node where nothing is adapted.
fn gated(
    ops: &Ops,
    x: &Array,
    norm: Option<Norm<'_>>,
    (gate, cutoff): (Gate, Option<f32>),
    weights: &GatedLinears,
    updates: &[LowRank],
) -> Result<Array> {
    if updates.is_empty() && cutoff.is_none() {
        return ops.project_gated(x, norm, gate, &weights.gate, &weights.up);
    }
    let projected = ops.project(x, norm, &[&weights.gate, &weights.up])?;
    let projected = ops.adapt(projected, x, norm, updates)?;
    match cutoff {
        Some(cutoff) => ops.gate_sparsely(gate, cutoff, &projected),
        None => ops.gate(gate, &projected),
    }
}
