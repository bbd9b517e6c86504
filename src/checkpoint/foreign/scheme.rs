//! [`Scheme`]: who quantized a checkpoint, and how.

use crate::checkpoint::config::Config;
use crate::error::{Error, Result};

/// How weights are stored, as `quantization_config` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// AutoAWQ's "gemm": 4 bits, eight outputs in a word.
    Awq { group_size: Option<usize> },
    /// GPTQ: consecutive inputs in a word.
    Gptq {
        bits: usize,
        group_size: Option<usize>,
        /// Zeros are in the middle of the codes.
        is_symmetric: bool,
        /// Added to zeros as they are stored.
        zero_offset: u8,
    },
    /// compressed-tensors' "pack-quantized".
    Packed { bits: usize, is_symmetric: bool },
    /// compressed-tensors' "int-quantized": a signed byte for each weight.
    Bytes,
    /// Floats of 8 bits with scales for blocks, rows or all.
    Fp8 { block: Option<[usize; 2]> },
    /// Those of GGUF files, where MLX's operations compute.
    Blocks,
}

impl Scheme {
    /// `None`: weights are floats, in MLX's formats or in an unknown one.
    pub fn from_config(config: &Config) -> Result<Option<Scheme>> {
        if config.opt_object("quantization")?.is_some() {
            return Ok(None);
        }
        let Some(section) = config.opt_object("quantization_config")? else {
            return Ok(None);
        };
        match section.opt_str("quant_method")? {
            Some("awq") => awq(&section).map(Some),
            Some("gptq") => gptq(&section).map(Some),
            Some("compressed-tensors") => compressed(&section).map(Some),
            Some("fp8") => fp8(&section).map(Some),
            _ => Ok(None),
        }
    }
}

fn awq(section: &Config) -> Result<Scheme> {
    only(section, "bits", section.opt_usize("bits", 0..=64)?, 4)?;
    let version = section.opt_str("version")?.unwrap_or("gemm");
    if !version.eq_ignore_ascii_case("gemm") {
        return Err(unsupported(section, "version", "\"gemm\""));
    }
    Ok(Scheme::Awq {
        group_size: group_size(section)?,
    })
}

fn gptq(section: &Config) -> Result<Scheme> {
    let bits = section.usize("bits", 1..=64)?;
    if !matches!(bits, 4 | 8) {
        return Err(unsupported(section, "bits", "4 or 8"));
    }
    if section.opt_bool("desc_act")? == Some(true) {
        return Err(unsupported(
            section,
            "desc_act",
            "false (true means that groups are not consecutive)",
        ));
    }
    let zero_offset = match section.opt_str("checkpoint_format")? {
        None | Some("gptq") => 1,
        Some("gptq_v2") => 0,
        Some(_) => return Err(unsupported(section, "checkpoint_format", "gptq or gptq_v2")),
    };
    Ok(Scheme::Gptq {
        bits,
        group_size: group_size(section)?,
        is_symmetric: section.opt_bool("sym")?.unwrap_or(false),
        zero_offset,
    })
}

fn compressed(section: &Config) -> Result<Scheme> {
    let groups = section.object("config_groups")?;
    let mut schemes = Vec::new();
    let names: Vec<String> = groups.entries().map(|(name, _)| name.to_owned()).collect();
    for name in &names {
        let weights = groups.object(name.as_str())?.object("weights")?;
        schemes.push(compressed_group(section, &weights)?);
    }
    match schemes.first() {
        Some(scheme) if schemes.iter().all(|other| other == scheme) => Ok(*scheme),
        _ => Err(unsupported(section, "config_groups", "one way to quantize")),
    }
}

fn compressed_group(section: &Config, weights: &Config) -> Result<Scheme> {
    let bits = weights.usize("num_bits", 1..=64)?;
    let is_symmetric = weights.opt_bool("symmetric")?.unwrap_or(true);
    let is_float = weights.opt_str("type")? == Some("float");
    match (section.opt_str("format")?, bits) {
        (Some("pack-quantized"), 4 | 8) if !is_float => Ok(Scheme::Packed { bits, is_symmetric }),
        (Some("int-quantized"), 8) if is_symmetric && !is_float => Ok(Scheme::Bytes),
        (Some("float-quantized"), 8) if is_float => Ok(Scheme::Fp8 { block: None }),
        _ => Err(unsupported(
            section,
            "format",
            "\"pack-quantized\" of 4 or 8 bits, symmetric \"int-quantized\" or \
             \"float-quantized\" of 8",
        )),
    }
}

fn fp8(section: &Config) -> Result<Scheme> {
    if section.opt_str("fmt")?.is_some_and(|fmt| fmt != "e4m3") {
        return Err(unsupported(section, "fmt", "\"e4m3\""));
    }
    let block = section.opt_usizes("weight_block_size", 1..=1 << 16)?;
    let block = block.map(<[usize; 2]>::try_from);
    match block.transpose() {
        Ok(block) => Ok(Scheme::Fp8 { block }),
        Err(_) => Err(unsupported(section, "weight_block_size", "two numbers")),
    }
}

/// `None` stands for whole rows, -1 in the file.
fn group_size(section: &Config) -> Result<Option<usize>> {
    let size = section.opt_i64(["group_size", "q_group_size"], -1..=1 << 20)?;
    match size.unwrap_or(128) {
        -1 => Ok(None),
        size if size > 0 => Ok(Some(size as usize)),
        _ => Err(unsupported(section, "group_size", "-1 or more than 0")),
    }
}

fn only(section: &Config, key: &str, found: Option<usize>, expected: usize) -> Result<()> {
    match found {
        Some(found) if found != expected => Err(unsupported(section, key, &expected.to_string())),
        _ => Ok(()),
    }
}

fn unsupported(section: &Config, key: &str, expected: &str) -> Error {
    Error::unsupported(section.unexpected(key, expected).message())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    fn scheme(section: &str) -> Result<Option<Scheme>> {
        let text = format!(r#"{{"quantization_config": {section}}}"#);
        Scheme::from_config(&Config::parse(text.as_bytes(), "config.json")?)
    }

    #[test]
    fn the_tools_settings_are_understood() {
        let awq = r#"{"quant_method": "awq", "bits": 4, "group_size": 128, "version": "GEMM"}"#;
        let expected = Scheme::Awq {
            group_size: Some(128),
        };
        assert_eq!(scheme(awq).unwrap(), Some(expected));
        let gptq = r#"{"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": true}"#;
        let expected = Scheme::Gptq {
            bits: 8,
            group_size: None,
            is_symmetric: true,
            zero_offset: 1,
        };
        assert_eq!(scheme(gptq).unwrap(), Some(expected));
        let fp8 = r#"{"quant_method": "fp8", "weight_block_size": [128, 64]}"#;
        let block = Some([128, 64]);
        assert_eq!(scheme(fp8).unwrap(), Some(Scheme::Fp8 { block }));
        assert_eq!(scheme(r#"{"quant_method": "bitsandbytes"}"#).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (section, part) in [
            (r#"{"quant_method": "awq", "bits": 3}"#, "bits"),
            (r#"{"quant_method": "awq", "version": "gemv"}"#, "gemm"),
            (
                r#"{"quant_method": "gptq", "bits": 4, "desc_act": true}"#,
                "desc_act",
            ),
            (r#"{"quant_method": "gptq", "bits": 3}"#, "4 or 8"),
            (
                r#"{"quant_method": "compressed-tensors", "format": "marlin-24",
                    "config_groups": {"a": {"weights": {"num_bits": 4}}}}"#,
                "pack-quantized",
            ),
            (r#"{"quant_method": "fp8", "fmt": "e5m2"}"#, "e4m3"),
        ] {
            let error = scheme(section).unwrap_err();
            assert_eq!(error.status(), Status::Unsupported, "{error}");
            assert!(error.message().contains(part), "{error}");
        }
    }
}
