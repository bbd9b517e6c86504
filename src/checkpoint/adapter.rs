//! Files of LoRA and DoRA adapters (Hu et al., 2021; Liu et al., 2024), as mlx-lm and PEFT write them:
//! which matrices they have for which modules, validated and mapped.

mod scaling;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::scaling::{Scaling, is_dora};
use super::config::Config;
use super::file::open_regular;
use super::header::Header;
use super::json::clip;
use super::mmap::MappedFile;
use super::tensors::{TensorInfo, TensorTable};
use crate::error::{Error, Result, ResultExt};

const CONFIG: &str = "adapter_config.json";
/// What PEFT puts in front of the model's names.
const PEFT_PREFIX: &str = "base_model.model.";

/// Who wrote an adapter, which decides names and layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterFormat {
    /// `lora_a [inputs, rank]`, `lora_b [rank, outputs]`
    MlxLm,
    /// `lora_A.weight [rank, inputs]`, `lora_B.weight [outputs, rank]`
    Peft,
}

/// The two matrices of one module, whose product is added to its weight.
#[derive(Clone, Debug)]
pub struct AdapterPair {
    /// The name of the module in the model.
    pub module: String,
    pub inputs: usize,
    pub rank: usize,
    pub outputs: usize,
    /// From inputs to `rank` values.
    pub down: TensorInfo,
    /// From there to outputs.
    pub up: TensorInfo,
    /// What the product is multiplied with.
    pub scale: f32,
    /// Of DoRA: how long the rows of the weight and the product together are made.
    pub magnitudes: Option<TensorInfo>,
}

impl AdapterPair {
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        [&self.down, &self.up].into_iter().chain(&self.magnitudes)
    }
}

/// An adapter, mapped.
#[derive(Clone, Debug)]
pub struct AdapterFiles {
    format: AdapterFormat,
    pairs: Vec<AdapterPair>,
    map: MappedFile,
}

impl AdapterFormat {
    fn weights(self) -> &'static str {
        match self {
            AdapterFormat::MlxLm => "adapters.safetensors",
            AdapterFormat::Peft => "adapter_model.safetensors",
        }
    }

    fn suffixes(self) -> [&'static str; 2] {
        match self {
            AdapterFormat::MlxLm => [".lora_a", ".lora_b"],
            AdapterFormat::Peft => [".lora_A.weight", ".lora_B.weight"],
        }
    }

    fn magnitudes(self) -> &'static str {
        match self {
            AdapterFormat::MlxLm => ".m",
            AdapterFormat::Peft => ".lora_magnitude_vector",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            AdapterFormat::MlxLm => "",
            AdapterFormat::Peft => PEFT_PREFIX,
        }
    }
}

impl AdapterFiles {
    /// `path` is the directory, or a file in it.
    pub fn open(path: &Path) -> Result<AdapterFiles> {
        let root = root_of(path)?;
        let config = Config::read(&root.join(CONFIG))?;
        let format = match config.has("peft_type") {
            true => AdapterFormat::Peft,
            false => AdapterFormat::MlxLm,
        };
        let scaling = Scaling::from_config(&config, format)?;
        let file = root.join(format.weights());
        if !file.exists() {
            return Err(no_weights(&root, format));
        }
        let (opened, stamp) = open_regular(&file)?;
        let header = Header::read(&opened, stamp.bytes, 0).at(file.display())?;
        let tensors = TensorTable::new(header.tensors)
            .map_err(|_| Error::format("has a tensor twice"))
            .at(file.display())?;
        let has_magnitudes = is_dora(&config, format)?;
        let pairs = pairs(format, &tensors, (&scaling, has_magnitudes)).at(file.display())?;
        let map = MappedFile::open(&file)?;
        if map.stamp() != stamp {
            return Err(Error::format(format!(
                "{} changed while the adapter was being opened",
                file.display()
            )));
        }
        Ok(AdapterFiles { format, pairs, map })
    }

    pub fn format(&self) -> AdapterFormat {
        self.format
    }

    pub fn pairs(&self) -> &[AdapterPair] {
        &self.pairs
    }

    pub fn map(&self) -> &MappedFile {
        &self.map
    }

    pub fn path(&self) -> &Path {
        self.map.path()
    }
}

fn root_of(path: &Path) -> Result<PathBuf> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io("open", path, &error))?;
    let root = match metadata.is_dir() {
        true => path,
        false => path.parent().unwrap_or(Path::new("")),
    };
    if !root.join(CONFIG).exists() {
        return Err(Error::not_found(format!(
            "{} is not an adapter's directory: it has no {CONFIG}",
            root.display()
        )));
    }
    Ok(root.to_owned())
}

fn no_weights(root: &Path, format: AdapterFormat) -> Error {
    let root_name = root.display();
    if root.join("adapter_model.bin").exists() {
        return Error::unsupported(format!(
            "{root_name}/adapter_model.bin is a PyTorch file, which is not read because it may \
             contain code; save the adapter with safe_serialization=True"
        ));
    }
    let name = format.weights();
    Error::not_found(format!("{root_name} has no {name}, which {CONFIG} implies"))
}

/// Puts the tensors together, and refuses what is no half of a pair.
fn pairs(
    format: AdapterFormat,
    tensors: &TensorTable,
    (scaling, has_magnitudes): (&Scaling, bool),
) -> Result<Vec<AdapterPair>> {
    let [down, up] = format.suffixes();
    let magnitudes = format.magnitudes();
    let mut parts: BTreeMap<&str, [Option<&TensorInfo>; 3]> = BTreeMap::new();
    for tensor in tensors.as_slice() {
        let name = tensor.name.as_str();
        let stripped = [down, up, magnitudes].map(|suffix| name.strip_suffix(suffix));
        let (module, part) = match stripped {
            [Some(module), ..] => (module, 0),
            [_, Some(module), _] => (module, 1),
            [.., Some(module)] if has_magnitudes => (module, 2),
            _ => return Err(unexpected(name)),
        };
        parts.entry(module).or_default()[part] = Some(tensor);
    }
    if parts.is_empty() {
        return Err(Error::format("has no tensors"));
    }
    let pair = |(module, parts): (&str, [Option<&TensorInfo>; 3])| match parts {
        [_, _, None] if has_magnitudes => Err(missing(module, magnitudes)),
        [Some(down), Some(up), magnitudes] => Ok(AdapterPair {
            magnitudes: magnitudes.cloned(),
            ..pair(format, module, down, up, scaling)?
        }),
        [Some(_), None, _] => Err(missing(module, up)),
        _ => Err(missing(module, down)),
    };
    parts.into_iter().map(pair).collect()
}

fn missing(module: &str, suffix: &str) -> Error {
    let module = clip(module);
    Error::format(format!(
        "has no tensor {module}{suffix}, the other part of what it has for that module"
    ))
}

/// A tensor that belongs to something else than the low-rank update of a matrix.
fn unexpected(name: &str) -> Error {
    let is_any = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let what = if name.ends_with(".m") || is_any(&["lora_magnitude_vector"]) {
        "of DoRA's magnitudes, which the configuration does not speak of"
    } else if is_any(&["lora_embedding_"]) {
        "an adapter of an embedding"
    } else if name.ends_with(".bias") {
        "a bias"
    } else {
        "no low-rank update but a tensor of its own, as of full fine-tuning or modules_to_save"
    };
    Error::unsupported(format!(
        "tensor {} is {what}, which this version does not support; it has LoRA and DoRA on the \
         projections of attention, dense feed-forward networks and the output",
        clip(name)
    ))
}

fn pair(
    format: AdapterFormat,
    stored_module: &str,
    down: &TensorInfo,
    up: &TensorInfo,
    scaling: &Scaling,
) -> Result<AdapterPair> {
    let module = stored_module
        .strip_prefix(format.prefix())
        .ok_or_else(|| unexpected(&down.name))?;
    let matrix = |tensor: &TensorInfo| match tensor.shape[..] {
        [rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
        [_, _, _] => Err(Error::unsupported(format!(
            "tensor {} is of several experts, whose adapters this version does not support",
            tensor.name
        ))),
        _ => Err(Error::format(format!(
            "tensor {} has the shape {:?}; expected a matrix",
            tensor.name, tensor.shape
        ))),
    };
    let (stored_down, stored_up) = (matrix(down)?, matrix(up)?);
    let ([inputs, rank], [rank_of_up, outputs]) = match format {
        AdapterFormat::MlxLm => (stored_down, stored_up),
        AdapterFormat::Peft => (swapped(stored_down), swapped(stored_up)),
    };
    let expected_rank = scaling.rank(module)?.unwrap_or(rank);
    if rank != rank_of_up || rank != expected_rank {
        return Err(Error::format(format!(
            "tensors {} {:?} and {} {:?} are no pair of rank {expected_rank}",
            down.name, down.shape, up.name, up.shape
        )));
    }
    Ok(AdapterPair {
        scale: scaling.factor(module, rank)?,
        module: module.to_owned(),
        inputs,
        rank,
        outputs,
        down: down.clone(),
        up: up.clone(),
        magnitudes: None,
    })
}

fn swapped([a, b]: [usize; 2]) -> [usize; 2] {
    [b, a]
}
