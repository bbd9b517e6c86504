//! [`Scaling`]: how wavelengths change so that a model reads further than it was
//! first trained to.

use std::f64::consts::TAU;

use super::super::family::RopeForm;
use crate::checkpoint::Config;
use crate::error::{Error, Result};

pub enum Scaling {
    None,
    Linear {
        factor: f64,
    },
    /// Llama 3.1: long wavelengths are stretched, short ones kept, those between
    /// interpolated; all relative to the original context.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: f64,
    },
    /// Peng et al., 2023: the same by pair, with a ramp from pair `first` to
    /// `last`.
    Yarn {
        factor: f64,
        first: f64,
        last: f64,
        magnitude: f64,
    },
    /// Ding et al., 2024: a factor for each pair, and others in contexts of more
    /// than `long.0` tokens.
    LongRope {
        factors: Vec<f64>,
        magnitude: f64,
        long: Option<(usize, Box<Scaling>)>,
    },
    /// Pairs behind the first `rotating` stay as they are.
    Proportional {
        rotating: usize,
    },
    /// A larger base, as much as `alpha` to the power of `dims / (dims - 2)`.
    LargerBase {
        alpha: f64,
        dims: usize,
    },
    /// "Dynamic NTK": the base grows with contexts that are longer than the trained one.
    Dynamic(Growth),
}

/// How the base grows with the context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    pub trained_tokens: usize,
    factor: f64,
}

impl Growth {
    /// The base in a context of so many tokens, more than the trained ones.
    pub fn base(&self, theta: f64, dims: usize, max_tokens: usize) -> f64 {
        let times = max_tokens as f64 / self.trained_tokens as f64;
        let dims = dims as f64;
        theta * (self.factor * times - (self.factor - 1.0)).powf(dims / (dims - 2.0))
    }
}

/// What reading a `rope_scaling` needs to know.
struct Section<'a> {
    config: &'a Config,
    parameters: &'a Config,
}

impl Scaling {
    pub fn read(
        config: &Config,
        parameters: &Config,
        form: &RopeForm,
        theta: f64,
        dims: usize,
    ) -> Result<Scaling> {
        let section = Section { config, parameters };
        let name = parameters.opt_str(["rope_type", "type"])?;
        let factor = || parameters.f64("factor", 1e-6..=1e6);
        match name {
            // Of text the three coordinates of "mrope" are the same.
            Some("default" | "mrope") => Ok(Scaling::None),
            None if !parameters.has("factor") => Ok(Scaling::None),
            Some("linear") => Ok(Scaling::Linear { factor: factor()? }),
            Some("llama3") => Ok(Scaling::Llama3 {
                factor: factor()?,
                low_freq_factor: parameters.f64("low_freq_factor", 1e-6..=1e6)?,
                high_freq_factor: parameters.f64("high_freq_factor", 1e-6..=1e6)?,
                original_context: parameters.f64(ORIGINAL_CONTEXT, 1.0..=1e9)?,
            }),
            Some("yarn") if !form.yarn_is_longrope => section.yarn(theta, dims),
            Some("longrope" | "su" | "yarn") => section.longrope(dims),
            Some("dynamic") if parameters.has("alpha") => Ok(Scaling::LargerBase {
                alpha: parameters.f64("alpha", 1e-6..=1e12)?,
                dims,
            }),
            Some("dynamic") => Ok(Scaling::Dynamic(Growth {
                trained_tokens: config.usize("max_position_embeddings", 1..=1 << 30)?,
                factor: parameters.f64("factor", 1.0..=1e6)?,
            })),
            other => Err(Error::unsupported(format!(
                "config.json: RoPE type \"{}\" is not supported; this version has default, \
                 linear, llama3, yarn, longrope, dynamic and proportional",
                other.unwrap_or("(none)")
            ))),
        }
    }

    /// `wavelength` of a pair in positions per radian, before and after.
    pub fn apply(&self, pair: usize, wavelength: f64) -> f64 {
        match self {
            Scaling::None | Scaling::Dynamic(_) => wavelength,
            Scaling::LongRope { factors, .. } => wavelength * factors[pair],
            Scaling::Linear { factor } => wavelength * factor,
            Scaling::LargerBase { alpha, dims } => {
                wavelength * alpha.powf(2.0 * pair as f64 / (*dims as f64 - 2.0))
            }
            Scaling::Proportional { rotating } if pair < *rotating => wavelength,
            Scaling::Proportional { .. } => f64::INFINITY,
            &Scaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let turns = original_context / (TAU * wavelength);
                if turns < low_freq_factor {
                    return wavelength * factor;
                }
                if turns > high_freq_factor {
                    return wavelength;
                }
                let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                wavelength / ((1.0 - smooth) / factor + smooth)
            }
            &Scaling::Yarn {
                factor,
                first,
                last,
                ..
            } => {
                let stretched = ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
                wavelength / (stretched / factor + (1.0 - stretched))
            }
        }
    }

    /// What rotated dimensions are multiplied with.
    pub fn magnitude(&self) -> f32 {
        match self {
            Scaling::Yarn { magnitude, .. } | Scaling::LongRope { magnitude, .. } => {
                *magnitude as f32
            }
            _ => 1.0,
        }
    }
}

/// YaRN's factor of queries and of keys in a context that is `factor` times as long.
fn mscale(factor: f64, scale: f64) -> f64 {
    match factor > 1.0 {
        true => 0.1 * scale * factor.ln() + 1.0,
        false => 1.0,
    }
}

/// What DeepSeek multiplies scores with, not only their rotated part.
pub fn score_factor(parameters: &Config) -> Result<f32> {
    let is_default = parameters.opt_str(["rope_type", "type"])? == Some("default");
    let all = parameters.opt_f64("mscale_all_dim", 0.0..=1e6)?;
    match all.filter(|all| *all != 0.0 && !is_default) {
        Some(all) => {
            let factor = parameters.f64("factor", 1e-6..=1e6)?;
            Ok(mscale(factor, all).powi(2) as f32)
        }
        None => Ok(1.0),
    }
}

const ORIGINAL_CONTEXT: &str = "original_max_position_embeddings";

impl Section<'_> {
    fn original_context(&self) -> Result<f64> {
        let place = match self.parameters.has(ORIGINAL_CONTEXT) {
            true => self.parameters,
            false => self.config,
        };
        if let Some(original) = place.opt_f64(ORIGINAL_CONTEXT, 1.0..=1e9)? {
            return Ok(original);
        }
        self.config.f64("max_position_embeddings", 1.0..=1e9)
    }

    fn longrope(&self, dims: usize) -> Result<Scaling> {
        let section = self.parameters;
        let original = self.original_context()?;
        let factor = match section.opt_f64("factor", 1e-6..=1e6)? {
            Some(factor) => factor,
            None => self.config.f64("max_position_embeddings", 1.0..=1e9)? / original,
        };
        let magnitude = match section.opt_f64("attention_factor", 0.0..=1e6)? {
            Some(magnitude) => magnitude,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / original.ln()).sqrt(),
        };
        let factors = |key: &str| {
            let factors = section.opt_f64s(key, 1e-6..=1e6)?;
            let fits = factors.filter(|factors| factors.len() == dims / 2);
            fits.ok_or_else(|| section.unexpected(key, &format!("{} numbers", dims / 2)))
        };
        let scaling = |key, magnitude_key, long| {
            Ok(Scaling::LongRope {
                factors: factors(key)?,
                magnitude: section
                    .opt_f64(magnitude_key, 0.0..=1e6)?
                    .unwrap_or(magnitude),
                long,
            })
        };
        let long = Box::new(scaling("long_factor", "long_mscale", None)?);
        let long = Some((original as usize, long));
        scaling("short_factor", "short_mscale", long)
    }

    fn yarn(&self, theta: f64, dims: usize) -> Result<Scaling> {
        let section = self.parameters;
        let number = |key: &str| section.opt_f64(key, 0.0..=1e6);
        let original = self.original_context()?;
        let factor = match number("factor")? {
            Some(factor) => factor,
            None => self.config.f64("max_position_embeddings", 1.0..=1e9)? / original,
        };
        // The pair that turns so many times within the original context.
        let pair_of =
            |turns: f64| dims as f64 * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (fast, slow) = (number("beta_fast")?, number("beta_slow")?);
        let first = pair_of(fast.unwrap_or(32.0));
        let last = pair_of(slow.unwrap_or(1.0));
        let truncates = section.opt_bool("truncate")?.unwrap_or(true);
        let (first, last) = match truncates {
            true => (first.floor(), last.ceil()),
            false => (first, last),
        };
        let (first, last) = (first.max(0.0), last.min(dims as f64 - 1.0));
        let magnitude = match (
            number("attention_factor")?,
            number("mscale")?,
            number("mscale_all_dim")?,
        ) {
            (Some(magnitude), ..) => magnitude,
            (None, Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => {
                mscale(factor, scale) / mscale(factor, all)
            }
            _ => mscale(factor, 1.0),
        };
        Ok(Scaling::Yarn {
            factor,
            first,
            last: if first == last { last + 0.001 } else { last },
            magnitude,
        })
    }
}
