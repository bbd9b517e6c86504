//! Alternating updates (Baykal et al., 2023) and learned residuals (Menghani et al., 2024),
//! as Gemma 3n has them around each layer: config.json -> [`AltUpSpec`], weights, and the
//! way of a token's states through the model.

use super::family::Family;
use super::loader::{Loader, Place};
use super::spec::DecoderSpec;
use super::weights::{Layer, NormWeights};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::mlx::{Activation, Array, Coefficients, Dtype, Linear, Norm, Ops, States};

#[derive(Clone, Copy, Debug)]
pub struct AltUpSpec {
    pub states: States,
    /// The state that layers update.
    active: usize,
    /// It is scaled before a layer's input is let in.
    scales_output: bool,
    /// Of the learned residual.
    pub rank: usize,
}

impl AltUpSpec {
    /// `None`: the model has one state for each token.
    pub(super) fn from_config(
        config: &Config,
        family: &Family,
        hidden_size: usize,
    ) -> Result<Option<AltUpSpec>> {
        if !family.alternates {
            return Ok(None);
        }
        let n = config.opt_usize("altup_num_inputs", 2..=16)?.unwrap_or(4);
        let active = config.opt_usize("altup_active_idx", 0..=n - 1)?;
        let rank = config.opt_usize("laurel_rank", 1..=1 << 16)?;
        Ok(Some(AltUpSpec {
            states: States {
                n,
                columns: hidden_size,
            },
            active: active.unwrap_or(0),
            scales_output: config.opt_bool("altup_correct_scale")?.unwrap_or(true),
            rank: rank.unwrap_or(64),
        }))
    }
}

/// In front of all layers and behind them.
pub struct AltUp {
    spec: AltUpSpec,
    spread: Vec<Linear>,
    merge: Vec<Linear>,
}

impl AltUp {
    pub(super) fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        spec: &DecoderSpec,
    ) -> Result<Option<AltUp>> {
        let Some(altup) = spec.altup else {
            return Ok(None);
        };
        let hidden = spec.hidden_size;
        let mut all = |name: &str| {
            let linear = |index: usize| {
                let module = format!("{prefix}{name}.{index}");
                loader.matrix(&Place::whole(&module, [hidden; 2]), false)
            };
            (0..altup.states.n - 1).map(linear).collect::<Result<_>>()
        };
        Ok(Some(AltUp {
            spec: altup,
            spread: all("altup_projections")?,
            merge: all("altup_unembed_projections")?,
        }))
    }

    /// All states of embedded tokens.
    pub fn spread(&self, ops: &Ops, embedded: &Array) -> Result<Array> {
        let dtype = embedded.dtype()?;
        let other = |linear| ops.project_one(embedded, None, linear, dtype);
        let others: Vec<_> = self.spread.iter().map(other).collect::<Result<_>>()?;
        ops.join_states(self.spec.states, (embedded, &others), false)
    }

    /// One hidden state of all.
    pub fn merge(&self, ops: &Ops, states: &Array) -> Result<Array> {
        let (shape, dtype) = (self.spec.states, states.dtype()?);
        let other = |(index, linear): (usize, _)| {
            let state = ops.state(shape, states, (index + 1, None))?;
            ops.project_one(&state, None, linear, dtype)
        };
        let others: Vec<_> = self
            .merge
            .iter()
            .enumerate()
            .map(other)
            .collect::<Result<_>>()?;
        let first = ops.state(shape, states, (0, None))?;
        ops.join_states(shape, (&first, &others), true)
    }
}

/// Around one layer.
pub struct LayerAltUp {
    spec: AltUpSpec,
    output_scale: Array,
    prediction: Linear,
    correction: Linear,
    router: Linear,
    router_norm: NormWeights,
    laurel: [Linear; 2],
    laurel_norm: NormWeights,
}

impl LayerAltUp {
    pub(super) fn load(layer: &mut Layer<'_, '_>) -> Result<Option<LayerAltUp>> {
        let Some(spec) = layer.spec.altup else {
            return Ok(None);
        };
        let (hidden, n) = (layer.spec.hidden_size, spec.states.n);
        let scale = layer.name("altup.correct_output_scale");
        Ok(Some(LayerAltUp {
            spec,
            output_scale: layer.loader.vector(&scale, hidden)?,
            prediction: layer.matrix("altup.prediction_coefs", [n * n, n], false)?,
            correction: layer.matrix("altup.correction_coefs", [n, n], false)?,
            router: layer.matrix("altup.modality_router", [n, hidden], false)?,
            router_norm: layer.plain_norm("altup.router_norm", hidden)?,
            laurel: [
                layer.matrix("laurel.linear_left", [spec.rank, hidden], false)?,
                layer.matrix("laurel.linear_right", [hidden, spec.rank], false)?,
            ],
            laurel_norm: layer.plain_norm("laurel.post_laurel_norm", hidden)?,
        }))
    }

    /// What states are expected to become, and the one among them that the layer gets.
    pub fn predict(
        &self,
        ops: &Ops,
        states: &Array,
        norm: impl Fn(&NormWeights) -> Norm<'_>,
    ) -> Result<[Array; 2]> {
        let (shape, active) = (self.spec.states, (self.spec.active, None));
        let state = ops.state(shape, states, active)?;
        let values = self.coefficients(ops, &state, &self.prediction, norm)?;
        drop(state);
        let predicted = ops.predict_states(shape, states, self.of_width(&values))?;
        let state = ops.state(shape, &predicted, active)?;
        Ok([predicted, state])
    }

    /// The predicted states, corrected by what the layer made of one of them.
    pub fn correct(
        &self,
        ops: &Ops,
        (predicted, updated): (&Array, &Array),
        norm: impl Fn(&NormWeights) -> Norm<'_>,
    ) -> Result<Array> {
        let values = self.coefficients(ops, updated, &self.correction, norm)?;
        let states = (predicted, updated, self.spec.active);
        ops.correct_states(self.spec.states, states, self.of_width(&values))
    }

    /// Lets a layer's input into all states but the first.
    pub fn let_in(
        &self,
        ops: &Ops,
        states: &Array,
        norm: Norm<'_>,
        open: impl Fn(&Array) -> Result<Array>,
    ) -> Result<Array> {
        let scale = self.spec.scales_output.then_some(&self.output_scale);
        let state = ops.state(self.spec.states, states, (self.spec.active, scale))?;
        let passed = open(&state)?;
        ops.add_to_other_states(self.spec.states, (states, &passed), norm)
    }

    /// The learned residual of what attention reads, `normalized`.
    pub fn residual(&self, ops: &Ops, normalized: &Array, norm: Norm<'_>) -> Result<Array> {
        let dtype = normalized.dtype()?;
        let inner = ops.project_one(normalized, None, &self.laurel[0], dtype)?;
        let outer = ops.project_one(&inner, None, &self.laurel[1], dtype)?;
        ops.add_onto(normalized, &outer, Some(norm), 1.0)
    }

    pub fn residual_norm(&self) -> &NormWeights {
        &self.laurel_norm
    }

    /// What `linear` makes of the hyperbolic tangents of a router's divided outputs; both
    /// are too large by the hidden size.
    fn coefficients(
        &self,
        ops: &Ops,
        state: &Array,
        linear: &Linear,
        norm: impl Fn(&NormWeights) -> Norm<'_>,
    ) -> Result<Array> {
        let cap = self.spec.states.columns as f32;
        let router_norm = Some(norm(&self.router_norm));
        let routed = ops.project_one(state, router_norm, &self.router, Dtype::F32)?;
        let bounded = ops.activate(Activation::SoftCap { cap }, &routed)?;
        ops.project_one(&bounded, None, linear, Dtype::F32)
    }

    fn of_width<'a>(&self, values: &'a Array) -> Coefficients<'a> {
        Coefficients {
            values,
            factor: 1.0 / self.spec.states.columns as f32,
        }
    }
}
