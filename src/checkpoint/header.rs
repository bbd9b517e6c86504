//! The header of a safetensors file: eight bytes of length, JSON, then data.
//!
//! The entries are parsed by the `safetensors` crate; the file-level rules are
//! checked here, since the crate also refuses two things that do no harm to a
//! reader of single tensors, gaps between tensors and bytes after the last one
//! (both of which page-aligned writers produce), and accepts one that does,
//! duplicate names.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;

use safetensors::tensor::TensorInfo as StoredInfo;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::dtype::Dtype;
use super::json::clip;
use super::tensors::TensorInfo;
use crate::error::{Error, Result, ResultExt, Status};

/// The same limit as in the `safetensors` crate and in MLX.
pub(super) const LIMIT_HEADER_BYTES: u64 = 100_000_000;
pub(super) const LIMIT_TENSORS: usize = 1_000_000;
pub(super) const LIMIT_NAME_BYTES: usize = 4096;
pub(super) const LIMIT_RANK: usize = 8;
/// MLX keeps dimensions in 32-bit signed numbers.
pub(super) const LIMIT_DIMENSION: usize = i32::MAX as usize;
/// Where the header itself starts.
pub(super) const LENGTH_BYTES: usize = 8;

/// Tensors of this name and of type U8 fill gaps and aren't part of the model.
pub(super) const PADDING_PREFIX: &str = "__padding__.";

/// What a file's header says, validated against the length of the file.
#[derive(Debug)]
pub(super) struct Header {
    /// The JSON as stored.
    pub bytes: Vec<u8>,
    pub metadata: BTreeMap<String, String>,
    /// By offset. No two overlap, each lies inside the file.
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    /// Reads the header only. Errors don't name the file; the caller does.
    pub fn read(file: &File, file_bytes: u64, file_index: usize) -> Result<Header> {
        let bytes = read_json(file, file_bytes)?;
        let entries: Entries = serde_json::from_slice(&bytes).map_err(|error| {
            Error::format(format!(
                "has a malformed header: {}",
                clip(&error.to_string())
            ))
        })?;
        let layout = Layout {
            file_index,
            file_bytes,
            data_start: LENGTH_BYTES as u64 + bytes.len() as u64,
        };
        Ok(Header {
            tensors: layout.tensors(entries.tensors)?,
            metadata: entries.metadata,
            bytes,
        })
    }
}

fn read_json(file: &File, file_bytes: u64) -> Result<Vec<u8>> {
    let read_at = |buffer: &mut [u8], offset| {
        file.read_exact_at(buffer, offset)
            .map_err(|error| Error::new(Status::Io, format!("cannot be read: {error}")))
    };
    if file_bytes < LENGTH_BYTES as u64 {
        return Err(truncated(LENGTH_BYTES as u64, file_bytes));
    }
    let mut length = [0; LENGTH_BYTES];
    read_at(&mut length, 0)?;
    if &length == b"version " {
        return Err(Error::format(
            "is a Git LFS pointer instead of the weights; run `git lfs pull`",
        ));
    }
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > LIMIT_HEADER_BYTES {
        return Err(Error::format(format!(
            "is not a safetensors file: its header would be {header_bytes} bytes, \
             and the limit is {LIMIT_HEADER_BYTES}"
        )));
    }
    let data_start = LENGTH_BYTES as u64 + header_bytes;
    if data_start > file_bytes {
        return Err(truncated(data_start, file_bytes));
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(header_bytes as usize)
        .map_err(|_| {
            Error::out_of_memory(format!("no memory for its header: {header_bytes} bytes"))
        })?;
    bytes.resize(header_bytes as usize, 0);
    read_at(&mut bytes, LENGTH_BYTES as u64)?;
    Ok(bytes)
}

pub(super) fn truncated(needed_bytes: u64, file_bytes: u64) -> Error {
    Error::format(format!(
        "is truncated: header says {needed_bytes} bytes, the file has {file_bytes}"
    ))
}

/// Where the data of one file lies.
struct Layout {
    file_index: usize,
    file_bytes: u64,
    data_start: u64,
}

impl Layout {
    fn tensors(&self, entries: Vec<(String, StoredInfo)>) -> Result<Vec<TensorInfo>> {
        let mut tensors = entries
            .into_iter()
            .map(|(name, stored)| {
                let place = format!("tensor {name:?}");
                self.tensor(name, stored).at(place)
            })
            .collect::<Result<Vec<_>>>()?;
        tensors.sort_by(|a, b| (a.offset, a.bytes, &a.name).cmp(&(b.offset, b.bytes, &b.name)));
        let end = tensors.iter().map(|tensor| tensor.range().end as u64).max();
        if let Some(end) = end.filter(|end| *end > self.file_bytes) {
            return Err(truncated(end, self.file_bytes));
        }
        refuse_overlap(&tensors)?;
        tensors.retain(|tensor| !is_padding(tensor));
        Ok(tensors)
    }

    /// Everything but whether the file is long enough, which is asked once for
    /// all tensors so that the message can say how long it should be.
    fn tensor(&self, name: String, stored: StoredInfo) -> Result<TensorInfo> {
        let StoredInfo {
            dtype,
            shape,
            data_offsets: (begin, end),
        } = stored;
        let dtype = Dtype::from_stored(dtype)
            .ok_or_else(|| Error::unsupported(format!("cannot read elements of type {dtype}")))?;
        check_shape(&shape)?;
        let bytes = shape
            .iter()
            .try_fold(dtype.size(), |bytes, dimension| {
                bytes.checked_mul(*dimension)
            })
            .ok_or_else(|| Error::format(format!("the size of {dtype} {shape:?} overflows")))?;
        if begin > end || end - begin != bytes {
            return Err(Error::format(format!(
                "data_offsets are [{begin}, {end}], but {dtype} {shape:?} takes {bytes} bytes"
            )));
        }
        let data_start = self.data_start as usize;
        if end.checked_add(data_start).is_none() {
            return Err(Error::format(format!(
                "data_offsets [{begin}, {end}] overflow"
            )));
        }
        Ok(TensorInfo {
            name,
            dtype,
            shape,
            file: self.file_index,
            offset: data_start + begin,
            bytes,
            blocks: None,
        })
    }
}

pub(super) fn check_shape(shape: &[usize]) -> Result<()> {
    if shape.len() > LIMIT_RANK {
        let rank = shape.len();
        return Err(Error::unsupported(format!(
            "has {rank} dimensions; the limit is {LIMIT_RANK}"
        )));
    }
    match shape.iter().find(|dimension| **dimension > LIMIT_DIMENSION) {
        None => Ok(()),
        Some(_) => Err(Error::unsupported(format!(
            "has the shape {shape:?}; the limit of a dimension is {LIMIT_DIMENSION}"
        ))),
    }
}

/// `tensors` are in the order of their offsets.
pub(super) fn refuse_overlap(tensors: &[TensorInfo]) -> Result<()> {
    let mut occupied = tensors.iter().filter(|tensor| tensor.bytes > 0);
    let Some(mut before) = occupied.next() else {
        return Ok(());
    };
    for tensor in occupied {
        if tensor.offset < before.range().end {
            return Err(Error::format(format!(
                "tensors {:?} and {:?} overlap",
                before.name, tensor.name
            )));
        }
        before = tensor;
    }
    Ok(())
}

fn is_padding(tensor: &TensorInfo) -> bool {
    tensor.dtype == Dtype::U8 && tensor.name.starts_with(PADDING_PREFIX)
}

/// The JSON object as stored, with unique and bounded names.
struct Entries {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, StoredInfo)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
        let mut metadata: Option<BTreeMap<String, String>> = None;
        let mut seen = HashSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > LIMIT_NAME_BYTES {
                return Err(A::Error::custom(format!(
                    "a tensor name is {} bytes long, and the limit is {LIMIT_NAME_BYTES}",
                    name.len()
                )));
            }
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("{name:?} comes twice")));
            }
            if name == "__metadata__" {
                metadata = map.next_value()?;
                continue;
            }
            if tensors.len() == LIMIT_TENSORS {
                return Err(A::Error::custom(format!(
                    "more than {LIMIT_TENSORS} tensors"
                )));
            }
            tensors.push((name, map.next_value()?));
        }
        Ok(Entries {
            metadata: metadata.unwrap_or_default(),
            tensors,
        })
    }
}
