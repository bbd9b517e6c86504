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

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ledger::{Category, ledger};
use super::machine::{self, Counts, GpuBytes, Held, Limit, Share, Usable};
use crate::host;

/// Bytes of one model or context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Weights used where their file is mapped, which give way to another model's.
    pub mapped: usize,
    /// Mapped weights that stay.
    pub kept: usize,
    /// Weights that may be read from disk again and again.
    pub paged: usize,
    /// Held throughout: keys and values, logits, copied weights, tables.
    pub private: usize,
    /// Taken and given back in every step.
    pub scratch: usize,
    /// As `private`, in the memory of a GPU that has its own.
    pub gpu: usize,
    /// As `scratch`, there.
    pub gpu_scratch: usize,
}

impl Demand {
    pub fn total(&self) -> usize {
        sum([
            self.mapped,
            self.kept,
            self.paged,
            self.private,
            self.scratch,
            self.gpu,
            self.gpu_scratch,
        ])
    }

    /// What is held and computed in, in the memory of a GPU that has its own.
    pub fn moved_to_gpu(self) -> Demand {
        Demand {
            private: 0,
            scratch: 0,
            gpu: self.gpu.saturating_add(self.private),
            gpu_scratch: self.gpu_scratch.saturating_add(self.scratch),
            ..self
        }
    }

    /// Mapped weights stay in memory, or give way to other models'.
    pub fn keeping(self, keeps: bool) -> Demand {
        let weights = self.mapped.saturating_add(self.kept);
        let (mapped, kept) = match keeps {
            true => (0, weights),
            false => (weights, 0),
        };
        Demand {
            mapped,
            kept,
            ..self
        }
    }

    /// Both at once.
    pub fn plus(&self, other: &Demand) -> Demand {
        self.zip(other, usize::saturating_add)
    }

    fn minus(&self, other: &Demand) -> Demand {
        self.zip(other, usize::saturating_sub)
    }

    fn zip(&self, other: &Demand, combine: fn(usize, usize) -> usize) -> Demand {
        Demand {
            mapped: combine(self.mapped, other.mapped),
            kept: combine(self.kept, other.kept),
            paged: combine(self.paged, other.paged),
            private: combine(self.private, other.private),
            scratch: combine(self.scratch, other.scratch),
            gpu: combine(self.gpu, other.gpu),
            gpu_scratch: combine(self.gpu_scratch, other.gpu_scratch),
        }
    }
}

fn sum(bytes: impl IntoIterator<Item = usize>) -> usize {
    bytes.into_iter().fold(0, usize::saturating_add)
}

/// What the host decides about the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// `None`: the default share of physical memory.
    pub share: Option<Share>,
    /// Freed buffers that MLX may keep. `None`: as much as the largest step takes,
    /// so that a step finds what the one before gave back.
    pub mlx_cache_bytes: Option<usize>,
}

/// The budget at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    limits: Vec<Limit>,
    reserved: Demand,
    largest_mapped: usize,
    largest_scratch: usize,
    largest_gpu_scratch: usize,
    settings: Settings,
}

/// Why something does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub limit: Limit,
    /// Bytes of it that are reserved already.
    pub taken: usize,
    pub missing: usize,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} more than is left of the {} that models may use ({})",
            Mebibytes(self.missing),
            Mebibytes(self.limit.bytes),
            self.limit.bound
        )?;
        match self.taken {
            0 => Ok(()),
            taken => write!(f, ", of which {} are taken", Mebibytes(taken)),
        }
    }
}

/// Bytes for people, in units that keep small amounts visible.
pub struct Mebibytes(pub usize);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 1 << 20 => write!(f, "{} KiB", bytes.div_ceil(1 << 10)),
            bytes => write!(f, "{} MiB", bytes.div_ceil(1 << 20)),
        }
    }
}

impl Snapshot {
    pub fn usable(&self) -> Usable {
        machine::least(&self.limits)
    }

    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// What models may use of a GPU's own memory.
    pub fn gpu_memory(&self) -> Option<usize> {
        let of_gpu = |limit: &&Limit| limit.bound.counts() == Counts::OnGpu;
        self.limits.iter().find(of_gpu).map(|limit| limit.bytes)
    }

    /// What MLX's arrays may take: of a GPU's own memory, or of the machine's.
    pub fn usable_for_arrays(&self) -> usize {
        let of_machine = self.usable().usable_bytes;
        self.gpu_memory().unwrap_or(of_machine)
    }

    pub fn reserved(&self) -> Demand {
        self.reserved
    }

    /// Bytes that are promised, MLX's freed buffers among them.
    pub fn taken(&self) -> usize {
        self.taken_with(&Demand::default(), Counts::Needed)
    }

    /// Freed buffers that MLX may keep beside what `more` wants.
    pub fn mlx_cache_bytes(&self, more: &Demand) -> usize {
        let (here, on_gpu) = (self.cache_here(more), self.cache_on_gpu(more));
        here.max(on_gpu)
    }

    /// The part of the machine's memory that it takes.
    fn cache_here(&self, more: &Demand) -> usize {
        let largest = self.largest_scratch.max(more.scratch);
        self.settings.mlx_cache_bytes.unwrap_or(largest)
    }

    fn cache_on_gpu(&self, more: &Demand) -> usize {
        let largest = self.largest_gpu_scratch.max(more.gpu_scratch);
        self.settings.mlx_cache_bytes.unwrap_or(largest)
    }

    /// What keeps `more` from fitting: that of which most is missing.
    pub fn shortage(&self, more: &Demand) -> Option<Shortage> {
        let short = self.limits.iter().filter_map(|limit| {
            let counts = limit.bound.counts();
            let needed = self.taken_with(more, counts);
            let missing = needed.checked_sub(limit.bytes).filter(|&bytes| bytes > 0)?;
            Some(Shortage {
                limit: *limit,
                taken: self.taken_with(&Demand::default(), counts),
                missing,
            })
        });
        short.max_by_key(|shortage| shortage.missing)
    }

    /// Bytes that nobody was promised: whoever takes them gives them back as soon as
    /// somebody is.
    pub fn spare(&self) -> usize {
        let none = Demand::default();
        let left = self.limits.iter().map(|limit| {
            let taken = self.taken_with(&none, limit.bound.counts());
            limit.bytes.saturating_sub(taken)
        });
        left.min().unwrap_or(0)
    }

    fn taken_with(&self, more: &Demand, counts: Counts) -> usize {
        let all = self.reserved.plus(more);
        if counts == Counts::OnGpu {
            return sum([all.gpu, all.gpu_scratch, self.cache_on_gpu(more)]);
        }
        let weights = match counts {
            Counts::Private | Counts::OnGpu => 0,
            Counts::Needed => sum([all.kept, self.largest_mapped.max(more.mapped)]),
            Counts::Addressed => sum([all.kept, all.mapped, all.paged]),
        };
        sum([weights, all.private, all.scratch, self.cache_here(more)])
    }
}

#[derive(Default)]
struct State {
    settings: Settings,
    gpu: GpuBytes,
    reserved: Demand,
    /// Of each reservation.
    mapped: Sizes,
    scratches: Sizes,
    gpu_scratches: Sizes,
}

/// How many there are of each size.
#[derive(Default)]
struct Sizes(BTreeMap<usize, usize>);

impl Sizes {
    fn add(&mut self, bytes: usize) {
        *self.0.entry(bytes).or_default() += 1;
    }

    fn remove(&mut self, bytes: usize) {
        if let Some(count) = self.0.get_mut(&bytes) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&bytes);
            }
        }
    }

    fn largest(&self) -> usize {
        self.0.last_key_value().map_or(0, |(bytes, _)| *bytes)
    }
}

impl State {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            limits: machine::limits(self.settings.share, self.gpu, held(self.gpu)),
            reserved: self.reserved,
            largest_mapped: self.mapped.largest(),
            largest_scratch: self.scratches.largest(),
            largest_gpu_scratch: self.gpu_scratches.largest(),
            settings: self.settings,
        }
    }

    fn add(&mut self, demand: &Demand) {
        self.reserved = self.reserved.plus(demand);
        self.mapped.add(demand.mapped);
        self.scratches.add(demand.scratch);
        self.gpu_scratches.add(demand.gpu_scratch);
    }

    fn remove(&mut self, demand: &Demand) {
        self.reserved = self.reserved.minus(demand);
        self.mapped.remove(demand.mapped);
        self.scratches.remove(demand.scratch);
        self.gpu_scratches.remove(demand.gpu_scratch);
    }
}

/// Of the machine's memory.
fn held(gpu: GpuBytes) -> Held {
    let bytes = |category| ledger().bytes(category);
    let in_mlx =
        bytes(Category::WeightsCopied) + bytes(Category::KvInMlx) + bytes(Category::Logits);
    let kv_of_kernels = bytes(Category::KvReserved).saturating_sub(bytes(Category::KvInMlx));
    Held {
        mapped: bytes(Category::WeightsMapped) + bytes(Category::Adapters),
        private: match gpu.own {
            Some(_) => 0,
            None => in_mlx,
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
        gpu: GpuBytes {
            working_set: None,
            own: None,
        },
        reserved: Demand {
            mapped: 0,
            kept: 0,
            paged: 0,
            private: 0,
            scratch: 0,
            gpu: 0,
            gpu_scratch: 0,
        },
        mapped: Sizes(BTreeMap::new()),
        scratches: Sizes(BTreeMap::new()),
        gpu_scratches: Sizes(BTreeMap::new()),
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

    /// What the GPU in use lets models use.
    pub fn set_gpu(&self, gpu: GpuBytes) {
        self.lock().gpu = gpu;
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
        true => machine::least(&machine::limits(None, GpuBytes::default(), Held::default())),
        false => budget().snapshot().usable(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::Bound;
    use super::*;

    const MIB: usize = 1 << 20;

    fn budget_of(bytes: usize) -> &'static Budget {
        let budget: &'static Budget = Box::leak(Box::default());
        budget.set_share(Some(Share::Bytes(bytes)));
        budget.set_mlx_cache(Some(0));
        budget
    }

    fn private(bytes: usize) -> Demand {
        Demand {
            private: bytes,
            ..Demand::default()
        }
    }

    #[test]
    fn reservations_share_the_budget_and_give_it_back() {
        let budget = budget_of(100 * MIB);
        let first = budget.reserve(private(60 * MIB)).expect("fits");
        let shortage = budget.reserve(private(60 * MIB)).err().expect("too much");
        assert_eq!((shortage.taken, shortage.missing), (60 * MIB, 20 * MIB));
        assert_eq!(shortage.limit.bound, Bound::Budget);
        let text = shortage.to_string();
        assert!(
            text.contains("20 MiB more") && text.contains("of the 100 MiB"),
            "{text}"
        );
        drop(first);
        assert!(budget.reserve(private(100 * MIB)).is_ok());
        assert_eq!(budget.snapshot().taken(), 0);
    }

    #[test]
    fn what_cannot_grow_stays_as_it_was() {
        let budget = budget_of(100 * MIB);
        let mut growing = budget.reserve(private(60 * MIB)).expect("fits");
        assert!(growing.resize(private(101 * MIB)).is_err());
        assert_eq!(growing.demand(), private(60 * MIB));
        assert_eq!(budget.snapshot().taken(), 60 * MIB);
        growing.resize(private(100 * MIB)).expect("fits");
        growing.resize(private(10 * MIB)).expect("fits");
        assert_eq!(budget.snapshot().taken(), 10 * MIB);
    }

    #[test]
    fn weights_that_may_be_paged_take_addresses_only() {
        let budget = budget_of(100 * MIB);
        let weights = |mapped, paged| Demand {
            mapped,
            paged,
            ..Demand::default()
        };
        assert!(budget.reserve(weights(101 * MIB, 0)).is_err());
        let paged = budget.reserve(weights(0, 101 * MIB)).expect("allowed");
        assert_eq!(budget.snapshot().taken(), 0);
        assert_eq!(paged.demand().total(), 101 * MIB);
    }

    #[test]
    fn models_take_turns_unless_they_are_kept() {
        let budget = budget_of(100 * MIB);
        let model = Demand {
            mapped: 60 * MIB,
            ..Demand::default()
        };
        let mut first = budget.reserve(model).expect("fits");
        let _second = budget.reserve(model).expect("takes turns with the first");
        assert_eq!(budget.snapshot().taken(), 60 * MIB);
        assert!(first.resize(model.keeping(true)).is_err(), "not both");
        let context = budget.reserve(private(40 * MIB)).expect("beside either");
        assert!(budget.reserve(private(1)).is_err());
        drop((context, first));
        let small = Demand {
            mapped: 40 * MIB,
            ..Demand::default()
        };
        let kept = budget.reserve(small.keeping(true)).expect("fits");
        assert_eq!(budget.snapshot().taken(), 100 * MIB);
        drop(kept);
        assert_eq!(budget.snapshot().taken(), 60 * MIB);
    }

    #[test]
    fn freed_buffers_are_reserved_once_for_the_largest_step() {
        let budget = budget_of(100 * MIB);
        budget.set_mlx_cache(None);
        let scratch = |bytes| Demand {
            scratch: bytes,
            ..Demand::default()
        };
        let first = budget.reserve(scratch(20 * MIB)).expect("fits");
        assert_eq!(budget.snapshot().taken(), 40 * MIB);
        let second = budget.reserve(scratch(10 * MIB)).expect("fits");
        assert_eq!(budget.snapshot().taken(), 50 * MIB);
        assert!(budget.reserve(scratch(36 * MIB)).is_err());
        drop(first);
        assert_eq!(budget.snapshot().taken(), 20 * MIB);
        drop(second);
        assert_eq!(budget.snapshot().taken(), 0);
    }

    #[test]
    fn a_gpus_own_memory_and_the_machines_are_counted_apart() {
        let budget = budget_of(100 * MIB);
        budget.set_mlx_cache(None);
        budget.set_gpu(GpuBytes {
            working_set: None,
            own: Some(50 * MIB),
        });
        let on_gpu = |held, scratch| Demand {
            gpu: held,
            gpu_scratch: scratch,
            ..Demand::default()
        };
        let _here = budget.reserve(private(100 * MIB)).expect("fits here");
        let there = budget.reserve(on_gpu(30 * MIB, 10 * MIB)).expect("there");
        assert_eq!(budget.snapshot().taken(), 100 * MIB);
        let shortage = budget.reserve(on_gpu(MIB, 0)).err().expect("full");
        assert_eq!(shortage.limit.bound, Bound::GpuMemory);
        assert_eq!(shortage.taken, 50 * MIB, "freed buffers are among them");
        drop(there);
        assert!(budget.reserve(on_gpu(50 * MIB, 0)).is_ok());
        assert_eq!(private(MIB).moved_to_gpu(), on_gpu(MIB, 0));
    }

    #[test]
    fn a_smaller_budget_takes_nothing_away() {
        let budget = budget_of(100 * MIB);
        let before = budget.reserve(private(80 * MIB)).expect("fits");
        budget.set_share(Some(Share::Bytes(50 * MIB)));
        assert!(budget.reserve(private(1)).is_err());
        assert_eq!(before.demand(), private(80 * MIB));
        drop(before);
        assert!(budget.reserve(private(50 * MIB)).is_ok());
    }
}
