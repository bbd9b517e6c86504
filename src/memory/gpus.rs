//! What is promised of the memory that GPUs have for themselves, GPU by GPU.

use std::collections::BTreeMap;

use super::demand::{Demand, Sizes};
use super::machine::{Bound, Limit};

/// One GPU's memory, in bytes.
#[derive(Clone, Debug, Default)]
struct Gpu {
    /// What models may use of it. `None`: nobody looked, or it has none of its own.
    usable: Option<usize>,
    held: usize,
    scratch: usize,
    /// The scratch memory of each reservation.
    scratches: Sizes,
}

/// All GPUs that something was promised of, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Gpus(BTreeMap<usize, Gpu>);

impl Gpus {
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub fn set_usable(&mut self, index: usize, bytes: Option<usize>) {
        self.0.entry(index).or_default().usable = bytes;
    }

    pub fn add(&mut self, demand: &Demand) {
        if demand.is_on_gpu() {
            let gpu = self.0.entry(demand.gpu_index).or_default();
            gpu.held = gpu.held.saturating_add(demand.gpu);
            gpu.scratch = gpu.scratch.saturating_add(demand.gpu_scratch);
            gpu.scratches.add(demand.gpu_scratch);
        }
    }

    pub fn remove(&mut self, demand: &Demand) {
        if demand.is_on_gpu()
            && let Some(gpu) = self.0.get_mut(&demand.gpu_index)
        {
            gpu.held = gpu.held.saturating_sub(demand.gpu);
            gpu.scratch = gpu.scratch.saturating_sub(demand.gpu_scratch);
            gpu.scratches.remove(demand.gpu_scratch);
        }
    }

    /// What models may use of one GPU's own memory.
    pub fn usable(&self, index: usize) -> Option<usize> {
        self.0.get(&index)?.usable
    }

    /// The same of all GPUs. `None`: none has memory of its own.
    pub fn usable_of_all(&self) -> Option<usize> {
        let usable = self.0.values().filter_map(|gpu| gpu.usable);
        usable.reduce(usize::saturating_add)
    }

    pub fn limit(&self, index: usize) -> Option<Limit> {
        Some(Limit {
            bound: Bound::GpuMemory,
            bytes: self.usable(index)?,
        })
    }

    /// What is promised of a demand's GPU, the demand among it; `kept` bytes of freed
    /// buffers stay there, by default as much as the largest step takes.
    pub fn taken_with(&self, more: &Demand, kept: Option<usize>) -> usize {
        let gpu = self.0.get(&more.gpu_index).cloned().unwrap_or_default();
        [
            gpu.held,
            gpu.scratch,
            more.gpu,
            more.gpu_scratch,
            kept.unwrap_or(gpu.scratches.largest().max(more.gpu_scratch)),
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }

    /// Freed buffers of the largest step of each GPU.
    pub fn largest_scratches(&self, more: &Demand) -> usize {
        let mut all = self.clone();
        all.add(more);
        let largest = all.0.values().map(|gpu| gpu.scratches.largest());
        largest.fold(0, usize::saturating_add)
    }

    /// What each GPU has left.
    pub fn spare(&self, kept: Option<usize>) -> impl Iterator<Item = usize> {
        self.0.iter().filter_map(move |(&gpu_index, gpu)| {
            let nothing = Demand {
                gpu_index,
                ..Demand::default()
            };
            Some(gpu.usable?.saturating_sub(self.taken_with(&nothing, kept)))
        })
    }

    /// The part of what all GPUs hold that lies on this one, in proportion to what is
    /// promised of each: MLX tells only the sum.
    pub fn part_of(&self, index: usize, bytes: usize) -> usize {
        let promised = |gpu: &Gpu| gpu.held as f64 + gpu.scratch as f64;
        let all: f64 = self.0.values().map(promised).sum();
        match self.0.get(&index) {
            _ if all == 0.0 => bytes,
            Some(gpu) => (bytes as f64 * (promised(gpu) / all)) as usize,
            None => 0,
        }
    }
}
