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

use super::gpus::Gpus;
use super::ledger::{Category, ledger};
use super::machine::{self, Counts, Held, Limit, Share, Usable};
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
    /// Which GPU that is.
    pub gpu_index: usize,
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
    pub fn moved_to_gpu(self, gpu_index: usize) -> Demand {
        Demand {
            private: 0,
            scratch: 0,
            gpu: self.gpu.saturating_add(self.private),
            gpu_scratch: self.gpu_scratch.saturating_add(self.scratch),
            gpu_index,
            ..self
        }
    }

    pub(super) fn is_on_gpu(&self) -> bool {
        self.gpu > 0 || self.gpu_scratch > 0
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

    /// Both at once. If both are on a GPU, it is the same.
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
            gpu_index: match self.is_on_gpu() {
                true => self.gpu_index,
                false => other.gpu_index,
            },
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
    /// Of the machine's memory.
    limits: Vec<Limit>,
    reserved: Demand,
    largest_mapped: usize,
    largest_scratch: usize,
    gpus: Gpus,
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
    pub fn gpu_memory(&self, gpu_index: usize) -> Option<usize> {
        self.gpus.usable(gpu_index)
    }

    /// What lies on this GPU of the bytes that MLX holds on all of them.
    pub fn part_on_gpu(&self, gpu_index: usize, bytes: usize) -> usize {
        self.gpus.part_of(gpu_index, bytes)
    }

    /// What MLX's arrays may take: of the GPUs' own memory, or of the machine's.
    pub fn usable_for_arrays(&self) -> usize {
        let of_machine = self.usable().usable_bytes;
        self.gpus.usable_of_all().unwrap_or(of_machine)
    }

    /// On all GPUs together.
    pub fn reserved(&self) -> Demand {
        self.reserved
    }

    /// Bytes that are promised, MLX's freed buffers among them.
    pub fn taken(&self) -> usize {
        self.taken_with(&Demand::default(), Counts::Needed)
    }

    /// Freed buffers that MLX may keep beside what `more` wants.
    pub fn mlx_cache_bytes(&self, more: &Demand) -> usize {
        let kept = || self.cache_here(more).max(self.gpus.largest_scratches(more));
        self.settings.mlx_cache_bytes.unwrap_or_else(kept)
    }

    /// The part of the machine's memory that it takes.
    fn cache_here(&self, more: &Demand) -> usize {
        let largest = self.largest_scratch.max(more.scratch);
        self.settings.mlx_cache_bytes.unwrap_or(largest)
    }

    /// What keeps `more` from fitting: that of which most is missing.
    pub fn shortage(&self, more: &Demand) -> Option<Shortage> {
        let nothing = Demand {
            gpu_index: more.gpu_index,
            ..Demand::default()
        };
        let of_gpu = match more.is_on_gpu() {
            true => self.gpus.limit(more.gpu_index),
            false => None,
        };
        let limits = self.limits.iter().copied().chain(of_gpu);
        let short = limits.filter_map(|limit| {
            let counts = limit.bound.counts();
            let needed = self.taken_with(more, counts);
            let missing = needed.checked_sub(limit.bytes).filter(|&bytes| bytes > 0)?;
            Some(Shortage {
                limit,
                taken: self.taken_with(&nothing, counts),
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
        let on_gpus = self.gpus.spare(self.settings.mlx_cache_bytes);
        left.chain(on_gpus).min().unwrap_or(0)
    }

    fn taken_with(&self, more: &Demand, counts: Counts) -> usize {
        if counts == Counts::OnGpu {
            return self.gpus.taken_with(more, self.settings.mlx_cache_bytes);
        }
        let all = self.reserved.plus(more);
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
    /// What a GPU that shares the machine's memory can work on.
    working_set: Option<usize>,
    reserved: Demand,
    /// Of each reservation.
    mapped: Sizes,
    scratches: Sizes,
    gpus: Gpus,
}

/// How many there are of each size.
#[derive(Clone, Debug, Default)]
pub(super) struct Sizes(BTreeMap<usize, usize>);

impl Sizes {
    pub fn add(&mut self, bytes: usize) {
        *self.0.entry(bytes).or_default() += 1;
    }

    pub fn remove(&mut self, bytes: usize) {
        if let Some(count) = self.0.get_mut(&bytes) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&bytes);
            }
        }
    }

    pub fn largest(&self) -> usize {
        self.0.last_key_value().map_or(0, |(bytes, _)| *bytes)
    }
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
        mapped: Sizes(BTreeMap::new()),
        scratches: Sizes(BTreeMap::new()),
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
        budget.set_gpu_memory(0, Some(50 * MIB));
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
        assert_eq!(private(MIB).moved_to_gpu(0), on_gpu(MIB, 0));
    }

    #[test]
    fn each_gpu_has_a_budget_of_its_own() {
        let budget = budget_of(100 * MIB);
        budget.set_gpu_memory(0, Some(50 * MIB));
        budget.set_gpu_memory(1, Some(20 * MIB));
        let on = |index, bytes| private(bytes).moved_to_gpu(index);
        let first = budget.reserve(on(0, 50 * MIB)).expect("fits on the first");
        assert!(budget.reserve(on(0, MIB)).is_err());
        let second = budget
            .reserve(on(1, 20 * MIB))
            .expect("the second is empty");
        let shortage = budget.reserve(on(1, MIB)).err().expect("full");
        assert_eq!((shortage.taken, shortage.missing), (20 * MIB, MIB));
        budget.reserve(private(100 * MIB)).expect("fits here");
        let snapshot = budget.snapshot();
        assert_eq!((snapshot.taken(), snapshot.spare()), (0, 0));
        assert_eq!(snapshot.gpu_memory(1), Some(20 * MIB));
        assert_eq!(snapshot.usable_for_arrays(), 70 * MIB);
        assert_eq!(snapshot.part_on_gpu(0, 7 * MIB), 5 * MIB);
        assert_eq!(snapshot.part_on_gpu(1, 7 * MIB), 2 * MIB);
        drop((first, second));
        assert_eq!(
            budget.snapshot().part_on_gpu(1, MIB),
            MIB,
            "nothing is promised"
        );
        assert!(budget.reserve(on(1, 20 * MIB)).is_ok());
    }

    #[test]
    fn freed_buffers_are_kept_on_each_gpu() {
        let budget = budget_of(100 * MIB);
        budget.set_mlx_cache(None);
        let scratch = |gpu_index, gpu_scratch| Demand {
            gpu_scratch,
            gpu_index,
            ..Demand::default()
        };
        budget.set_gpu_memory(0, Some(20 * MIB));
        let _first = budget.reserve(scratch(0, 10 * MIB)).expect("fits");
        let _second = budget.reserve(scratch(1, 5 * MIB)).expect("fits");
        let snapshot = budget.snapshot();
        assert_eq!(snapshot.mlx_cache_bytes(&Demand::default()), 15 * MIB);
        assert_eq!(snapshot.mlx_cache_bytes(&scratch(1, 8 * MIB)), 18 * MIB);
        assert!(budget.reserve(scratch(0, 1)).is_err());
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
