//! [`PromptCache`]: a file of mlx-lm's `save_prompt_cache`. It is a safetensors file
//! with the state of each layer's cache, whose metadata are Python's lists and
//! dictionaries with their keys joined by dots:
//!
//! | metadata | newer versions | older ones |
//! |---|---|---|
//! | `0.` | what the caller adds | by layer: numbers of quantized caches |
//! | `1.` | by layer: the class | what the caller adds |
//! | `2.` | which tensors are numbers or text | by layer: the class |
//!
//! Layer i has `i.0`, keys, and `i.1`, values, `[1, n_kv_heads, capacity, head_dim]`, of
//! quantized ones three each. In newer versions its length and other numbers are tensors
//! behind them; in older ones the capacity is the length.

use std::collections::BTreeMap;
use std::path::Path;

use super::dtype::Dtype;
use super::file::open_regular;
use super::header::Header;
use super::json::clip;
use super::mmap::MappedFile;
use super::tensors::{TensorInfo, TensorTable};
use super::writer::{NewTensor, write_plain_safetensors};
use crate::error::{Error, Result, ResultExt};

/// What umrt adds, since mlx-lm keeps no tokens.
const TOKENS: &str = "umrt_tokens";
const FLOATS: &str = "KVCache";
const QUANTIZED: &str = "QuantizedKVCache";

/// A prompt cache, validated and mapped.
pub struct PromptCache {
    /// By layer: keys and values; of quantized ones codes, scales and biases.
    layers: Vec<[Vec<TensorInfo>; 2]>,
    n_tokens: usize,
    bits_and_group_size: Option<(usize, usize)>,
    tokens: Option<Vec<i32>>,
    map: MappedFile,
}

/// A prompt cache to write.
pub struct NewPromptCache<'a> {
    pub tokens: &'a [i32],
    /// By layer: keys and values.
    pub layers: Vec<[NewRows; 2]>,
    pub bits_and_group_size: Option<(usize, usize)>,
}

/// Numbers, or codes, scales and biases.
pub struct NewRows {
    pub n_heads: usize,
    pub arrays: Vec<NewArray>,
}

/// A row for each head and token, head after head.
pub struct NewArray {
    pub dtype: Dtype,
    pub columns: usize,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Version {
    Newer,
    Older,
}

impl Version {
    fn of(metadata: &BTreeMap<String, String>) -> Option<Version> {
        let is_class = |key| {
            metadata
                .get(key)
                .is_some_and(|class| class.contains("Cache"))
        };
        match (is_class("1.0"), is_class("2.0")) {
            (true, _) => Some(Version::Newer),
            (false, true) => Some(Version::Older),
            (false, false) => None,
        }
    }

    fn classes(self) -> &'static str {
        match self {
            Version::Newer => "1",
            Version::Older => "2",
        }
    }

    fn added(self) -> &'static str {
        match self {
            Version::Newer => "0",
            Version::Older => "1",
        }
    }
}

/// What a file says, with the reading of it.
struct Reader<'a> {
    version: Version,
    metadata: &'a BTreeMap<String, String>,
    tensors: TensorTable,
    map: &'a MappedFile,
}

impl PromptCache {
    pub fn open(path: &Path) -> Result<PromptCache> {
        let (file, stamp) = open_regular(path)?;
        let header = Header::read(&file, stamp.bytes, 0).at(path.display())?;
        let map = MappedFile::open(path)?;
        if map.stamp() != stamp {
            return Err(Error::format(format!(
                "{} changed while it was being opened",
                path.display()
            )));
        }
        Self::from_parts(&header.metadata, header.tensors, map).at(path.display())
    }

    fn from_parts(
        metadata: &BTreeMap<String, String>,
        tensors: Vec<TensorInfo>,
        map: MappedFile,
    ) -> Result<PromptCache> {
        let version = Version::of(metadata)
            .ok_or_else(|| Error::format("is no prompt cache that mlx-lm saved"))?;
        let reader = Reader {
            version,
            metadata,
            tensors: TensorTable::new(tensors).map_err(|_| Error::format("has a tensor twice"))?,
            map: &map,
        };
        let is_quantized = reader.is_quantized()?;
        let n_layers = reader.list(version.classes()).count();
        let layers = (0..n_layers).map(|layer| reader.layer(layer, is_quantized));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let same = |number: &dyn Fn(usize) -> Result<usize>| reader.same(n_layers, number);
        let n_tokens = same(&|layer| reader.n_tokens(layer))?;
        let bits_and_group_size = match is_quantized {
            true => Some((
                same(&|layer| reader.quantization(layer, 1))?,
                same(&|layer| reader.quantization(layer, 0))?,
            )),
            false => None,
        };
        let capacities = layers
            .iter()
            .flatten()
            .flatten()
            .map(|tensor| tensor.shape[2]);
        if capacities.min().is_none_or(|capacity| capacity < n_tokens) {
            return Err(Error::format(format!(
                "has less than the {n_tokens} tokens that it says"
            )));
        }
        Ok(PromptCache {
            tokens: reader.tokens()?,
            layers,
            n_tokens,
            bits_and_group_size,
            map,
        })
    }

    pub fn layers(&self) -> &[[Vec<TensorInfo>; 2]] {
        &self.layers
    }

    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    pub fn bits_and_group_size(&self) -> Option<(usize, usize)> {
        self.bits_and_group_size
    }

    /// Their ids, if umrt wrote the file.
    pub fn tokens(&self) -> Option<&[i32]> {
        self.tokens.as_deref()
    }

    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        &self.map.as_slice()[tensor.range()]
    }
}

/// A tensor by its name.
type Named<'a> = (String, Dtype, Vec<usize>, &'a [u8]);

impl NewPromptCache<'_> {
    /// As a newer version of mlx-lm would, with the tokens' ids among the metadata.
    pub fn write(&self, path: &Path) -> Result<()> {
        let (bits, group_size) = self.bits_and_group_size.unwrap_or_default();
        let numbers = [self.tokens.len(), group_size, bits].map(|n| (n as i32).to_le_bytes());
        let n_numbers = if bits == 0 { 1 } else { 3 };
        let mut named: Vec<Named<'_>> = Vec::new();
        let mut scalars = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            for (kind, rows) in layer.iter().enumerate() {
                self.name_arrays(&format!("{index}.{kind}"), rows, &mut named);
            }
            for (place, number) in numbers[..n_numbers].iter().enumerate() {
                let name = format!("{index}.{}", 2 + place);
                scalars.push(name.clone());
                named.push((name, Dtype::I32, Vec::new(), &number[..]));
            }
        }
        let tensors: Vec<_> = named.iter().map(tensor_of).collect();
        let metadata = self.metadata(&scalars);
        let metadata: Vec<_> = metadata.iter().map(|(k, v)| (&k[..], &v[..])).collect();
        write_plain_safetensors(path, &tensors, &metadata)
    }

    fn name_arrays<'a>(&self, name: &str, rows: &'a NewRows, named: &mut Vec<Named<'a>>) {
        for (part, array) in rows.arrays.iter().enumerate() {
            let name = match self.bits_and_group_size {
                Some(_) => format!("{name}.{part}"),
                None => name.to_owned(),
            };
            let shape = vec![1, rows.n_heads, self.tokens.len(), array.columns];
            named.push((name, array.dtype, shape, &array.bytes[..]));
        }
    }

    fn metadata(&self, scalars: &[String]) -> Vec<(String, String)> {
        let class = match self.bits_and_group_size {
            Some(_) => QUANTIZED,
            None => FLOATS,
        };
        let ids: Vec<String> = self.tokens.iter().map(i32::to_string).collect();
        let mut metadata = vec![
            (format!("0.{TOKENS}"), ids.join(",")),
            ("2.0".to_owned(), String::new()),
        ];
        for index in 0..self.layers.len() {
            metadata.push((format!("1.{index}"), class.to_owned()));
        }
        for (index, name) in (1..).zip(scalars) {
            metadata.push((format!("2.{index}.0"), name.clone()));
            metadata.push((format!("2.{index}.1"), "scalar".to_owned()));
        }
        metadata
    }
}

fn tensor_of<'a>((name, dtype, shape, bytes): &'a Named<'_>) -> NewTensor<'a> {
    NewTensor {
        name,
        dtype: *dtype,
        shape,
        bytes,
    }
}

impl Reader<'_> {
    /// The entries of a list in the metadata.
    fn list(&self, prefix: &str) -> impl Iterator<Item = &str> {
        (0_usize..).map_while(move |index| {
            let entry = self.metadata.get(&format!("{prefix}.{index}"));
            entry.map(String::as_str)
        })
    }

    /// Whether all layers are; other kinds of caches are refused by name.
    fn is_quantized(&self) -> Result<bool> {
        let classes: Vec<&str> = self.list(self.version.classes()).collect();
        let others = classes
            .iter()
            .find(|class| ![FLOATS, QUANTIZED].contains(class));
        if let Some(class) = others {
            return Err(Error::unsupported(format!(
                "has a {} among its caches; umrt reads {FLOATS} and {QUANTIZED}",
                clip(class)
            )));
        }
        match classes.iter().all(|class| class == &classes[0]) {
            true => Ok(classes[0] == QUANTIZED),
            false => Err(Error::unsupported(
                "has caches of numbers and quantized ones; umrt reads files of one kind",
            )),
        }
    }

    fn layer(&self, layer: usize, is_quantized: bool) -> Result<[Vec<TensorInfo>; 2]> {
        let arrays = |kind: usize| -> Result<Vec<TensorInfo>> {
            let name = format!("{layer}.{kind}");
            match is_quantized {
                true => (0..3)
                    .map(|part| self.array(&format!("{name}.{part}")))
                    .collect(),
                false => Ok(vec![self.array(&name)?]),
            }
        };
        Ok([arrays(0)?, arrays(1)?])
    }

    fn array(&self, name: &str) -> Result<TensorInfo> {
        let tensor = self.tensor(name)?;
        match tensor.shape[..] {
            [1, _, _, _] => Ok(tensor.clone()),
            [n, _, _, _] => Err(Error::unsupported(format!(
                "has {n} sequences in one; umrt reads files of one"
            ))),
            _ => Err(Error::format(format!(
                "has a tensor {name} of the shape {:?}",
                tensor.shape
            ))),
        }
    }

    fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        let missing = || Error::format(format!("has no tensor {name}"));
        self.tensors.get(name).ok_or_else(missing)
    }

    fn n_tokens(&self, layer: usize) -> Result<usize> {
        match self.version {
            Version::Newer => self.number(&format!("{layer}.2")),
            Version::Older => {
                let keys = self.tensor(&format!("{layer}.0"));
                let keys = keys.or_else(|_| self.tensor(&format!("{layer}.0.0")))?;
                Ok(keys.shape[2])
            }
        }
    }

    /// The group size (0) or the bits (1) of a layer.
    fn quantization(&self, layer: usize, index: usize) -> Result<usize> {
        match self.version {
            Version::Newer => self.number(&format!("{layer}.{}", 3 + index)),
            Version::Older => {
                let numbers: Vec<&str> = self.list(&format!("0.{layer}")).collect();
                let found = numbers
                    .len()
                    .checked_sub(2)
                    .map(|first| numbers[first + index]);
                found.and_then(|number| number.parse().ok()).ok_or_else(|| {
                    Error::format(format!("does not say how layer {layer} is quantized"))
                })
            }
        }
    }

    fn number(&self, name: &str) -> Result<usize> {
        let tensor = self.tensor(name)?;
        let bytes = &self.map.as_slice()[tensor.range()];
        let number = match tensor.dtype {
            Dtype::I32 => bytes
                .try_into()
                .ok()
                .map(|b| i64::from(i32::from_le_bytes(b))),
            Dtype::I64 => bytes.try_into().ok().map(i64::from_le_bytes),
            _ => None,
        };
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| Error::format(format!("has a tensor {name} that is no number")))
    }

    /// A number that all layers have in common.
    fn same(&self, n_layers: usize, number: &dyn Fn(usize) -> Result<usize>) -> Result<usize> {
        let first = number(0)?;
        for layer in 1..n_layers {
            if number(layer)? != first {
                return Err(Error::unsupported(format!(
                    "has layers 0 and {layer} of different lengths or bits"
                )));
            }
        }
        Ok(first)
    }

    fn tokens(&self) -> Result<Option<Vec<i32>>> {
        let Some(ids) = self
            .metadata
            .get(&format!("{}.{TOKENS}", self.version.added()))
        else {
            return Ok(None);
        };
        let ids = ids.split(',').filter(|id| !id.is_empty()).map(str::parse);
        let ids: std::result::Result<Vec<i32>, _> = ids.collect();
        let ids = ids.map_err(|_| Error::format(format!("has no ids in {TOKENS}")))?;
        Ok(Some(ids))
    }
}
