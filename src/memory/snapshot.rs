//! [`Snapshot`]: the budget at one moment, and whether something would fit into it.

use std::fmt;

use super::demand::{Demand, Mebibytes, sum};
use super::gpus::Gpus;
use super::machine::{self, Counts, Limit, Share, Usable};

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
    pub(super) limits: Vec<Limit>,
    pub(super) reserved: Demand,
    pub(super) largest_mapped: usize,
    pub(super) largest_scratch: usize,
    pub(super) gpus: Gpus,
    pub(super) settings: Settings,
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
