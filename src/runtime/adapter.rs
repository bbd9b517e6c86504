//! [`Adapter`]: a LoRA or DoRA adapter of a model, for any of its contexts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::model::Model;
use super::prefix_cache;
use super::pressure;
use crate::checkpoint::{AdapterFiles, AdapterPair, MappedFile};
use crate::decoder::Adapted;
use crate::error::{Error, Result};
use crate::log;
use crate::memory::{Category, Demand, Entry, Reservation, budget};
use crate::mlx::{self, Device, Ops, Stream};

/// A tensor's name, place and array.
const BYTES_PER_TENSOR: usize = 1024;

/// An opened adapter. Immutable; its matrices are used where they are mapped.
pub struct Adapter {
    /// No two have the same.
    number: u64,
    model: Arc<Model>,
    adapted: Adapted,
    file: MappedFile,
    mapped: Entry,
    _copied: Entry,
    _reservation: Reservation,
}

impl Adapter {
    /// `path` is a directory as mlx-lm or PEFT writes it.
    pub fn open(model: &Arc<Model>, path: &Path) -> Result<Arc<Adapter>> {
        pressure::ensure_accepting("open an adapter")?;
        if model.checkpoint().directory().is_gguf() {
            // Their rows of queries and keys may be in another order.
            return Err(Error::unsupported(
                "adapters of models in GGUF files are not supported; open the model from a \
                 directory with safetensors",
            ));
        }
        let files = AdapterFiles::open(path)?;
        let reservation = reserve(&files, model.device())?;
        let stream = Stream::acquire(model.device())?;
        let ops = || -> Result<Ops> {
            let stream = Stream::acquire(model.device())?;
            Ok(Ops::new(stream, model.cpu_ops(), 0))
        };
        let (adapted, bytes) = model.decoder().adapted(&files, (&stream, &ops))?;
        log::info(format_args!(
            "opened the adapter {}: {} modules, {} bytes mapped, {} copied",
            path.display(),
            files.pairs().len(),
            bytes.mapped,
            bytes.copied
        ));
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        Ok(Arc::new(Adapter {
            number: COUNTER.fetch_add(1, Ordering::Relaxed),
            model: model.clone(),
            adapted,
            file: files.map().clone(),
            mapped: Entry::new(Category::Adapters, bytes.mapped),
            _copied: Entry::new(Category::WeightsCopied, bytes.copied),
            _reservation: reservation,
        }))
    }

    /// The model that it was opened for.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Bytes that are used where they are mapped.
    pub fn mapped_bytes(&self) -> usize {
        self.mapped.bytes()
    }
}

fn reserve(files: &AdapterFiles, device: Device) -> Result<Reservation> {
    let mut demand = Demand {
        private: 2 * files.pairs().len() * BYTES_PER_TENSOR,
        gpu_index: device.own_memory().unwrap_or(0),
        ..Demand::default()
    };
    for pair in files
        .pairs()
        .iter()
        .filter(|pair| pair.magnitudes.is_some())
    {
        demand.private += Adapted::gain_bytes(pair);
    }
    for tensor in files.pairs().iter().flat_map(AdapterPair::tensors) {
        match mlx::maps_in_place(device, tensor.offset, tensor.dtype.size()) {
            true => demand.kept += tensor.bytes,
            false if device.has_own_memory() => demand.gpu += tensor.bytes,
            false => demand.private += tensor.bytes,
        }
    }
    let reservation = budget().reserve(demand).map_err(|shortage| {
        Error::over_budget(format!(
            "the adapter {} takes {shortage}; free other adapters and contexts, or set a larger \
             budget",
            files.path().display()
        ))
    })?;
    prefix_cache::fit();
    Ok(reservation)
}

/// The adapters of a context.
#[derive(Default)]
pub(super) struct ActiveAdapters {
    /// Also keeps them open.
    adapters: Vec<(Arc<Adapter>, f32)>,
    adapted: Adapted,
}

impl ActiveAdapters {
    pub fn new(model: &Arc<Model>, adapters: &[(Arc<Adapter>, f32)]) -> Result<ActiveAdapters> {
        for (index, (adapter, scale)) in adapters.iter().enumerate() {
            if !Arc::ptr_eq(adapter.model(), model) {
                return Err(Error::invalid(format!(
                    "adapter {index} was opened for another model; open it for the context's"
                )));
            }
            if !scale.is_finite() {
                return Err(Error::invalid(format!(
                    "the scale of adapter {index} is {scale}; it is a finite number"
                )));
            }
        }
        let parts = adapters
            .iter()
            .map(|(adapter, scale)| (&adapter.adapted, *scale));
        Ok(ActiveAdapters {
            adapted: Adapted::combine(parts),
            adapters: adapters.to_vec(),
        })
    }

    pub fn adapted(&self) -> &Adapted {
        &self.adapted
    }

    /// What tells these adapters from others.
    pub fn numbers(&self) -> impl Iterator<Item = (u64, u32)> {
        let adapters = self.adapters.iter();
        adapters.map(|(adapter, scale)| (adapter.number, scale.to_bits()))
    }

    /// Finds files that were changed under their mapping.
    pub fn ensure_unaltered(&self) -> Result<()> {
        let mut adapters = self.adapters.iter();
        adapters.try_for_each(|(adapter, _)| adapter.file.ensure_unaltered())
    }
}
