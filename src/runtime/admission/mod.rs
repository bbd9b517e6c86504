//! Who is let in: models and contexts reserve what they will need, in full,
//! before anything is allocated. A refusal says how much is missing and what
//! would fit.
//!
//! - `context`: [`ContextPlan`], what a context takes
//! - `model`: [`ModelBytes`], what a model takes

mod context;
mod model;

use std::fmt;
use std::sync::{Mutex, PoisonError};

pub use self::context::ContextBytes;
pub(super) use self::context::{ContextPlan, ContextReservation};
pub use self::model::ModelBytes;
pub(super) use self::model::{ModelCaps, probe_tokenizer};
use super::prefix_cache;
use crate::error::{Error, Result};
use crate::memory::{self, Demand, Mebibytes, budget};
use crate::mlx::{self, Device};

/// Less than this is there, or the process could not have come so far.
const UNPROBED_BYTES: usize = 64 << 10;

/// More than the caller allowed.
#[derive(Clone, Copy)]
pub(super) struct OverLimit {
    limit: usize,
    pub missing: usize,
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (missing, limit) = (Mebibytes(self.missing), Mebibytes(self.limit));
        write!(f, "{missing} more than its memory_limit of {limit}")
    }
}

/// 0: no limit.
pub(super) fn within(memory_limit: usize, demand: &Demand) -> Option<OverLimit> {
    let missing = demand
        .total()
        .checked_sub(memory_limit)
        .filter(|&bytes| bytes > 0)?;
    (memory_limit > 0).then_some(OverLimit {
        limit: memory_limit,
        missing,
    })
}

/// Finds out what a GPU lets models use, before something is reserved for it.
pub(super) fn look_at(device: Device) -> Result<()> {
    if device.is_gpu() {
        budget().set_working_set(mlx::gpu_working_set()?);
    }
    if let Some(index) = device.own_memory() {
        budget().set_gpu_memory(index, usable_of_gpu(device)?);
    }
    Ok(())
}

/// What models may use of the memory that a GPU has for itself: what is free, and what
/// they have there already.
pub(super) fn usable_of_gpu(device: Device) -> Result<Option<usize>> {
    let (Some(index), Some(free)) = (device.own_memory(), mlx::gpu_free_bytes(device)?) else {
        return Ok(None);
    };
    let held = mlx::memory_use()?;
    let everywhere = held.active.saturating_add(held.cache);
    let here = budget().snapshot().part_on_gpu(index, everywhere);
    Ok(Some(free.saturating_add(here)))
}

/// Tells MLX how much of the budget it may use and keep.
pub(super) fn apply_limits() -> Result<()> {
    static APPLIED: Mutex<Option<(usize, usize)>> = Mutex::new(None);
    let snapshot = budget().snapshot();
    let cache = snapshot.mlx_cache_bytes(&Demand::default());
    let limits = (snapshot.usable_for_arrays(), cache);
    let mut applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    if *applied != Some(limits) {
        mlx::set_memory_limit(limits.0)?;
        mlx::set_cache_limit(limits.1)?;
        *applied = Some(limits);
    }
    Ok(())
}

/// Freed buffers go back to the system with the last context.
pub(super) fn limits_after_last() -> Result<()> {
    match budget().snapshot().mlx_cache_bytes(&Demand::default()) {
        0 => apply_limits(),
        _ => Ok(()),
    }
}

/// Asks the system for memory that is needed next, before MLX or a kernel does,
/// which could not go on without it.
fn probe(bytes: usize, what: impl FnOnce() -> String) -> Result<()> {
    memory::ensure_small_pieces()?;
    if bytes <= UNPROBED_BYTES || memory::probe(bytes) {
        return Ok(());
    }
    // What is kept for reuse may be what is missing.
    mlx::clear_cache()?;
    prefix_cache::shrink_all_to(0);
    match memory::probe(bytes) {
        true => Ok(()),
        false => Err(Error::out_of_memory(format!(
            "the system has no {} left for {}; free memory and try again",
            amount(bytes),
            what()
        ))),
    }
}

pub(super) fn amount(bytes: usize) -> String {
    match bytes {
        usize::MAX => "more than can be addressed".to_owned(),
        bytes => Mebibytes(bytes).to_string(),
    }
}
