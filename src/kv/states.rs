//! [`States`]: those of a sequence's recurrent layers.

use std::io;
use std::sync::Arc;

use super::usage::Part;
use crate::error::{Error, Result};
use crate::kernels::{StateLayout, StateMemory, StatePart, StateSegment};
use crate::memory::{Category, Entry, probe};
use crate::mlx::{Array, Dtype, Ops};

/// What recurrent layers know of a sequence's tokens. There is no way back from behind a
/// token to in front of it; so the states in front of the last evaluation stay beside
/// those that its steps write.
pub struct States {
    layout: Arc<StateLayout>,
    /// Behind the first `n_base` tokens; `None`: there were none.
    base: Option<Arc<Held>>,
    n_base: usize,
    /// Behind all tokens, if there are more than that; what steps write.
    ahead: Option<Arc<Held>>,
}

/// One sequence's states, and what the ledger knows of them.
struct Held {
    storage: Storage,
    _reserved: Entry,
    _in_mlx: Option<Entry>,
}

enum Storage {
    /// For our kernels. A graph that was evaluated may hold it for a moment longer.
    Memory(Arc<StateMemory>),
    /// For MLX's operations, by layer; `None`: zeros.
    Arrays(Vec<Option<Vec<Array>>>),
}

impl Held {
    fn new(layout: &StateLayout, storage: Storage) -> Arc<Held> {
        let is_in_mlx = matches!(storage, Storage::Arrays(_));
        Arc::new(Held {
            storage,
            _reserved: Entry::new(Category::KvReserved, layout.bytes()),
            _in_mlx: is_in_mlx.then(|| Entry::new(Category::KvInMlx, layout.bytes())),
        })
    }

    fn memory(&self) -> Option<&Arc<StateMemory>> {
        match &self.storage {
            Storage::Memory(memory) => Some(memory),
            Storage::Arrays(_) => None,
        }
    }

    fn arrays(&self) -> impl Iterator<Item = &Array> {
        let layers = match &self.storage {
            Storage::Memory(_) => &[][..],
            Storage::Arrays(layers) => layers,
        };
        layers.iter().flatten().flatten()
    }
}

impl States {
    pub fn new(layout: &Arc<StateLayout>) -> States {
        States {
            layout: layout.clone(),
            base: None,
            n_base: 0,
            ahead: None,
        }
    }

    /// Whether there are no recurrent layers.
    fn are_none(&self) -> bool {
        self.layout.n_floats() == 0
    }

    /// Behind `length` tokens, all that there are; `None`: zeros.
    fn current(&self, length: usize) -> Option<&Arc<Held>> {
        match length > self.n_base {
            true => self.ahead.as_ref(),
            false => self.base.as_ref(),
        }
    }

    /// Those behind `length` tokens, all that there are, for another sequence.
    #[must_use]
    pub fn fork(&self, length: usize) -> States {
        States {
            layout: self.layout.clone(),
            base: self.current(length).cloned(),
            n_base: length,
            ahead: None,
        }
    }

    /// As long as they are somewhere else: without memory.
    #[must_use]
    pub fn absent(&self, length: usize) -> States {
        States {
            n_base: length,
            ..States::new(&self.layout)
        }
    }

    /// Whether there are states behind the first `keep` of `length` tokens.
    pub fn can_go_back(&self, keep: usize, length: usize) -> bool {
        self.most_kept(keep, length) == keep
    }

    /// The most of the first `keep` of `length` tokens behind which there are states.
    pub fn most_kept(&self, keep: usize, length: usize) -> usize {
        if self.are_none() {
            return keep;
        }
        let there = [length, self.n_base].into_iter();
        there.filter(|n| *n <= keep).max().unwrap_or(0)
    }

    /// Back to those behind the first `keep` of `length` tokens.
    ///
    /// # Panics
    /// If they are not there any more.
    pub fn truncate(&mut self, keep: usize, length: usize) {
        assert!(self.can_go_back(keep, length), "states cannot be cut");
        if keep == 0 {
            *self = States::new(&self.layout);
        }
    }

    /// Before tokens are evaluated behind `length` ones: their states are those that can
    /// be come back to from now on.
    pub fn reserve(&mut self, ops: &Ops, length: usize) -> Result<()> {
        if self.are_none() {
            return Ok(());
        }
        if length > self.n_base {
            std::mem::swap(&mut self.base, &mut self.ahead);
            self.n_base = length;
        }
        if !ops.uses_kernels() {
            let arrays = match self.base.as_deref() {
                Some(Held {
                    storage: Storage::Arrays(layers),
                    ..
                }) => layers.clone(),
                _ => vec![None; self.layout.layers().len()],
            };
            self.ahead = None;
            self.ahead = Some(Held::new(&self.layout, Storage::Arrays(arrays)));
            return Ok(());
        }
        if self.ahead.as_mut().and_then(Arc::get_mut).is_none() {
            self.ahead = None;
            let memory = StateMemory::zeroed(&self.layout).map_err(no_memory)?;
            self.ahead = Some(Held::new(&self.layout, Storage::Memory(Arc::new(memory))));
        }
        Ok(())
    }

    /// For our kernels: where the states of a step's rows are, behind `length` tokens.
    pub fn segment(
        &self,
        (first_row, n_tokens): (usize, usize),
        length: usize,
    ) -> Option<StateSegment> {
        let after = self.ahead.as_ref()?.memory()?.clone();
        let before = self.current(length).and_then(|held| held.memory());
        Some(StateSegment {
            first_row,
            n_tokens,
            before: before.cloned(),
            after,
        })
    }

    /// For MLX's operations: replaces one layer's states by what `advance` makes of them.
    pub fn update<T>(
        &mut self,
        ops: &Ops,
        layer: usize,
        advance: impl FnOnce(Vec<Array>) -> Result<(T, Vec<Array>)>,
    ) -> Result<T> {
        let held = self.ahead.as_mut().and_then(Arc::get_mut);
        let Some(Storage::Arrays(layers)) = held.map(|held| &mut held.storage) else {
            return Err(Error::internal("there are no arrays of states to write"));
        };
        let states = match layers[layer].take() {
            Some(states) => states,
            None => zeros(ops, &self.layout, layer)?,
        };
        let (result, states) = advance(states)?;
        layers[layer] = Some(states);
        Ok(result)
    }

    /// Those that a step must evaluate.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.ahead.iter().flat_map(|held| held.arrays())
    }

    /// Whether MLX has lost none of those behind `length` tokens.
    pub fn are_complete(&self, length: usize) -> bool {
        let is_there = |array: &Array| array.is_evaluated().is_ok_and(|evaluated| evaluated);
        let mut arrays = self
            .current(length)
            .into_iter()
            .flat_map(|held| held.arrays());
        arrays.all(is_there)
    }

    /// The numbers behind `length` tokens, in the order of the layout.
    pub fn to_vec(&self, ops: &Ops, length: usize) -> Result<Vec<f32>> {
        // As numbers, and then as bytes.
        if !probe(2 * self.layout.bytes()) {
            return Err(no_memory(io::ErrorKind::OutOfMemory.into()));
        }
        let mut floats = vec![0.0; self.layout.n_floats()];
        match self.current(length).map(|held| &held.storage) {
            None => {}
            Some(Storage::Memory(memory)) => memory.copy_to(&mut floats),
            Some(Storage::Arrays(layers)) => {
                for (states, parts) in layers.iter().zip(self.layout.layers()) {
                    for (state, part) in states.iter().flatten().zip(parts) {
                        let state = ops.dense(state)?;
                        ops.stream().eval([&state])?;
                        floats[part.range()].copy_from_slice(state.as_f32()?);
                    }
                }
            }
        }
        Ok(floats)
    }

    /// Of these numbers, behind `length` tokens.
    pub fn from_memory(
        layout: &Arc<StateLayout>,
        memory: StateMemory,
        length: usize,
        for_kernels: bool,
    ) -> Result<States> {
        let mut states = States::new(layout).absent(length);
        if !states.are_none() && length > 0 {
            let storage = match for_kernels {
                true => Storage::Memory(Arc::new(memory)),
                false => Storage::Arrays(arrays_of(layout, memory)?),
            };
            states.base = Some(Held::new(layout, storage));
        }
        Ok(states)
    }

    /// What is held for a sequence of `length` tokens.
    pub fn parts(&self, length: usize) -> impl Iterator<Item = Part> {
        let bytes = self.layout.bytes();
        let current = self.current(length).map(Arc::as_ptr);
        let held = self.base.iter().chain(&self.ahead);
        held.map(move |held| Part {
            is_shared: Arc::strong_count(held) > 1,
            identity: Arc::as_ptr(held).addr(),
            reserved_bytes: bytes,
            used_bytes: match current == Some(Arc::as_ptr(held)) {
                true => bytes,
                false => 0,
            },
        })
    }
}

fn zeros(ops: &Ops, layout: &StateLayout, layer: usize) -> Result<Vec<Array>> {
    let parts = layout.layers()[layer].iter();
    let zeros = |part: &StatePart| ops.zeros(&mlx_shape(part), Dtype::F32);
    parts.map(zeros).collect()
}

fn arrays_of(layout: &StateLayout, mut memory: StateMemory) -> Result<Vec<Option<Vec<Array>>>> {
    let floats = memory.floats_mut();
    let layers = layout.layers().iter();
    let arrays = layers.map(|parts| {
        let parts = parts
            .iter()
            .map(|part| Array::from_f32(&floats[part.range()], &mlx_shape(part)));
        parts.collect::<Result<Vec<_>>>().map(Some)
    });
    arrays.collect()
}

fn mlx_shape(part: &StatePart) -> Vec<i32> {
    part.shape.iter().map(|&length| length as i32).collect()
}

fn no_memory(error: io::Error) -> Error {
    Error::out_of_memory(format!(
        "the system has no memory for the states of recurrent layers: {error}; free what is not \
         needed"
    ))
}
