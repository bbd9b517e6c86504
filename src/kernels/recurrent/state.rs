//! [`StateMemory`]: the states of all recurrent layers of a sequence.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use memmap2::{MmapMut, MmapRaw};

/// Where the states of each layer are in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateLayout {
    /// None for layers that have no state.
    layers: Vec<Vec<StatePart>>,
    n_floats: usize,
}

/// One array of a layer's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePart {
    pub shape: Vec<usize>,
    /// Floats in front of it.
    pub first: usize,
}

impl StatePart {
    pub fn range(&self) -> Range<usize> {
        self.first..self.first + self.shape.iter().product::<usize>()
    }
}

impl StateLayout {
    /// By layer: the shapes of the arrays that its state consists of.
    pub fn new(layers: &[Vec<Vec<usize>>]) -> StateLayout {
        let mut n_floats = 0;
        let mut part = |shape: &Vec<usize>| {
            let part = StatePart {
                shape: shape.clone(),
                first: n_floats,
            };
            n_floats = part.range().end;
            part
        };
        let layers = layers.iter();
        StateLayout {
            layers: layers
                .map(|shapes| shapes.iter().map(&mut part).collect())
                .collect(),
            n_floats,
        }
    }

    pub fn layers(&self) -> &[Vec<StatePart>] {
        &self.layers
    }

    pub fn n_floats(&self) -> usize {
        self.n_floats
    }

    /// Of one sequence's states.
    pub fn bytes(&self) -> usize {
        self.n_floats * size_of::<f32>()
    }
}

/// Memory for the states of a sequence. The system gives it zeroed when it is first
/// touched, and gets it back at once.
pub struct StateMemory(MmapRaw);

impl StateMemory {
    /// Fails when the system has no memory.
    pub fn zeroed(layout: &StateLayout) -> io::Result<StateMemory> {
        let memory = MmapMut::map_anon(layout.bytes())?;
        Ok(StateMemory(memory.into()))
    }

    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// All states, of memory that nobody else has.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: the memory is borrowed exclusively, and so nobody's but the caller's.
        unsafe { self.part_mut(0..self.n_floats()) }
    }

    /// Copies all states.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy_to(&self, floats: &mut [f32]) {
        // SAFETY: only steps write into states, under the exclusive borrow of the sequence
        // that has the memory.
        floats.copy_from_slice(unsafe { self.part(0..self.n_floats()) });
    }

    fn n_floats(&self) -> usize {
        self.bytes() / size_of::<f32>()
    }

    /// # Safety
    /// Nobody writes these floats while the slice is there.
    ///
    /// # Panics
    /// If the range is not inside of the memory.
    unsafe fn part(&self, range: Range<usize>) -> &[f32] {
        assert!(range.start <= range.end && range.end <= self.n_floats());
        // SAFETY: inside of the mapping, which lives as long as `self` and begins at a page;
        // any bits are floats, and what was never written is zero.
        unsafe {
            let start = self.0.as_ptr().cast::<f32>().add(range.start);
            std::slice::from_raw_parts(start, range.len())
        }
    }

    /// # Safety
    /// Nobody else uses these floats while the slice is there.
    ///
    /// # Panics
    /// If the range is not inside of the memory.
    #[expect(clippy::mut_from_ref, reason = "the caller sees to it")]
    unsafe fn part_mut(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.n_floats());
        // SAFETY: as for `part`; exclusive by the contract.
        unsafe {
            let start = self.0.as_mut_ptr().cast::<f32>().add(range.start);
            std::slice::from_raw_parts_mut(start, range.len())
        }
    }
}

/// The rows of a step that are one sequence's, and its states.
#[derive(Clone)]
pub struct StateSegment {
    pub first_row: usize,
    pub n_tokens: usize,
    /// What the rows go on from; `None`: zeros.
    pub before: Option<Arc<StateMemory>>,
    /// Gets the states behind them; may be the same memory.
    pub after: Arc<StateMemory>,
}

impl StateSegment {
    /// Some of the states in front of the rows, to be turned into those behind them.
    ///
    /// # Safety
    /// They are taken once, and nobody else uses these floats of `after` while the slice
    /// is there. Nobody writes into `before` meanwhile, if that is other memory.
    ///
    /// # Panics
    /// If the range is not inside of the memory.
    #[expect(clippy::mut_from_ref, reason = "the caller sees to it")]
    pub unsafe fn take(&self, range: Range<usize>) -> &mut [f32] {
        // SAFETY: the caller's.
        let (before, states) = unsafe { self.take_apart(range) };
        if let Some(before) = before {
            states.copy_from_slice(before);
        }
        states
    }

    /// The same without copying them: where they are, if that is in other memory, and where
    /// those behind the rows belong.
    ///
    /// # Safety
    /// As for `take`.
    ///
    /// # Panics
    /// If the range is not inside of the memory.
    #[expect(clippy::mut_from_ref, reason = "the caller sees to it")]
    pub unsafe fn take_apart(&self, range: Range<usize>) -> (Option<&[f32]>, &mut [f32]) {
        // SAFETY: the caller's.
        let states = unsafe { self.after.part_mut(range.clone()) };
        match &self.before {
            None => {
                states.fill(0.0);
                (None, states)
            }
            Some(before) if Arc::ptr_eq(before, &self.after) => (None, states),
            // SAFETY: the caller's.
            Some(before) => (Some(unsafe { before.part(range) }), states),
        }
    }
}
