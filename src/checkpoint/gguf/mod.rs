//! GGUF files: header, settings and names as the rest of the runtime knows them
//! from model directories.
//!
//! - here: [`Gguf`], what the header says, checked against the length of the file
//! - `reader`, `value`: items of the header and its metadata
//! - `types`: ggml's types of tensors
//! - `architecture`: kinds of models, and how their files differ from checkpoints
//! - `settings`: metadata as the `config.json` of the same model
//! - `names`: tensors as transformers calls them
//! - `vocabulary`: the tokenizer and its chat template
//!
//! The layout is that of ggml's `docs/gguf.md`.

mod architecture;
mod names;
mod reader;
mod settings;
mod types;
mod value;
mod vocabulary;

use std::collections::HashMap;

pub(super) use vocabulary::Vocabulary;

use self::architecture::Architecture;
use self::reader::Reader;
use self::types::Stored;
use self::value::Value;
use super::config::Config;
use super::header::{LIMIT_NAME_BYTES, LIMIT_TENSORS, check_shape, refuse_overlap, truncated};
use super::identity::Hasher;
use super::tensors::TensorInfo;
use crate::error::{Error, Result, ResultExt};

const MAGIC: &[u8] = b"GGUF";
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
const LIMIT_ENTRIES: u64 = 1 << 16;
const LIMIT_RANK: u32 = 4;
const LIMIT_ALIGNMENT: i128 = 1 << 20;
const DEFAULT_ALIGNMENT: i128 = 32;

/// A file's header. Errors don't name the file; the caller does.
pub(super) struct Gguf<'a> {
    file: &'a [u8],
    metadata: HashMap<&'a str, Value<'a>>,
    /// By offset, with ggml's names. No two overlap, each lies inside the file.
    tensors: Vec<TensorInfo>,
    /// Where the table of tensors is.
    table: std::ops::Range<usize>,
    pub data_start: usize,
    /// Files that the model is in, as far as they were read.
    n_parts: usize,
}

impl<'a> Gguf<'a> {
    pub fn read(file: &'a [u8]) -> Result<Gguf<'a>> {
        let mut reader = Reader::new(file, 0);
        check_version(&mut reader)?;
        let (n_tensors, n_entries) = (reader.u64()?, reader.u64()?);
        if n_tensors > LIMIT_TENSORS as u64 || n_entries > LIMIT_ENTRIES {
            return Err(Error::format(format!(
                "has {n_tensors} tensors and {n_entries} entries; the limits are {LIMIT_TENSORS} \
                 and {LIMIT_ENTRIES}"
            )));
        }
        let metadata = read_metadata(&mut reader, file, n_entries)?;
        let table_start = reader.position();
        let stored = (0..n_tensors)
            .map(|_| read_tensor(&mut reader))
            .collect::<Result<Vec<_>>>()?;
        let table = table_start..reader.position();
        let alignment = alignment(&metadata)?;
        let data_start = table.end.next_multiple_of(alignment);
        let layout = Layout {
            file_bytes: file.len(),
            data_start,
            alignment,
        };
        Ok(Gguf {
            tensors: layout.tensors(stored)?,
            file,
            metadata,
            table,
            data_start,
            n_parts: 1,
        })
    }

    /// Takes over the tensors of another part, which is the file of this number.
    pub fn absorb(&mut self, part: Gguf<'_>, number: usize) -> Result<()> {
        match part.get("split.no") {
            Some(Value::Whole(found)) if found == number as i128 => {}
            _ => {
                return Err(Error::format(format!(
                    "is not the part of the model that its name says, number {number} from 0"
                )));
            }
        }
        let numbered = part.tensors.into_iter().map(|tensor| TensorInfo {
            file: number,
            ..tensor
        });
        self.tensors.extend(numbered);
        self.n_parts += 1;
        Ok(())
    }

    /// The tensors under the names that checkpoints in safetensors files have.
    pub fn named_tensors(&self) -> Result<Vec<TensorInfo>> {
        let own = &Architecture::of(self)?.names;
        let named = |tensor: &TensorInfo| {
            let mut shape = tensor.shape.clone();
            if let Some(place) = names::left_out(&tensor.name, own) {
                shape.insert(place.min(shape.len()), 1);
            }
            TensorInfo {
                name: names::in_checkpoints(&tensor.name, own),
                shape,
                ..tensor.clone()
            }
        };
        Ok(self.tensors.iter().map(named).collect())
    }

    /// What `config.json` would say; `name` is what errors begin with.
    pub fn config(&self, name: &str) -> Result<Config> {
        Config::layered(name, settings::of(self)?)
    }

    /// What tells the file from others, but for its vocabulary and the weights.
    pub fn identify(&self, hasher: &mut Hasher) {
        let mut scalars: Vec<_> = self
            .metadata
            .iter()
            .filter(|(_, value)| !matches!(value, Value::Array(_)))
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect();
        scalars.sort();
        for scalar in &scalars {
            hasher.field(scalar.as_bytes());
        }
        hasher.field(&self.file[self.table.clone()]);
        hasher.number(self.file.len() as u64);
    }

    pub fn vocabulary(&self) -> Vocabulary<'_> {
        Vocabulary::new(self)
    }

    fn get(&self, key: &str) -> Option<Value<'a>> {
        self.metadata.get(key).copied()
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(key, "a text")),
        }
    }

    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

fn wrong(key: &str, expected: &str) -> Error {
    Error::format(format!("the value of {key} is not {expected}"))
}

fn check_version(reader: &mut Reader<'_>) -> Result<()> {
    if reader.take(MAGIC.len() as u64)? != MAGIC {
        return Err(Error::format("is not a GGUF file: it does not begin so"));
    }
    let version = reader.u32()?;
    if VERSIONS.contains(&version) {
        return Ok(());
    }
    Err(match VERSIONS.contains(&version.swap_bytes()) {
        true => Error::unsupported("is a GGUF file for machines with big-endian numbers"),
        false => Error::unsupported(format!(
            "is a GGUF file of version {version}; versions {} and {} are read",
            VERSIONS.start(),
            VERSIONS.end()
        )),
    })
}

fn read_metadata<'a>(
    reader: &mut Reader<'a>,
    file: &'a [u8],
    n_entries: u64,
) -> Result<HashMap<&'a str, Value<'a>>> {
    let mut metadata = HashMap::new();
    for _ in 0..n_entries {
        let key = reader.text(LIMIT_NAME_BYTES as u64)?;
        let value = Value::read(reader, file).at(format!("metadata {key:?}"))?;
        if metadata.insert(key, value).is_some() {
            return Err(Error::format(format!("metadata {key:?} comes twice")));
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &HashMap<&str, Value<'_>>) -> Result<usize> {
    const KEY: &str = "general.alignment";
    let alignment = match metadata.get(KEY) {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Whole(alignment)) => *alignment,
        Some(_) => return Err(wrong(KEY, "a whole number")),
    };
    match usize::try_from(alignment) {
        Ok(bytes) if bytes.is_power_of_two() && alignment <= LIMIT_ALIGNMENT => Ok(bytes),
        _ => Err(Error::format(format!(
            "{KEY} is {alignment}; expected a power of two up to {LIMIT_ALIGNMENT}"
        ))),
    }
}

/// An entry of the table of tensors.
struct Entry<'a> {
    name: &'a str,
    /// Rows last in the file, first here.
    shape: Vec<usize>,
    type_number: u32,
    /// From where the data starts.
    offset: u64,
}

fn read_tensor<'a>(reader: &mut Reader<'a>) -> Result<Entry<'a>> {
    let name = reader.text(LIMIT_NAME_BYTES as u64)?;
    let rank = reader.u32()?;
    if rank > LIMIT_RANK {
        return Err(Error::format(format!(
            "tensor {name:?} has {rank} dimensions; the limit is {LIMIT_RANK}"
        )));
    }
    let mut shape = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        shape.push(usize::try_from(reader.u64()?).unwrap_or(usize::MAX));
    }
    shape.reverse();
    Ok(Entry {
        name,
        shape,
        type_number: reader.u32()?,
        offset: reader.u64()?,
    })
}

/// Where the data lies.
struct Layout {
    file_bytes: usize,
    data_start: usize,
    alignment: usize,
}

impl Layout {
    fn tensors(&self, entries: Vec<Entry<'_>>) -> Result<Vec<TensorInfo>> {
        let mut tensors = entries
            .into_iter()
            .map(|entry| {
                let place = format!("tensor {:?}", entry.name);
                self.tensor(entry).at(place)
            })
            .collect::<Result<Vec<_>>>()?;
        tensors.sort_by(|a, b| (a.offset, a.bytes, &a.name).cmp(&(b.offset, b.bytes, &b.name)));
        let end = tensors.iter().map(|tensor| tensor.range().end).max();
        if let Some(end) = end.filter(|end| *end > self.file_bytes) {
            return Err(truncated(end as u64, self.file_bytes as u64));
        }
        refuse_overlap(&tensors)?;
        Ok(tensors)
    }

    /// Everything but whether the file is long enough, which is asked for all.
    fn tensor(&self, entry: Entry<'_>) -> Result<TensorInfo> {
        check_shape(&entry.shape)?;
        let Stored { dtype, blocks } = types::stored(entry.type_number)?;
        let mut shape = entry.shape;
        if let (Some(blocks), Some(columns)) = (blocks, shape.last_mut()) {
            if !columns.is_multiple_of(blocks.values()) {
                return Err(Error::format(format!(
                    "has rows of {columns} values, which are no whole {blocks} blocks of {}",
                    blocks.values()
                )));
            }
            *columns = *columns / blocks.values() * blocks.bytes();
        }
        let bytes = shape
            .iter()
            .try_fold(dtype.size(), |bytes, length| bytes.checked_mul(*length))
            .ok_or_else(|| Error::format(format!("the size of {shape:?} overflows")))?;
        if !entry.offset.is_multiple_of(self.alignment as u64) {
            return Err(Error::format(format!(
                "starts at {}, which is not aligned to {} bytes",
                entry.offset, self.alignment
            )));
        }
        let offset = usize::try_from(entry.offset)
            .ok()
            .and_then(|offset| offset.checked_add(self.data_start))
            .filter(|offset| offset.checked_add(bytes).is_some())
            .ok_or_else(|| Error::format(format!("its offset {} overflows", entry.offset)))?;
        Ok(TensorInfo {
            name: entry.name.to_owned(),
            dtype,
            shape,
            file: 0,
            offset,
            bytes,
            blocks,
        })
    }
}
