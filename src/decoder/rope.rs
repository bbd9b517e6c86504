//! Rotary position embeddings (Su et al., 2021): config.json -> wavelengths.

mod scaling;

use std::borrow::Cow;

use serde_json::Value;

use self::scaling::{Growth, Scaling};
use super::family::{RopeForm, RopeLayers};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::mlx::{Pairing, PositionScale, Reach};

/// How positions rotate queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which of the rotated dimensions are a pair.
    pub pairing: Pairing,
    /// Positions per radian of each rotated pair: `1 / inv_freq`, below 0 where it turns
    /// the other way. There are half as many as rotated dimensions.
    pub wavelengths: Vec<f32>,
    /// What rotated dimensions are multiplied with.
    pub magnitude: f32,
    /// What it is in long contexts, if that is another one.
    pub long: Option<LongRope>,
}

/// The rotation in contexts of more than `beyond` tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    beyond: usize,
    form: LongForm,
}

#[derive(Clone, Debug, PartialEq)]
enum LongForm {
    /// The same, however long they are.
    Fixed(Box<Rope>),
    /// With a base that grows with them.
    Growing { theta: f64, growth: Growth },
}

/// The kinds of rotation in a model, and which each layer has.
pub(super) struct Ropes {
    pub all: Vec<Rope>,
    pub by_layer: Vec<Option<usize>>,
}

/// Reads `rope_parameters`, perhaps by layer type, or the older `rope_theta` and
/// `rope_scaling`. `dims` are those of a head that may rotate, by layer, as `reaches` are.
pub(super) fn from_config(
    config: &Config,
    form: &RopeForm,
    dims: &[usize],
    reaches: &[Reach],
) -> Result<Ropes> {
    let rotates = rotating_layers(config, form, reaches)?;
    if !rotates.contains(&true) {
        return Ok(Ropes {
            all: Vec::new(),
            by_layer: vec![None; reaches.len()],
        });
    }
    let form = &RopeForm {
        pairing: match config.opt_bool("rope_interleave")? {
            Some(true) => Pairing::Neighbours,
            Some(false) => Pairing::Halves,
            None => form.pairing,
        },
        ..*form
    };
    let parameters = config.opt_object(["rope_parameters", "rope_scaling"])?;
    let dims_of = |is_bounded: bool| {
        let mut layers = dims.iter().zip(reaches);
        let found = layers.find(|(_, reach)| reach.is_bounded() == is_bounded);
        found.map_or(dims[0], |(dim, _)| *dim)
    };
    let (full_dim, sliding_dim) = (dims_of(false), dims_of(true));
    let by_type = |layer_type: &str| match &parameters {
        Some(parameters) => parameters.opt_object(layer_type),
        None => Ok(None),
    };
    let (full, sliding) = (by_type("full_attention")?, by_type("sliding_attention")?);
    let is_by_type = full.is_some() || sliding.is_some();
    let main_section = if is_by_type { full } else { parameters.clone() };
    let main = rope(config, main_section.as_ref(), form, full_dim)?;
    let local = match (form.local, sliding) {
        (_, Some(sliding)) => Some(rope(config, Some(&sliding), form, sliding_dim)?),
        (Some((key, absent)), None) => {
            let theta = config.opt_f64(key, THETAS)?.unwrap_or(absent);
            let dims = rotated_dims(config, None, form, sliding_dim)?;
            Some(Rope::new(form, theta, dims, &Scaling::None))
        }
        (None, None) => None,
    };
    let has_local = local.is_some();
    let of_layer = |(reach, rotates): (&Reach, bool)| {
        rotates.then_some(usize::from(has_local && reach.is_bounded()))
    };
    Ok(Ropes {
        all: std::iter::once(main).chain(local).collect(),
        by_layer: reaches.iter().zip(rotates).map(of_layer).collect(),
    })
}

/// By layer, what queries are multiplied with as sequences grow: everywhere if the rotation
/// says so, or where there is none.
pub(super) fn position_scales(
    config: &Config,
    form: &RopeForm,
    ropes: &[Option<usize>],
) -> Result<Vec<Option<PositionScale>>> {
    if !form.unrotated_scale {
        return Ok(vec![scale_of_rotation(config)?; ropes.len()]);
    }
    let scale = scale_of_unrotated(config)?;
    let of_layer = |rope: &Option<usize>| scale.filter(|_| rope.is_none());
    Ok(ropes.iter().map(of_layer).collect())
}

fn scale_of_unrotated(config: &Config) -> Result<Option<PositionScale>> {
    const SWITCH: &str = "attn_temperature_tuning";
    // Some files have a number here.
    let is_on = match config.get(SWITCH) {
        Some(Value::Number(_)) => config.usize(SWITCH, 0..=1 << 20)? != 0,
        _ => config.opt_bool(SWITCH)?.unwrap_or(true),
    };
    if !is_on {
        return Ok(None);
    }
    Ok(Some(PositionScale {
        beta: config.opt_f32("attn_scale", 0.0..=1e3)?.unwrap_or(0.1),
        length: config.opt_f32("floor_scale", 1.0..=1e9)?.unwrap_or(8192.0),
        offset: 1,
    }))
}

fn scale_of_rotation(config: &Config) -> Result<Option<PositionScale>> {
    let Some(parameters) = config.opt_object(["rope_parameters", "rope_scaling"])? else {
        return Ok(None);
    };
    let Some(beta) = parameters.opt_f32("llama_4_scaling_beta", 0.0..=1e3)? else {
        return Ok(None);
    };
    let length = parameters.f32("original_max_position_embeddings", 1.0..=1e9)?;
    Ok(Some(PositionScale {
        beta,
        length,
        offset: 0,
    }))
}

/// What latent attention multiplies scores with in a stretched context.
pub(super) fn score_factor(config: &Config) -> Result<f32> {
    match config.opt_object(["rope_parameters", "rope_scaling"])? {
        Some(parameters) => scaling::score_factor(&parameters),
        None => Ok(1.0),
    }
}

const THETAS: std::ops::RangeInclusive<f64> = 1.0..=1e15;

fn rope(
    config: &Config,
    section: Option<&Config>,
    form: &RopeForm,
    head_dim: usize,
) -> Result<Rope> {
    let keys = ["rope_theta", "rotary_emb_base"];
    let in_section = section.map(|section| section.opt_f64(keys, THETAS));
    let theta = match in_section.transpose()?.flatten() {
        Some(theta) => theta,
        None => config.opt_f64(keys, THETAS)?.unwrap_or(form.theta),
    };
    if let Some(rotating) = proportional_pairs(section, form, head_dim)? {
        let scaling = Scaling::Proportional { rotating };
        return Ok(Rope::new(form, theta, head_dim, &scaling));
    }
    let dims = rotated_dims(config, section, form, head_dim)?;
    let scaling = match section {
        Some(section) => Scaling::read(config, section, form, theta, dims)?,
        None => Scaling::None,
    };
    Ok(Rope::new(form, theta, dims, &scaling))
}

/// The pairs that rotate where all of a head's dimensions count for the wavelengths,
/// whatever part of it rotates.
fn proportional_pairs(
    section: Option<&Config>,
    form: &RopeForm,
    head_dim: usize,
) -> Result<Option<usize>> {
    let share = match section {
        Some(section) if section.opt_str(["rope_type", "type"])? == Some("proportional") => {
            if section.opt_f64("factor", 1e-6..=1e6)?.unwrap_or(1.0) != 1.0 {
                let message = section.unexpected("factor", "1 where the RoPE type is proportional");
                return Err(Error::unsupported(message.message().to_owned()));
            }
            let share = section.opt_f64("partial_rotary_factor", 0.0..=1.0)?;
            Some(share.unwrap_or(1.0))
        }
        Some(_) => None,
        None => form.proportional,
    };
    Ok(share.map(|share| (share * head_dim as f64 / 2.0) as usize))
}

/// How many dimensions of a head rotate.
fn rotated_dims(
    config: &Config,
    section: Option<&Config>,
    form: &RopeForm,
    head_dim: usize,
) -> Result<usize> {
    let keys = ["partial_rotary_factor", "rotary_pct", "rope_pct"];
    if form.is_whole {
        return Ok(head_dim);
    }
    if let Some(dims) = form.dims.filter(|key| config.has(*key)) {
        let n = config.usize(dims, 2..=head_dim)?;
        return match n % 2 {
            0 => Ok(n),
            _ => Err(config.unexpected(dims, "an even number")),
        };
    }
    let place = section
        .filter(|section| section.has(keys))
        .unwrap_or(config);
    let share = place.opt_f64(keys, 0.0..=1.0)?.unwrap_or(form.share);
    let dims = (head_dim as f64 * share) as usize;
    if dims < 2 || !dims.is_multiple_of(2) {
        return Err(place.unexpected(keys, "an even, non-empty part of a head"));
    }
    Ok(dims)
}

fn rotating_layers(config: &Config, form: &RopeForm, reaches: &[Reach]) -> Result<Vec<bool>> {
    match form.layers {
        RopeLayers::All => Ok(vec![true; reaches.len()]),
        RopeLayers::None => Ok(vec![false; reaches.len()]),
        RopeLayers::OnlyWindowed => Ok(reaches.iter().map(|reach| reach.is_bounded()).collect()),
        RopeLayers::IfBased => {
            let parameters = config.opt_object("rope_parameters")?;
            let is_based = parameters.is_some_and(|parameters| parameters.has("rope_theta"));
            Ok(vec![is_based || config.has("rope_theta"); reaches.len()])
        }
        RopeLayers::If(key, value) => {
            let rotates = config.opt_str(key)? == Some(value);
            Ok(vec![rotates; reaches.len()])
        }
        RopeLayers::Windowed => {
            let none = !reaches.iter().any(|reach| reach.is_bounded());
            Ok(reaches.iter().map(|r| none || r.is_bounded()).collect())
        }
        RopeLayers::Listed => listed_layers(config, reaches.len()),
    }
}

/// Those with a 1 in `no_rope_layers`, or all but each `no_rope_layer_interval`-th.
pub(super) fn listed_layers(config: &Config, n_layers: usize) -> Result<Vec<bool>> {
    const LIST: &str = "no_rope_layers";
    let listed = config.opt_usizes(LIST, 0..=1)?.unwrap_or_default();
    match listed.len() {
        0 => {
            let each = config.opt_usize("no_rope_layer_interval", 1..=1 << 12)?;
            let each = each.unwrap_or(4);
            let rotates = |layer: usize| !(layer + 1).is_multiple_of(each);
            Ok((0..n_layers).map(rotates).collect())
        }
        n if n == n_layers => Ok(listed.into_iter().map(|rotates| rotates == 1).collect()),
        _ => Err(config.unexpected(LIST, "one number per layer")),
    }
}

impl Rope {
    fn new(form: &RopeForm, theta: f64, dims: usize, scaling: &Scaling) -> Rope {
        let sign = if form.is_backward { -1.0 } else { 1.0 };
        let wavelength = |pair| {
            let plain = plain_wavelength(theta, dims, pair);
            (sign * scaling.apply(pair, plain)) as f32
        };
        let long = match scaling {
            Scaling::LongRope {
                long: Some((beyond, scaling)),
                ..
            } => Some(LongRope {
                beyond: *beyond,
                form: LongForm::Fixed(Box::new(Rope::new(form, theta, dims, scaling))),
            }),
            Scaling::Dynamic(growth) => Some(LongRope {
                beyond: growth.trained_tokens,
                form: LongForm::Growing {
                    theta,
                    growth: *growth,
                },
            }),
            _ => None,
        };
        Rope {
            pairing: form.pairing,
            wavelengths: (0..dims / 2).map(wavelength).collect(),
            magnitude: scaling.magnitude(),
            long,
        }
    }

    /// Whether rotated queries and keys are as long as they were, in any context.
    pub(super) fn keeps_lengths(&self) -> bool {
        let keeps_if_long = |long: &LongRope| match &long.form {
            LongForm::Fixed(rope) => rope.keeps_lengths(),
            LongForm::Growing { .. } => true,
        };
        self.magnitude == 1.0 && self.long.as_ref().is_none_or(keeps_if_long)
    }

    /// As it is in contexts of so many tokens.
    pub fn in_context_of(&self, max_tokens: usize) -> Cow<'_, Rope> {
        match &self.long {
            Some(long) if max_tokens > long.beyond => long.of(self, max_tokens),
            _ => Cow::Borrowed(self),
        }
    }

    /// What tells the rotation in contexts of so many tokens from that in others: 0 up to
    /// the trained length.
    pub fn kind(&self, max_tokens: usize) -> u32 {
        match &self.long {
            Some(long) if max_tokens > long.beyond => match long.form {
                LongForm::Fixed(_) => 1,
                LongForm::Growing { .. } => u32::try_from(max_tokens).unwrap_or(u32::MAX),
            },
            _ => 0,
        }
    }
}

impl LongRope {
    fn of<'a>(&'a self, short: &Rope, max_tokens: usize) -> Cow<'a, Rope> {
        match &self.form {
            LongForm::Fixed(rope) => Cow::Borrowed(rope),
            LongForm::Growing { theta, growth } => {
                let dims = 2 * short.wavelengths.len();
                let stretched = growth.base(*theta, dims, max_tokens);
                let wavelength = |pair| plain_wavelength(stretched, dims, pair) as f32;
                Cow::Owned(Rope {
                    pairing: short.pairing,
                    wavelengths: (0..dims / 2).map(wavelength).collect(),
                    magnitude: short.magnitude,
                    long: None,
                })
            }
        }
    }
}

/// In positions per radian.
fn plain_wavelength(theta: f64, dims: usize, pair: usize) -> f64 {
    // The exponent is float32 where models are trained.
    theta.powf(f64::from((2 * pair) as f32 / dims as f32))
}

#[cfg(test)]
mod tests;
