//! What a model takes.

use std::fmt;
use std::path::Path;

use super::super::prefix_cache;
use super::super::text::TokenizerSource;
use super::{amount, probe, within};
use crate::checkpoint::{LoadMode, Manifest};
use crate::error::{Error, Result};
use crate::host;
use crate::memory::{Demand, Reservation, budget};
use crate::mlx::{self, Device};

/// A tensor's name, place and array.
const BYTES_PER_TENSOR: usize = 1024;
/// What a tokenizer takes: its patterns, and its tables by the length of its file,
/// whose entries of a dozen bytes become several allocations each.
const TOKENIZER_BYTES: usize = 3 << 20;
const TOKENIZER_FACTOR: usize = 24;
/// How much longer a `tokenizer.json` is than the SentencePiece model that it says.
const PIECES_FACTOR: u64 = 4;
/// How a model's weights may be used.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::runtime) struct ModelCaps {
    /// Bytes; 0: none.
    pub memory_limit: usize,
    pub allow_paging: bool,
}

/// Bytes of an opened model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelBytes {
    pub mapped: usize,
    pub copied: usize,
    /// Copied into the memory of a GPU that has its own.
    pub on_gpu: usize,
    /// Which GPU that is.
    pub gpu_index: usize,
    /// Tokenizer, template, names and shapes.
    pub tables: usize,
}

impl ModelBytes {
    /// From the headers: what is used where it is mapped, and what is not.
    pub(in crate::runtime) fn of(
        manifest: &Manifest,
        load: LoadMode,
        device: Device,
    ) -> Result<ModelBytes> {
        let directory = manifest.directory();
        let file = directory.tokenizer();
        let tokenizer = match (manifest.embedded_vocabulary_bytes(), file) {
            (Some(bytes), _) => tokenizer_bytes(bytes as u64),
            (None, Some(file)) => tokenizer_bytes(file_bytes(&file)?),
            (None, None) => match directory.vocabulary() {
                Some(file) => tokenizer_bytes(PIECES_FACTOR * file_bytes(&file)?),
                None => 0,
            },
        };
        let mut bytes = ModelBytes {
            tables: manifest.tensors().len() * BYTES_PER_TENSOR + tokenizer,
            gpu_index: device.own_memory().unwrap_or(0),
            ..ModelBytes::default()
        };
        let is_mapped = load == LoadMode::Map;
        for tensor in manifest.tensors() {
            let is_on_gpu = device.has_own_memory();
            if is_on_gpu {
                bytes.on_gpu += tensor.bytes;
            }
            // What is made or read into private memory stays there, sent to a GPU or not.
            match mlx::maps_in_place(device, tensor.offset, tensor.dtype.size()) {
                _ if manifest.is_made(tensor) => {}
                true if is_mapped => bytes.mapped += tensor.bytes,
                false if is_mapped && is_on_gpu => {}
                _ => bytes.copied += tensor.bytes,
            }
        }
        bytes.copied += manifest.made_bytes();
        if load != LoadMode::Map {
            bytes.copied += manifest.foreign_bytes();
        }
        Ok(bytes)
    }

    pub(in crate::runtime) fn demand(&self, caps: ModelCaps) -> Demand {
        let (mapped, paged) = match caps.allow_paging {
            true => (0, self.mapped),
            false => (self.mapped, 0),
        };
        Demand {
            mapped,
            paged,
            private: self.copied.saturating_add(self.tables),
            gpu: self.on_gpu,
            gpu_index: self.gpu_index,
            ..Demand::default()
        }
    }

    /// Reserves the weights, before they are mapped.
    pub(in crate::runtime) fn admit(&self, caps: ModelCaps) -> Result<Reservation> {
        host::ensure_not_forked()?;
        let demand = self.demand(caps);
        probe(demand.private, || {
            "the model's own copies and tables".to_owned()
        })?;
        if let Some(over) = within(caps.memory_limit, &demand) {
            return Err(self.refusal(&over, "raise it, or use fewer bits per weight"));
        }
        let reservation = budget().reserve(demand).map_err(|shortage| {
            self.refusal(
                &shortage,
                "free contexts and pinned models, set a larger budget, use fewer bits per weight, \
                 or allow paging: what does not fit is then read from disk for every token",
            )
        })?;
        prefix_cache::fit();
        Ok(reservation)
    }

    fn refusal(&self, why: &dyn fmt::Display, instead: &str) -> Error {
        Error::over_budget(format!(
            "the model takes {} (weights mapped {}, copied {}, on the GPU {}, tables {}), {}; \
             {instead}",
            amount(self.mapped.saturating_add(self.copied) + self.on_gpu + self.tables),
            amount(self.mapped),
            amount(self.copied),
            amount(self.on_gpu),
            amount(self.tables),
            why
        ))
    }
}

/// Whether the system has what reading a tokenizer takes.
pub(in crate::runtime) fn probe_tokenizer(source: &TokenizerSource) -> Result<()> {
    let bytes = match source {
        TokenizerSource::File(file) => file_bytes(file)?,
        TokenizerSource::Vocabulary(file) => PIECES_FACTOR * file_bytes(file)?,
        TokenizerSource::Embedded(checkpoint) => {
            checkpoint.embedded_vocabulary_bytes().unwrap_or(0) as u64
        }
    };
    probe(tokenizer_bytes(bytes), || "the tokenizer".to_owned())
}

fn file_bytes(file: &Path) -> Result<u64> {
    let metadata = std::fs::metadata(file).map_err(|error| Error::io("read", file, &error))?;
    Ok(metadata.len())
}

/// A tokenizer, once it was read.
fn tokenizer_bytes(stored_bytes: u64) -> usize {
    let tables = usize::try_from(stored_bytes)
        .unwrap_or(usize::MAX)
        .saturating_mul(TOKENIZER_FACTOR);
    tables.saturating_add(TOKENIZER_BYTES)
}
