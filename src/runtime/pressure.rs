//! Giving memory back, step by step, and refusing new work while there is none.
//!
//! Sequences go on with the same tokens, since what was given back is made again or read
//! again when it is needed. The one step that is not lossless, fewer bits for keys and
//! values, is taken only of contexts that allow it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::prefix_cache;
use super::residency::{self, Released};
use super::sequences::{self, IdleSequences};
use crate::error::{Error, Result};
use crate::host;
use crate::log;
use crate::memory::{
    PressureLevel, PressureWatch, ensure_small_pieces, process_memory, return_free_heap,
};
use crate::mlx;

/// New work is refused for so long after the last critical notice, unless a
/// better one comes earlier: some systems never say that it is over.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// What to give back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrimSteps {
    /// Freed buffers that MLX keeps, and the free part of the heap.
    pub mlx_cache: bool,
    /// Keys and values that only prefix caches hold.
    pub prefix_cache: bool,
    /// Pages of all models that are neither pinned nor locked nor computing.
    pub idle_models: bool,
    /// Of these, only the pages of models whose idle time is over.
    pub timed_out_models: bool,
    /// Sequences of contexts that are not computing, into fewer bits where that is allowed.
    pub reduced_sequences: bool,
    /// Sequences of contexts that are not computing, into the directory for them.
    pub idle_sequences: bool,
}

/// What was given back, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    pub mlx_cache: usize,
    pub prefix_cache: usize,
    /// By which the process's private memory shrank.
    pub private: usize,
    pub models: Released,
    /// That are stored in fewer bits now.
    pub reduced: IdleSequences,
    /// That are on disk now.
    pub spilled: IdleSequences,
}

/// Hears of the level, and what was given back because of it.
pub type PressureReceiver = Arc<dyn Fn(PressureLevel, &Trimmed) + Send + Sync>;

struct Listening {
    receiver: PressureReceiver,
    _watch: Option<PressureWatch>,
}

static LISTENING: Mutex<Option<Listening>> = Mutex::new(None);
static REFUSED_UNTIL: Mutex<Option<Instant>> = Mutex::new(None);

/// Gives memory back now.
pub fn trim(steps: TrimSteps) -> Result<Trimmed> {
    host::ensure_not_forked()?;
    let mut trimmed = Trimmed::default();
    if steps.mlx_cache {
        let anonymous = process_memory().resident_anonymous;
        trimmed.mlx_cache = mlx::memory_use()?.cache;
        mlx::clear_cache()?;
        return_free_heap();
        trimmed.private = anonymous.saturating_sub(process_memory().resident_anonymous);
    }
    if steps.prefix_cache {
        trimmed.prefix_cache = prefix_cache::shrink_all_to(0);
    }
    if steps.idle_models {
        trimmed.models = residency::release_idle()?;
    } else if steps.timed_out_models {
        trimmed.models = residency::release_timed_out()?;
    }
    if steps.reduced_sequences {
        trimmed.reduced = sequences::reduce_idle()?;
    }
    if steps.idle_sequences {
        trimmed.spilled = sequences::spill_idle()?;
    }
    Ok(trimmed)
}

/// Acts on a level and tells the receiver. From a warning on, freed buffers, prefix
/// caches and idle models' pages are given back, and idle sequences go into fewer bits
/// where that is allowed, or else to disk where a directory is set; while it is critical,
/// they do both, and opening models and making contexts is refused.
pub fn notify(level: PressureLevel) -> Result<Trimmed> {
    host::ensure_not_forked()?;
    let is_critical = level == PressureLevel::Critical;
    *lock(&REFUSED_UNTIL) = is_critical.then(|| Instant::now() + REFUSED_FOR);
    let mut trimmed = match level {
        PressureLevel::Normal => Trimmed::default(),
        _ => trim(TrimSteps {
            mlx_cache: true,
            prefix_cache: true,
            idle_models: true,
            ..TrimSteps::default()
        })?,
    };
    if level >= PressureLevel::Warning {
        trimmed.reduced = or_logged(sequences::reduce_idle());
        let is_enough = trimmed.reduced.bytes > 0 && !is_critical;
        if sequences::may_spill() && !is_enough {
            trimmed.spilled = or_logged(sequences::spill_idle());
        }
    }
    log::info(format_args!(
        "memory pressure: {level:?}, gave back {trimmed:?}"
    ));
    let receiver = lock(&LISTENING)
        .as_ref()
        .map(|listening| listening.receiver.clone());
    if let Some(receiver) = receiver {
        receiver(level, &trimmed);
    }
    Ok(trimmed)
}

/// A full disk must not keep the receiver from hearing of the pressure.
fn or_logged(result: Result<IdleSequences>) -> IdleSequences {
    result.unwrap_or_else(|error| {
        log::info(format_args!("memory pressure: {error}"));
        IdleSequences::default()
    })
}

/// Calls `receiver` at each `notify`. With `watch`, a thread waits for the
/// system's own reports and notifies of them, until there is another receiver or
/// none.
pub fn listen(receiver: Option<PressureReceiver>, watch: bool) -> Result<()> {
    host::ensure_not_forked()?;
    let watch = match watch && receiver.is_some() {
        true => Some(PressureWatch::start(on_report)?),
        false => None,
    };
    let listening = receiver.map(|receiver| Listening {
        receiver,
        _watch: watch,
    });
    let former = std::mem::replace(&mut *lock(&LISTENING), listening);
    // Waits for the former watch's thread, which may be about to take the lock.
    drop(former);
    Ok(())
}

fn on_report(level: PressureLevel) {
    if let Err(error) = notify(level) {
        log::info(format_args!("memory pressure: {level:?}: {error}"));
    }
}

/// Refuses to begin something that takes memory while there is none.
pub(super) fn ensure_accepting(what: &str) -> Result<()> {
    host::ensure_not_forked()?;
    ensure_small_pieces()?;
    let until = *lock(&REFUSED_UNTIL);
    match until.is_some_and(|until| Instant::now() < until) {
        false => Ok(()),
        true => Err(Error::over_budget(format!(
            "cannot {what} now: the system is critically short of memory; try again when it has \
             recovered, or tell umrt so with umrt_memory_pressure_notify"
        ))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
