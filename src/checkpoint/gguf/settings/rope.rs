//! How positions rotate.

use serde_json::{Value as Json, json};

use super::Settings;
use crate::checkpoint::dtype::Dtype;
use crate::checkpoint::gguf::architecture::Architecture;
use crate::error::{Error, Result};

/// Factors of the wavelengths of the rotation, one per pair.
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// The same in short contexts and in long ones.
const ROPE_FACTORS_BY_LENGTH: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

impl Settings<'_, '_> {
    pub(super) fn rotated_share(&self) -> Result<Option<Json>> {
        let number = |value: Option<Json>| value.and_then(|value| value.as_f64());
        let rotated = number(self.whole("rope.dimension_count")?);
        let head_dim = match self.head_dim()? {
            Some(head_dim) => head_dim.as_f64(),
            None => number(self.whole("embedding_length")?)
                .zip(number(self.whole("attention.head_count")?))
                .map(|(hidden, heads)| hidden / heads),
        };
        Ok(rotated.zip(head_dim).map(|(dims, all)| (dims / all).into()))
    }

    pub(super) fn rope_scaling(&self, architecture: &Architecture) -> Result<Option<Json>> {
        let [short, long] = ROPE_FACTORS_BY_LENGTH.map(|name| self.rope_factors(name));
        if let (Some(short), Some(long)) = (short?, long?) {
            return Ok(Some(json!({
                "rope_type": "longrope",
                "attention_factor": self.number("rope.scaling.attn_factor")?,
                "original_max_position_embeddings":
                    self.whole("rope.scaling.original_context_length")?,
                "short_factor": short,
                "long_factor": long,
            })));
        }
        if let Some(factors) = self.rope_factors(ROPE_FACTORS)? {
            return Ok(Some(json!({
                "rope_type": "longrope",
                "attention_factor": 1.0,
                "short_factor": factors,
                "long_factor": factors,
            })));
        }
        let kind = self.gguf.text(&self.key("rope.scaling.type"))?;
        match kind {
            None | Some("none") => Ok(None),
            Some(kind @ ("linear" | "yarn")) => {
                let mut scaling = json!({
                    "rope_type": kind,
                    "factor": self.number("rope.scaling.factor")?,
                    "original_max_position_embeddings":
                        self.whole("rope.scaling.original_context_length")?,
                });
                if kind == "yarn" {
                    scaling["beta_fast"] = self.number("rope.scaling.yarn_beta_fast")?.into();
                    scaling["beta_slow"] = self.number("rope.scaling.yarn_beta_slow")?.into();
                    scaling["llama_4_scaling_beta"] =
                        self.number("attention.temperature_scale")?.into();
                    let log = self.number("rope.scaling.yarn_log_multiplier")?;
                    if let Some(log) = log.and_then(|log| log.as_f64()) {
                        let scale = log / architecture.yarn_log_unit;
                        scaling["mscale"] = scale.into();
                        scaling["mscale_all_dim"] = scale.into();
                    }
                    for (name, said) in architecture.yarn {
                        scaling[*name] = (*said).into();
                    }
                }
                Ok(Some(scaling))
            }
            Some(other) => Err(Error::unsupported(format!(
                "has {} {other:?}; this version has none, linear and yarn",
                self.key("rope.scaling.type")
            ))),
        }
    }

    fn rope_factors(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.gguf.tensor(name) else {
            return Ok(None);
        };
        if tensor.file > 0 {
            return Err(Error::unsupported(format!(
                "has the tensor {name} not in its first part"
            )));
        }
        if tensor.dtype != Dtype::F32 {
            return Err(Error::unsupported(format!(
                "tensor {name} is stored as {}; expected F32",
                tensor.stored()
            )));
        }
        let factors = self.gguf.file[tensor.range()].as_chunks::<4>().0;
        Ok(Some(
            factors.iter().map(|f| f32::from_le_bytes(*f)).collect(),
        ))
    }
}
