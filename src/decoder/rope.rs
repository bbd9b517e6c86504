//! Rotary position embeddings (Su et al., 2021): config.json -> wavelengths.

use std::f64::consts::TAU;

use crate::checkpoint::Config;
use crate::error::{Error, Result};

/// How positions rotate queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Positions per radian of each rotated pair: `1 / inv_freq`. There are half
    /// as many as rotated dimensions; pair i is dimensions i and i + len.
    pub wavelengths: Vec<f32>,
}

/// Reads `rope_parameters`, or the older `rope_theta` and `rope_scaling`.
pub(super) fn from_config(config: &Config, head_dim: usize) -> Result<Rope> {
    let parameters = config.opt_object(["rope_parameters", "rope_scaling"])?;
    let section = parameters.as_ref().unwrap_or(config);
    let thetas = 1.0..=1e15;
    let theta = match section.opt_f64("rope_theta", thetas.clone())? {
        Some(theta) => theta,
        None => config.opt_f64("rope_theta", thetas)?.unwrap_or(10_000.0),
    };
    let share = section
        .opt_f64("partial_rotary_factor", 0.0..=1.0)?
        .unwrap_or(1.0);
    let dims = (head_dim as f64 * share) as usize;
    if dims < 2 || !dims.is_multiple_of(2) {
        return Err(section.unexpected("partial_rotary_factor", "an even, non-empty part"));
    }
    let plain = |pair: usize| theta.powf(2.0 * pair as f64 / dims as f64);
    let scaled = match &parameters {
        Some(parameters) => scaling(parameters)?,
        None => Scaling::None,
    };
    let wavelengths = (0..dims / 2)
        .map(|pair| scaled.apply(plain(pair)) as f32)
        .collect();
    Ok(Rope { wavelengths })
}

enum Scaling {
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
}

fn scaling(parameters: &Config) -> Result<Scaling> {
    let name = parameters.opt_str(["rope_type", "type"])?;
    let factor = || parameters.f64("factor", 1e-6..=1e6);
    match name {
        Some("default") => Ok(Scaling::None),
        None if !parameters.has("factor") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear { factor: factor()? }),
        Some("llama3") => Ok(Scaling::Llama3 {
            factor: factor()?,
            low_freq_factor: parameters.f64("low_freq_factor", 1e-6..=1e6)?,
            high_freq_factor: parameters.f64("high_freq_factor", 1e-6..=1e6)?,
            original_context: parameters.f64("original_max_position_embeddings", 1.0..=1e9)?,
        }),
        other => Err(Error::unsupported(format!(
            "config.json: RoPE type \"{}\" is not supported; this version has default, linear \
             and llama3",
            other.unwrap_or("(none)")
        ))),
    }
}

impl Scaling {
    /// `wavelength` in positions per radian, before and after.
    fn apply(&self, wavelength: f64) -> f64 {
        match *self {
            Scaling::None => wavelength,
            Scaling::Linear { factor } => wavelength * factor,
            Scaling::Llama3 {
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    fn rope(config: serde_json::Value) -> Result<Rope> {
        from_config(
            &Config::parse(config.to_string().as_bytes(), "config.json")?,
            8,
        )
    }

    #[test]
    fn old_and_new_keys_mean_the_same() {
        let old = rope(serde_json::json!({"rope_theta": 500.0,
            "rope_scaling": {"type": "linear", "factor": 2.0}}));
        let new = rope(serde_json::json!({
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}));
        let old = old.expect("valid");
        assert_eq!(old, new.expect("valid"));
        assert_eq!(old.wavelengths[0], 2.0);
        assert!((old.wavelengths[2] - 2.0 * 500f32.sqrt()).abs() < 1e-3);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_stretches_long_ones() {
        let rope = rope(serde_json::json!({"rope_theta": 1e6, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32}}));
        let wavelengths = rope.expect("valid").wavelengths;
        assert_eq!(wavelengths[0], 1.0, "5.1 turns in 32 positions");
        assert!((wavelengths[3] / 1e6f32.powf(0.75) - 8.0).abs() < 1e-5);
    }

    #[test]
    fn an_unknown_type_is_unsupported_by_name() {
        let error = rope(serde_json::json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}))
            .expect_err("unknown");
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains("yarn"), "{error}");
    }
}
