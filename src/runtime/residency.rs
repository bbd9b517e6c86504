//! Which models' weights are in memory, and whose leave first when another needs
//! the room.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::cancel::Cancel;
use super::prefix_cache;
use crate::checkpoint::{Checkpoint, MappedFile};
use crate::error::{Error, Result};
use crate::host;
use crate::log;
use crate::memory::{self, Category, Entry, Reservation, ledger, process_memory};
use crate::mlx;

/// How often running models look whether their files were changed and whose
/// idle time is over.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// Read between two looks at the cancellation.
const PIECE: usize = 16 << 20;

/// Where a model's weights shall be. The numbers are those of the C API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Residency {
    /// In memory as they are used, and as long as the system likes.
    Mapped = 0,
    /// All read now.
    Warm = 1,
    /// All read now and kept in memory.
    Locked = 2,
    /// Out of the process until they are used again.
    Released = 3,
}

impl Residency {
    pub fn from_code(code: u32) -> Option<Residency> {
        [Self::Mapped, Self::Warm, Self::Locked, Self::Released]
            .into_iter()
            .find(|residency| *residency as u32 == code)
    }
}

/// For [`Residence::set`].
#[derive(Default)]
pub struct ResidencyOptions<'a> {
    /// With `Released`: the page cache shall forget the files too.
    pub drop_cache: bool,
    /// Called with (done, total) bytes while weights are read.
    pub progress: Option<&'a mut dyn FnMut(usize, usize)>,
    pub cancel: Option<&'a Cancel>,
}

/// Who gives way to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Never gives way.
    pub pinned: bool,
    /// Models with less give way first; among equals the one unused for longest.
    pub priority: i32,
    /// Unused for so long, the pages are released.
    pub idle_timeout: Option<Duration>,
}

/// What a release gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    pub n_models: usize,
    /// By which the process's memory backed by files shrank.
    pub bytes: usize,
}

/// The weights of one open model as a tenant of memory.
pub struct Residence {
    checkpoint: Arc<Checkpoint>,
    /// Whether a GPU has the weights in memory of its own, so that the mapped files
    /// are not looked at any more.
    is_on_gpu: bool,
    /// Whether pages may have come in since the last release.
    is_touched: AtomicBool,
    n_calls: AtomicUsize,
    last_use_ms: AtomicU64,
    last_check_ms: AtomicU64,
    tenancy: Mutex<Tenancy>,
}

struct Tenancy {
    policy: Policy,
    /// The weights' part of the budget.
    reservation: Reservation,
    locked: Entry,
}

static RESIDENCES: Mutex<Vec<Weak<Residence>>> = Mutex::new(Vec::new());

/// All open models' weights.
pub(super) fn residences() -> Vec<Arc<Residence>> {
    let mut all = lock(&RESIDENCES);
    all.retain(|residence| residence.strong_count() > 0);
    all.iter().filter_map(Weak::upgrade).collect()
}

/// Keeps a model from being released while a call uses it.
pub(super) struct Use(Arc<Residence>);

impl Drop for Use {
    fn drop(&mut self) {
        self.0.last_use_ms.store(now_ms(), Ordering::Relaxed);
        self.0.n_calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Residence {
    pub(super) fn register(
        checkpoint: &Arc<Checkpoint>,
        reservation: Reservation,
    ) -> Arc<Residence> {
        let residence = Arc::new(Residence {
            checkpoint: checkpoint.clone(),
            is_on_gpu: reservation.demand().gpu > 0,
            is_touched: AtomicBool::new(false),
            n_calls: AtomicUsize::new(0),
            last_use_ms: AtomicU64::new(now_ms()),
            last_check_ms: AtomicU64::new(now_ms()),
            tenancy: Mutex::new(Tenancy {
                policy: Policy::default(),
                reservation,
                locked: Entry::new(Category::WeightsLocked, 0),
            }),
        });
        lock(&RESIDENCES).push(Arc::downgrade(&residence));
        residence
    }

    /// Begins a call that reads the weights.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Use> {
        host::ensure_not_forked()?;
        let now = now_ms();
        let checked = self.last_check_ms.load(Ordering::Relaxed);
        if now.saturating_sub(checked) >= CHECK_EVERY.as_millis() as u64 {
            self.last_check_ms.store(now, Ordering::Relaxed);
            self.checkpoint.ensure_unaltered()?;
            release_timed_out()?;
        }
        self.last_use_ms.store(now, Ordering::Relaxed);
        self.n_calls.fetch_add(1, Ordering::Relaxed);
        let in_use = Use(self.clone());
        self.move_in()?;
        Ok(in_use)
    }

    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Looks at once whether the files are still those that were opened.
    pub(super) fn ensure_unaltered(&self) -> Result<()> {
        self.checkpoint.ensure_unaltered()
    }

    pub fn policy(&self) -> Policy {
        lock(&self.tenancy).policy
    }

    /// Refused if the model shall be pinned and there is no room beside what else
    /// must stay.
    pub fn set_policy(&self, policy: Policy) -> Result<()> {
        let mut tenancy = lock(&self.tenancy);
        let demand = tenancy.reservation.demand().keeping(policy.pinned);
        tenancy.reservation.resize(demand).map_err(|shortage| {
            Error::over_budget(format!(
                "the model cannot be pinned: with it, {shortage}; unpin or free others, or set a \
                 larger budget"
            ))
        })?;
        tenancy.policy = policy;
        prefix_cache::fit();
        Ok(())
    }

    pub fn locked_bytes(&self) -> usize {
        lock(&self.tenancy).locked.bytes()
    }

    /// Brings the weights in, or lets them go. When it fails or is cancelled,
    /// what was read stays in memory as the system likes, and nothing is locked.
    pub fn set(&self, wanted: Residency, options: ResidencyOptions<'_>) -> Result<()> {
        host::ensure_not_forked()?;
        self.unlock();
        match wanted {
            Residency::Mapped => Ok(()),
            Residency::Released => self.release(options.drop_cache),
            Residency::Warm => self.warm(options),
            Residency::Locked => {
                self.warm(options)?;
                self.lock_pages()
            }
        }
    }

    fn warm(&self, mut options: ResidencyOptions<'_>) -> Result<()> {
        self.checkpoint.ensure_unaltered()?;
        self.last_use_ms.store(now_ms(), Ordering::Relaxed);
        self.move_in()?;
        let maps = self.checkpoint.maps();
        let total = maps.iter().map(MappedFile::len).sum();
        let mut done = 0;
        for map in maps {
            for start in (0..map.len()).step_by(PIECE) {
                options.cancel.map_or(Ok(()), Cancel::check)?;
                let end = map.len().min(start + PIECE);
                map.populate(start..end)?;
                done += end - start;
                if let Some(progress) = options.progress.as_mut() {
                    progress(done, total);
                }
            }
        }
        Ok(())
    }

    fn lock_pages(&self) -> Result<()> {
        let mut tenancy = lock(&self.tenancy);
        let maps = self.checkpoint.maps();
        for (n_locked, map) in maps.iter().enumerate() {
            if let Err(error) = map.lock() {
                maps[..n_locked].iter().for_each(MappedFile::unlock);
                return Err(error);
            }
        }
        let bytes = maps.iter().map(MappedFile::padded_len).sum();
        tenancy.locked.set(bytes);
        Ok(())
    }

    fn unlock(&self) {
        let mut tenancy = lock(&self.tenancy);
        if tenancy.locked.bytes() > 0 {
            let maps = self.checkpoint.maps();
            maps.iter().for_each(MappedFile::unlock);
            tenancy.locked.set(0);
        }
    }

    fn release(&self, drop_cache: bool) -> Result<()> {
        self.is_touched.store(false, Ordering::Relaxed);
        let mut maps = self.checkpoint.maps().iter();
        maps.try_for_each(|map| map.release(drop_cache))
    }

    /// Counts the weights as present, after making room for them.
    fn move_in(&self) -> Result<()> {
        if self.is_touched.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let budget = memory::usable().usable_bytes;
        make_room(self.mapped_bytes(), budget, Some(self)).map(drop)
    }

    fn mapped_bytes(&self) -> usize {
        if self.is_on_gpu {
            return 0;
        }
        let maps = self.checkpoint.maps().iter();
        let mapped = maps.filter(|map| !map.is_private());
        mapped.map(MappedFile::len).sum()
    }

    /// Bytes that releasing would make available.
    fn present_bytes(&self) -> usize {
        match self.is_touched.load(Ordering::Relaxed) {
            true => self.mapped_bytes(),
            false => 0,
        }
    }

    fn may_give_way(&self) -> bool {
        let tenancy = lock(&self.tenancy);
        let is_kept = tenancy.policy.pinned || tenancy.locked.bytes() > 0;
        !is_kept && self.n_calls.load(Ordering::Relaxed) == 0 && self.present_bytes() > 0
    }

    fn idle_time(&self) -> Duration {
        let last_use_ms = self.last_use_ms.load(Ordering::Relaxed);
        Duration::from_millis(now_ms().saturating_sub(last_use_ms))
    }
}

impl Drop for Residence {
    fn drop(&mut self) {
        self.unlock();
    }
}

/// Releases models until `needed` more bytes fit into `budget`: those of least
/// priority first, and among them the one unused for longest. Pinned and locked
/// models, those that are computing, and `newcomer` stay. If that does not
/// suffice the rest is up to the system, which can drop mapped pages by itself.
pub fn make_room(needed: usize, budget: usize, newcomer: Option<&Residence>) -> Result<Released> {
    let others: Vec<_> = residences()
        .into_iter()
        .filter(|other| {
            !newcomer.is_some_and(|newcomer| std::ptr::eq(newcomer, &raw const **other))
        })
        .collect();
    let present: usize = others.iter().map(|other| other.present_bytes()).sum();
    let mut excess = (present + private_bytes() + needed).saturating_sub(budget);
    if excess == 0 {
        return Ok(Released::default());
    }
    let mut candidates = others;
    candidates.retain(|other| other.may_give_way());
    candidates.sort_by_key(|other| {
        (
            other.policy().priority,
            std::cmp::Reverse(other.idle_time()),
        )
    });
    let mut leaving = Vec::new();
    for candidate in candidates {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(candidate.present_bytes());
        leaving.push(candidate);
    }
    release_all(&leaving, "another model needs the room")
}

/// Private memory of models and contexts, which nothing here can release.
fn private_bytes() -> usize {
    let bytes = |category| ledger().bytes(category);
    let arrays = match mlx::arrays_are_in_device_memory() {
        true => 0,
        false => {
            bytes(Category::WeightsCopied) + bytes(Category::KvInMlx) + bytes(Category::Logits)
        }
    };
    let kv_of_kernels = bytes(Category::KvReserved).saturating_sub(bytes(Category::KvInMlx));
    arrays + bytes(Category::WeightsRead) + kv_of_kernels + bytes(Category::PrefixCache)
}

/// Releases the models that are neither pinned nor locked nor computing.
pub(super) fn release_idle() -> Result<Released> {
    let mut idle = residences();
    idle.retain(|residence| residence.may_give_way());
    release_all(&idle, "memory is asked for")
}

/// Releases the models whose idle time is over.
pub(super) fn release_timed_out() -> Result<Released> {
    let mut idle = residences();
    idle.retain(|residence| {
        let timeout = residence.policy().idle_timeout;
        timeout.is_some_and(|timeout| residence.idle_time() >= timeout) && residence.may_give_way()
    });
    release_all(&idle, "its idle time is over")
}

fn release_all(leaving: &[Arc<Residence>], reason: &str) -> Result<Released> {
    if leaving.is_empty() {
        return Ok(Released::default());
    }
    let before = process_memory().resident_file;
    for residence in leaving {
        residence.release(false)?;
        log::info(format_args!(
            "released the weights of {}: {reason}",
            residence.checkpoint.directory().root().display()
        ));
    }
    Ok(Released {
        n_models: leaving.len(),
        bytes: before.saturating_sub(process_memory().resident_file),
    })
}

/// Milliseconds since the first call.
fn now_ms() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed().as_millis() as u64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
