//! What a caller may ask of a sampler, and the ranges that are allowed.

use std::ops::RangeInclusive;

use crate::error::{Error, Result};

/// The most recent tokens that penalties can look back on.
pub const MAX_REPETITION_WINDOW: u32 = 1 << 20;

/// Zero means "off" in every field, so the default is greedy decoding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplerParams {
    /// Divides the logits: below 1 sharpens, above 1 flattens. 0 takes the
    /// largest logit, and the lowest id among equals. 0 to 100.
    pub temperature: f32,
    /// Keeps the `top_k` largest logits; among equals the lowest ids.
    pub top_k: u32,
    /// Keeps the most likely tokens until their probabilities add up to
    /// `top_p`. 0 to 1; 1 keeps everything, as 0 does.
    pub top_p: f32,
    /// Drops what is less likely than `min_p` times the most likely token.
    /// 0 to 1.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of tokens in the
    /// window (Keskar et al. 2019, as in transformers). 0 to 100; 1 is off too.
    pub repetition_penalty: f32,
    /// How many of the last accepted tokens the three penalties look at; 0
    /// turns them off. At most [`MAX_REPETITION_WINDOW`].
    pub repetition_window: u32,
    /// Subtracted once from the logit of a token in the window. -100 to 100.
    pub presence_penalty: f32,
    /// Subtracted for each time that a token is in the window. -100 to 100.
    pub frequency_penalty: f32,
    pub seed: u64,
}

impl SamplerParams {
    /// # Errors
    /// `InvalidArgument` names the first field out of range, its value and the range.
    pub fn validate(&self) -> Result<()> {
        check("temperature", self.temperature, 0.0..=100.0)?;
        check("top_p", self.top_p, 0.0..=1.0)?;
        check("min_p", self.min_p, 0.0..=1.0)?;
        check("repetition_penalty", self.repetition_penalty, 0.0..=100.0)?;
        check("presence_penalty", self.presence_penalty, -100.0..=100.0)?;
        check("frequency_penalty", self.frequency_penalty, -100.0..=100.0)?;
        if self.repetition_window > MAX_REPETITION_WINDOW {
            return Err(Error::invalid(format!(
                "repetition_window is {}, but must be from 0 to {MAX_REPETITION_WINDOW} tokens",
                self.repetition_window
            )));
        }
        Ok(())
    }

    /// Whether what was chosen before changes logits.
    pub fn has_penalties(&self) -> bool {
        self.repetition_window > 0
            && (self.repetition_factor() != 1.0
                || self.presence_penalty != 0.0
                || self.frequency_penalty != 0.0)
    }

    /// The repetition penalty as a factor, 1 when it is off.
    pub(super) fn repetition_factor(&self) -> f32 {
        if self.repetition_penalty == 0.0 {
            1.0
        } else {
            self.repetition_penalty
        }
    }
}

fn check(field: &str, value: f32, range: RangeInclusive<f32>) -> Result<()> {
    // NaN is in no range.
    if range.contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{field} is {value}, but must be a number from {} to {}",
        range.start(),
        range.end()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    fn message(params: SamplerParams) -> String {
        let error = params.validate().unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        error.to_string()
    }

    #[test]
    fn default_is_valid_and_off() {
        let params = SamplerParams::default();
        params.validate().unwrap();
        assert!(!params.has_penalties());
    }

    #[test]
    fn refusal_names_field_value_and_range() {
        let params = SamplerParams {
            top_p: 1.5,
            ..Default::default()
        };
        assert_eq!(
            message(params),
            "top_p is 1.5, but must be a number from 0 to 1"
        );
    }

    #[test]
    fn nan_and_infinity_are_refused_everywhere() {
        let fields: [fn(&mut SamplerParams) -> &mut f32; 6] = [
            |params| &mut params.temperature,
            |params| &mut params.top_p,
            |params| &mut params.min_p,
            |params| &mut params.repetition_penalty,
            |params| &mut params.presence_penalty,
            |params| &mut params.frequency_penalty,
        ];
        for field in fields {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut params = SamplerParams::default();
                *field(&mut params) = bad;
                assert!(message(params).contains(&bad.to_string()));
            }
        }
    }

    #[test]
    fn window_is_bounded() {
        let params = SamplerParams {
            repetition_window: MAX_REPETITION_WINDOW + 1,
            ..Default::default()
        };
        assert!(message(params).starts_with("repetition_window is 1048577"));
    }
}
