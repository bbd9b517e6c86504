//! What memory is used for: the ledger beside the operating system's figures.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::memory::{self, Category, ProcessMemory, Usable, ledger};
use crate::mlx;

/// Bytes of one context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextMemory {
    /// Keys and values: allocated.
    pub kv_reserved: usize,
    /// Of that, filled with tokens.
    pub kv_used: usize,
    pub logits: usize,
}

/// Bytes of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelMemory {
    /// Tensors used where they are mapped.
    pub weights_mapped: usize,
    /// Tensors that had to be copied.
    pub weights_copied: usize,
    /// Bytes of the checkpoint's files that are in memory now.
    pub weights_resident: usize,
}

/// The whole process.
#[derive(Clone, Copy, Debug)]
pub struct MemoryStats {
    pub usable: Usable,
    pub weights: ModelMemory,
    pub contexts: ContextMemory,
    /// Of the allocated keys and values, those in MLX's arrays.
    pub kv_in_mlx: usize,
    pub mlx: mlx::MemoryUse,
    pub process: ProcessMemory,
}

/// Every open checkpoint, to ask the system how much of it is in memory.
static OPEN: Mutex<Vec<Weak<Checkpoint>>> = Mutex::new(Vec::new());

/// Remembers an open checkpoint for as long as it lives.
pub(super) fn register(checkpoint: &Arc<Checkpoint>) {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|checkpoint| checkpoint.strong_count() > 0);
    open.push(Arc::downgrade(checkpoint));
}

pub fn memory_stats() -> Result<MemoryStats> {
    let open: Vec<Arc<Checkpoint>> = {
        let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter_map(Weak::upgrade).collect()
    };
    let mut weights_resident = 0;
    for checkpoint in &open {
        weights_resident += checkpoint.residency()?;
    }
    let bytes = |category| ledger().bytes(category);
    Ok(MemoryStats {
        usable: memory::usable(),
        weights: ModelMemory {
            weights_mapped: bytes(Category::WeightsMapped),
            weights_copied: bytes(Category::WeightsCopied),
            weights_resident,
        },
        contexts: ContextMemory {
            kv_reserved: bytes(Category::KvReserved),
            kv_used: bytes(Category::KvUsed),
            logits: bytes(Category::Logits),
        },
        kv_in_mlx: bytes(Category::KvInMlx),
        mlx: mlx::memory_use()?,
        process: memory::process_memory(),
    })
}
