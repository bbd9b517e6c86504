//! What memory is used for: the ledger beside the operating system's figures.

use super::residency::residences;
use crate::error::Result;
use crate::host;
use crate::memory::{self, Category, Pressure, ProcessMemory, Usable, ledger};
use crate::mlx;

/// Bytes of one context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextMemory {
    /// Keys and values: allocated.
    pub kv_reserved: usize,
    /// Of that, filled with tokens.
    pub kv_used: usize,
    pub logits: usize,
    /// Of all that, what is in the memory of a GPU that has its own.
    pub on_gpu: usize,
}

impl ContextMemory {
    /// Private memory, each byte once.
    pub fn total(&self) -> usize {
        self.kv_reserved + self.logits
    }
}

/// Bytes of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelMemory {
    /// Tensors used where they are mapped.
    pub weights_mapped: usize,
    /// Tensors that had to be copied, and files that were read into private memory.
    pub weights_copied: usize,
    /// Bytes of the mapped files that are in memory now.
    pub weights_resident: usize,
    /// Bytes of the files that are locked in memory.
    pub weights_locked: usize,
    /// Tokenizer and chat template, estimated.
    pub text: usize,
    /// Of the copied tensors, what is in the memory of a GPU that has its own.
    pub on_gpu: usize,
}

impl ModelMemory {
    /// Private memory, each byte once.
    pub fn total(&self) -> usize {
        self.weights_copied + self.text
    }
}

/// The whole process.
#[derive(Clone, Copy, Debug)]
pub struct MemoryStats {
    pub usable: Usable,
    pub weights: ModelMemory,
    /// Tensors of adapters, used where they are mapped.
    pub adapters: usize,
    pub contexts: ContextMemory,
    /// Keys and values that only prefix caches hold.
    pub prefix_cache: usize,
    /// Of idle sequences, on disk: no memory.
    pub kv_spilled: usize,
    /// The highest `contexts.kv_reserved` so far.
    pub kv_peak: usize,
    pub mlx: mlx::MemoryUse,
    /// What the kernels hold for intermediate results.
    kernels: usize,
    /// The highest `kernels` so far.
    pub kernels_peak: usize,
    /// Of the copied weights, what lies in MLX's memory.
    mlx_weights: usize,
    /// Of the keys and values, what lies in MLX's memory.
    mlx_kv: usize,
    /// Of MLX's memory, arrays and freed buffers, what is in a GPU that has its own.
    pub on_gpu: usize,
    pub process: ProcessMemory,
    /// `None` where the system has no such figures.
    pub pressure: Option<Pressure>,
}

impl MemoryStats {
    /// Intermediate results: the part of MLX's arrays that is none of the other
    /// categories, and what the kernels hold for them.
    pub fn scratch(&self) -> usize {
        let accounted = self.mlx_kv + self.contexts.logits + self.mlx_weights;
        self.mlx.active.saturating_sub(accounted) + self.kernels
    }

    /// Weights that are in MLX's memory although their file is mapped.
    pub fn copies_of_mapped(&self) -> usize {
        self.mlx_weights
    }

    /// As `total`, of the machine's memory.
    pub fn total_here(&self) -> usize {
        self.total().saturating_sub(self.on_gpu)
    }

    /// All memory that is accounted for, each byte once, but for what files back.
    pub fn total(&self) -> usize {
        let kept = self.prefix_cache + self.mlx.cache;
        self.contexts.total() + self.weights.total() + self.scratch() + kept
    }
}

#[cfg(test)]
impl MemoryStats {
    pub(super) fn empty(usable: Usable) -> MemoryStats {
        MemoryStats {
            usable,
            weights: ModelMemory::default(),
            adapters: 0,
            contexts: ContextMemory::default(),
            prefix_cache: 0,
            kv_spilled: 0,
            kv_peak: 0,
            mlx: mlx::MemoryUse::default(),
            kernels: 0,
            kernels_peak: 0,
            mlx_weights: 0,
            mlx_kv: 0,
            on_gpu: 0,
            process: ProcessMemory::default(),
            pressure: None,
        }
    }
}

pub fn memory_stats() -> Result<MemoryStats> {
    host::ensure_not_forked()?;
    let mut weights_resident = 0;
    for residence in residences() {
        weights_resident += residence.checkpoint().residency()?;
    }
    let bytes = |category| ledger().bytes(category);
    let mlx_weights = bytes(Category::WeightsCopied);
    let mlx_kv = bytes(Category::KvInMlx);
    let mlx = mlx::memory_use()?;
    Ok(MemoryStats {
        usable: memory::usable(),
        weights: ModelMemory {
            weights_mapped: bytes(Category::WeightsMapped),
            weights_copied: mlx_weights + bytes(Category::WeightsRead),
            weights_resident,
            weights_locked: bytes(Category::WeightsLocked),
            text: bytes(Category::Text),
            on_gpu: 0,
        },
        adapters: bytes(Category::Adapters),
        contexts: ContextMemory {
            kv_reserved: bytes(Category::KvReserved),
            kv_used: bytes(Category::KvUsed),
            logits: bytes(Category::Logits),
            on_gpu: 0,
        },
        prefix_cache: bytes(Category::PrefixCache),
        kv_spilled: bytes(Category::KvSpilled),
        kv_peak: ledger().peak(Category::KvReserved),
        mlx,
        kernels: bytes(Category::Scratch),
        kernels_peak: ledger().peak(Category::Scratch),
        mlx_weights,
        mlx_kv,
        on_gpu: match mlx::arrays_are_in_device_memory() {
            true => mlx.active + mlx.cache,
            false => 0,
        },
        process: memory::process_memory(),
        pressure: memory::pressure(),
    })
}
