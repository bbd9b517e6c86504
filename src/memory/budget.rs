//! The process's one budget: what models and contexts were promised.
//!
//! Whoever will need memory reserves it first, in full, and holds the
//! [`Reservation`] for as long as it may need it. What was reserved is there when
//! it is taken, as far as this process decides; what cannot be reserved is
//! refused before anything is allocated.
//!
//! A model's mapped weights count in full: the system can drop them, but every
//! token needs all of them, so a model of which a part is always missing reads that
//! part from disk for every token. Who accepts that reserves them as `paged`, which
//! counts only as addresses. Several models take turns: the weights of one give way
//! to those of another, so only the largest count, and those that are `kept`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::demand::{Demand, Sizes};
use super::gpus::Gpus;
use super::ledger::{Category, ledger};
use super::limits::Held;
use super::machine::{self, Share, Usable};
use super::snapshot::{Settings, Shortage, Snapshot};
use crate::host;

#[derive(Default)]
struct State {
    settings: Settings,
    /// What a GPU that shares the machine's memory can work on.
    working_set: Option<usize>,
    reserved: Demand,
    /// Of each reservation.
    mapped: Sizes,
    scratches: Sizes,
    gpus: Gpus,
}

impl State {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            limits: machine::limits(
                self.settings.share,
                self.working_set,
                held(self.gpus.usable_of_all().is_some()),
            ),
            reserved: self.reserved,
            largest_mapped: self.mapped.largest(),
            largest_scratch: self.scratches.largest(),
            gpus: self.gpus.clone(),
            settings: self.settings,
        }
    }

    fn add(&mut self, demand: &Demand) {
        self.reserved = self.reserved.plus(demand);
        self.mapped.add(demand.mapped);
        self.scratches.add(demand.scratch);
        self.gpus.add(demand);
    }

    fn remove(&mut self, demand: &Demand) {
        self.reserved = self.reserved.minus(demand);
        self.mapped.remove(demand.mapped);
        self.scratches.remove(demand.scratch);
        self.gpus.remove(demand);
    }
}

/// Of the machine's memory, which MLX's arrays may not be in.
fn held(arrays_are_on_gpus: bool) -> Held {
    let bytes = |category| ledger().bytes(category);
    let in_mlx =
        bytes(Category::WeightsCopied) + bytes(Category::KvInMlx) + bytes(Category::Logits);
    let kv_of_kernels = bytes(Category::KvReserved).saturating_sub(bytes(Category::KvInMlx));
    Held {
        mapped: bytes(Category::WeightsMapped) + bytes(Category::Adapters),
        private: match arrays_are_on_gpus {
            true => 0,
            false => in_mlx,
        } + bytes(Category::WeightsRead)
            + kv_of_kernels
            + bytes(Category::PrefixCache)
            + bytes(Category::Scratch),
    }
}

/// What models and contexts were promised, and what bounds it.
#[derive(Default)]
pub struct Budget(Mutex<State>);

/// The one budget of the process.
pub fn budget() -> &'static Budget {
    static BUDGET: Budget = Budget(Mutex::new(State {
        settings: Settings {
            share: None,
            mlx_cache_bytes: None,
        },
        working_set: None,
        reserved: Demand {
            mapped: 0,
            kept: 0,
            paged: 0,
            private: 0,
            scratch: 0,
            gpu: 0,
            gpu_scratch: 0,
            gpu_index: 0,
        },
        mapped: Sizes::new(),
        scratches: Sizes::new(),
        gpus: Gpus::new(),
    }));
    &BUDGET
}

impl Budget {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot()
    }

    /// What is reserved already stays, whatever the new share is.
    pub fn set_share(&self, share: Option<Share>) {
        self.lock().settings.share = share;
    }

    /// `None`: as much as the largest step takes.
    pub fn set_mlx_cache(&self, bytes: Option<usize>) {
        self.lock().settings.mlx_cache_bytes = bytes;
    }

    /// What a GPU that shares the machine's memory can work on.
    pub fn set_working_set(&self, bytes: Option<usize>) {
        self.lock().working_set = bytes;
    }

    /// What a GPU lets models use of its own memory.
    pub fn set_gpu_memory(&self, gpu_index: usize, bytes: Option<usize>) {
        self.lock().gpus.set_usable(gpu_index, bytes);
    }

    /// Promises memory, if there is enough.
    pub fn reserve(&'static self, demand: Demand) -> Result<Reservation, Shortage> {
        let mut reservation = Reservation {
            budget: self,
            demand: Demand::default(),
        };
        self.lock().add(&reservation.demand);
        reservation.resize(demand)?;
        Ok(reservation)
    }
}

/// Memory that was promised; given back when dropped.
pub struct Reservation {
    budget: &'static Budget,
    demand: Demand,
}

impl Reservation {
    pub fn demand(&self) -> Demand {
        self.demand
    }

    /// Asks for more or less; if there is not enough, what was promised before stays.
    pub fn resize(&mut self, demand: Demand) -> Result<(), Shortage> {
        let mut state = self.budget.lock();
        state.remove(&self.demand);
        match state.snapshot().shortage(&demand) {
            None => self.demand = demand,
            Some(shortage) => {
                state.add(&self.demand);
                return Err(shortage);
            }
        }
        state.add(&self.demand);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.lock().remove(&self.demand);
    }
}

/// What bounds the memory of models now.
pub fn usable() -> Usable {
    match host::forked() {
        // Another thread of the parent may have held the lock.
        true => machine::least(&machine::limits(None, None, Held::default())),
        false => budget().snapshot().usable(),
    }
}

#[cfg(test)]
mod tests;
