//! [`Demand`]: how much memory of which kind a model or a context needs.

use std::collections::BTreeMap;
use std::fmt;

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

    pub(super) fn minus(&self, other: &Demand) -> Demand {
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

pub(super) fn sum(bytes: impl IntoIterator<Item = usize>) -> usize {
    bytes.into_iter().fold(0, usize::saturating_add)
}

/// How many there are of each size.
#[derive(Clone, Debug, Default)]
pub struct Sizes(BTreeMap<usize, usize>);

impl Sizes {
    pub const fn new() -> Sizes {
        Sizes(BTreeMap::new())
    }

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
