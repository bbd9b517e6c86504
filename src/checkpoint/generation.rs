//! `generation_config.json`: the sampling that the model's authors suggest, and
//! the tokens that end a text.

use super::config::Config;
use crate::error::{Error, Result};

/// Every field is absent where the checkpoint says nothing about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Any of these ends a text. From `generation_config.json`, else `config.json`.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
    pub do_sample: Option<bool>,
    pub temperature: Option<f32>,
    /// 0 means that every token is a candidate.
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

impl GenerationDefaults {
    pub fn new(generation: Option<&Config>, config: &Config) -> Result<GenerationDefaults> {
        let mut defaults = match generation {
            Some(generation) => suggested(generation)?,
            None => GenerationDefaults::default(),
        };
        if defaults.eos_token_ids.is_empty() {
            defaults.eos_token_ids = token_ids(config, "eos_token_id")?;
        }
        if defaults.bos_token_id.is_none() {
            defaults.bos_token_id = token_id(config, "bos_token_id")?;
        }
        if defaults.pad_token_id.is_none() {
            defaults.pad_token_id = token_id(config, "pad_token_id")?;
        }
        Ok(defaults)
    }
}

fn suggested(generation: &Config) -> Result<GenerationDefaults> {
    let top_k = generation.opt_i64("top_k", -1..=i64::from(u32::MAX))?;
    Ok(GenerationDefaults {
        eos_token_ids: token_ids(generation, "eos_token_id")?,
        bos_token_id: token_id(generation, "bos_token_id")?,
        pad_token_id: token_id(generation, "pad_token_id")?,
        do_sample: generation.opt_bool("do_sample")?,
        temperature: generation.opt_f32("temperature", 0.0..=1000.0)?,
        top_k: top_k.map(|k| u32::try_from(k).unwrap_or(0)),
        top_p: generation.opt_f32("top_p", 0.0..=1.0)?,
        min_p: generation.opt_f32("min_p", 0.0..=1.0)?,
        repetition_penalty: generation.opt_f32("repetition_penalty", 0.0..=1000.0)?,
    })
}

fn token_id(config: &Config, key: &str) -> Result<Option<u32>> {
    Ok(token_ids(config, key)?.first().copied())
}

/// One id or a list of them. A negative one is how old configurations say "none".
fn token_ids(config: &Config, key: &str) -> Result<Vec<u32>> {
    let expected = "a token id or a list of them";
    let wrong = || -> Error { config.unexpected(key, expected) };
    let Some(value) = config.get(key) else {
        return Ok(Vec::new());
    };
    let one = std::slice::from_ref(value);
    let values = value.as_array().map_or(one, Vec::as_slice);
    let mut ids = Vec::with_capacity(values.len());
    for value in values {
        let id = value.as_i64().ok_or_else(wrong)?;
        if id >= 0 {
            ids.push(u32::try_from(id).map_err(|_| wrong())?);
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(generation: Option<&str>, config: &str) -> Result<GenerationDefaults> {
        let parse = |text: &str, file| Config::parse(text.as_bytes(), file).unwrap();
        let generation = generation.map(|text| parse(text, "generation_config.json"));
        GenerationDefaults::new(generation.as_ref(), &parse(config, "config.json"))
    }

    #[test]
    fn end_tokens_may_be_one_or_many_and_generation_config_wins() {
        let config = r#"{"eos_token_id": 7, "bos_token_id": 1, "pad_token_id": -1}"#;
        let from_config = defaults(None, config).unwrap();
        assert_eq!(from_config.eos_token_ids, [7]);
        assert_eq!(from_config.bos_token_id, Some(1));
        assert_eq!(from_config.pad_token_id, None);

        let both = defaults(Some(r#"{"eos_token_id": [2, 3]}"#), config).unwrap();
        assert_eq!(both.eos_token_ids, [2, 3]);
        assert_eq!(both.bos_token_id, Some(1));
    }

    #[test]
    fn suggested_sampling_is_read() {
        let text =
            r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": null}"#;
        let read = defaults(Some(text), "{}").unwrap();
        assert_eq!(read.do_sample, Some(true));
        assert_eq!(read.temperature, Some(0.6));
        assert_eq!((read.top_k, read.top_p), (Some(20), Some(0.95)));
        assert_eq!(read.min_p, None);
        assert_eq!(
            defaults(Some(r#"{"top_k": -1}"#), "{}").unwrap().top_k,
            Some(0)
        );
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (text, message) in [
            (
                r#"{"eos_token_id": ["</s>"]}"#,
                r#"generation_config.json: "eos_token_id" is ["</s>"]; expected a token id or a list of them"#,
            ),
            (
                r#"{"eos_token_id": 4294967296}"#,
                r#"generation_config.json: "eos_token_id" is 4294967296; expected a token id or a list of them"#,
            ),
            (
                r#"{"top_p": 1.5}"#,
                r#"generation_config.json: "top_p" is 1.5; expected a number from 0 to 1"#,
            ),
        ] {
            assert_eq!(defaults(Some(text), "{}").unwrap_err().message(), message);
        }
    }
}
