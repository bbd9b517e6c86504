//! [`Sequences`]: those of a context, apart from it so that memory pressure finds
//! the idle ones.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::prefix_cache;
use crate::error::{Error, Result};
use crate::kv::{self, CacheShape, KvUsage, Sequence};
use crate::log;
use crate::memory::{Category, Entry, ledger};
use crate::mlx::Ops;

/// The sequences of one context and what they hold.
pub(super) struct Sequences {
    ops: Arc<Ops>,
    all: Vec<Sequence>,
    /// What they may become under memory pressure.
    reduced: Option<CacheShape>,
    usage: KvUsage,
    peak: usize,
    used: Entry,
    last_use: Instant,
}

/// Locked while a call uses them: computing ones are left alone.
pub(super) type SharedSequences = Arc<Mutex<Sequences>>;

/// Where idle sequences may go.
#[derive(Clone, Debug)]
struct SpillPlace {
    directory: PathBuf,
    max_bytes: usize,
}

/// Idle sequences that made room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleSequences {
    pub n_sequences: usize,
    /// Of memory.
    pub bytes: usize,
}

impl IdleSequences {
    fn add(&mut self, others: IdleSequences) {
        self.n_sequences += others.n_sequences;
        self.bytes += others.bytes;
    }
}

static SHARED: Mutex<Vec<Weak<Mutex<Sequences>>>> = Mutex::new(Vec::new());
static SPILL_PLACE: Mutex<Option<SpillPlace>> = Mutex::new(None);

impl Sequences {
    pub fn share(
        ops: Arc<Ops>,
        all: Vec<Sequence>,
        reduced: Option<CacheShape>,
    ) -> SharedSequences {
        let sequences = Arc::new(Mutex::new(Sequences {
            ops,
            all,
            reduced,
            usage: KvUsage::default(),
            peak: 0,
            used: Entry::new(Category::KvUsed, 0),
            last_use: Instant::now(),
        }));
        let mut shared = lock(&SHARED);
        shared.retain(|other| other.strong_count() > 0);
        shared.push(Arc::downgrade(&sequences));
        sequences
    }

    /// For a call that uses them.
    pub fn of(shared: &SharedSequences) -> MutexGuard<'_, Sequences> {
        let mut sequences = lock(shared);
        sequences.last_use = Instant::now();
        sequences
    }

    /// Counts again what they hold.
    pub fn account(&mut self) {
        self.usage = kv::usage(&self.all);
        self.peak = self.peak.max(self.usage.reserved_bytes);
        self.used.set(self.usage.used_bytes);
    }

    pub fn usage(&self) -> KvUsage {
        self.usage
    }

    pub fn peak(&self) -> usize {
        self.peak
    }

    /// The memory goes back; the sequences are gone.
    pub fn clear(&mut self) {
        self.all.clear();
        self.account();
    }

    /// Those that fit go to disk, the others stay.
    fn spill(&mut self, place: &SpillPlace) -> Result<IdleSequences> {
        let before = self.usage.reserved_bytes;
        let mut n_sequences = 0;
        let mut result = Ok(());
        for sequence in &mut self.all {
            let on_disk = ledger().bytes(Category::KvSpilled);
            let fits = on_disk + kv::spilled_bytes(sequence) <= place.max_bytes;
            if sequence.length() == 0 || sequence.is_spilled() || !fits {
                continue;
            }
            result = sequence.spill(&self.ops, &place.directory);
            if result.is_err() {
                break;
            }
            n_sequences += 1;
        }
        self.account();
        result.map(|()| IdleSequences {
            n_sequences,
            bytes: before - self.usage.reserved_bytes,
        })
    }

    /// Those of a context that allows it take less memory from now on.
    fn reduce(&mut self) -> Result<IdleSequences> {
        let Some(shape) = &self.reduced else {
            return Ok(IdleSequences::default());
        };
        let before = self.usage.reserved_bytes;
        let result = kv::reduce(&mut self.all, &self.ops, shape);
        self.account();
        result.map(|n_sequences| IdleSequences {
            n_sequences,
            bytes: before - self.usage.reserved_bytes,
        })
    }
}

impl Deref for Sequences {
    type Target = [Sequence];

    fn deref(&self) -> &[Sequence] {
        &self.all
    }
}

impl DerefMut for Sequences {
    fn deref_mut(&mut self) -> &mut [Sequence] {
        &mut self.all
    }
}

/// Allows idle sequences to be written into files in `directory`, which together
/// take at most `max_bytes`; `None` ends that. Those that are there stay until they
/// are used.
pub fn set_spill_place(place: Option<(&Path, usize)>) -> Result<()> {
    let place = place.map(|(directory, max_bytes)| match directory.is_dir() {
        true => Ok(SpillPlace {
            directory: directory.to_owned(),
            max_bytes,
        }),
        false => Err(Error::not_found(format!(
            "there is no directory {} for idle sequences",
            directory.display()
        ))),
    });
    *lock(&SPILL_PLACE) = place.transpose()?;
    Ok(())
}

pub(super) fn may_spill() -> bool {
    lock(&SPILL_PLACE).is_some()
}

/// Writes the sequences of contexts that are not computing to disk, those unused for
/// longest first.
pub(super) fn spill_idle() -> Result<IdleSequences> {
    let Some(place) = lock(&SPILL_PLACE).clone() else {
        return Err(Error::invalid(
            "there is no directory for idle sequences; name one with umrt_memory_spill_set",
        ));
    };
    let spilled = of_idle(|sequences| sequences.spill(&place))?;
    if spilled.n_sequences > 0 {
        log::info(format_args!(
            "moved {} sequence(s) to {}",
            spilled.n_sequences,
            place.directory.display()
        ));
    }
    Ok(spilled)
}

/// Stores the sequences of contexts that are not computing in fewer bits, where that is
/// allowed.
pub(super) fn reduce_idle() -> Result<IdleSequences> {
    let reduced = of_idle(Sequences::reduce)?;
    if reduced.n_sequences > 0 {
        log::info(format_args!(
            "stored {} sequence(s) in fewer bits",
            reduced.n_sequences
        ));
    }
    Ok(reduced)
}

/// What `make_room` gives back of contexts that are not computing, those unused for
/// longest first.
fn of_idle(
    mut make_room: impl FnMut(&mut Sequences) -> Result<IdleSequences>,
) -> Result<IdleSequences> {
    let all: Vec<_> = lock(&SHARED).iter().filter_map(Weak::upgrade).collect();
    let mut idle: Vec<_> = all.iter().filter_map(|one| one.try_lock().ok()).collect();
    idle.sort_by_key(|sequences| sequences.last_use);
    let kept = ledger().bytes(Category::PrefixCache);
    let mut given_back = IdleSequences::default();
    let result = idle.iter_mut().try_for_each(|sequences| {
        given_back.add(make_room(sequences)?);
        Ok(())
    });
    // What they shared with it would stay in memory for its sake alone.
    prefix_cache::shrink_all_to(kept);
    result.map(|()| given_back)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
