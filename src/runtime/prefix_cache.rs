//! [`PrefixCache`]: keys and values that a model's contexts no longer hold, or still
//! do, for texts that begin like one that was evaluated.
//!
//! What it alone holds is memory that nobody was promised. It is given back, what was
//! unused for longest first, when the cache is over its limit, when somebody reserves
//! the memory, and under memory pressure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crate::kv::{BLOCK, Block, Prefixes, Recipe, Sequence};
use crate::log;
use crate::memory::{Category, budget, ledger};
use crate::mlx::Ops;

/// Of what models may use, by default.
const DEFAULT_SHARE: usize = 8;
/// A block of fewer tokens takes more memory than evaluating them again is worth.
const MIN_TOKENS: usize = BLOCK / 8;

/// One model's.
pub struct PrefixCache(Mutex<State>);

struct State {
    prefixes: Prefixes,
    /// `None`: the default.
    max_bytes: Option<usize>,
    last_use: Instant,
}

static CACHES: Mutex<Vec<Weak<PrefixCache>>> = Mutex::new(Vec::new());

impl PrefixCache {
    pub fn register() -> Arc<PrefixCache> {
        let cache = Arc::new(PrefixCache(Mutex::new(State {
            prefixes: Prefixes::default(),
            max_bytes: None,
            last_use: Instant::now(),
        })));
        let mut caches = lock(&CACHES);
        caches.retain(|other| other.strong_count() > 0);
        caches.push(Arc::downgrade(&cache));
        cache
    }

    /// What it may hold beside sequences; 0: nothing is kept.
    pub fn set_max_bytes(&self, max_bytes: usize) {
        let mut state = lock(&self.0);
        state.max_bytes = Some(max_bytes);
        match max_bytes {
            0 => state.prefixes.clear(),
            _ => drop(state.prefixes.shrink_to(max_bytes)),
        }
    }

    /// What it holds that no sequence does.
    pub fn bytes(&self) -> usize {
        lock(&self.0).prefixes.spare_bytes()
    }

    /// The blocks of the longest known beginning of `tokens`, and how many tokens it has.
    pub fn find(&self, recipe: &Arc<Recipe>, tokens: &[i32]) -> (Vec<Arc<Block>>, usize) {
        let mut state = lock(&self.0);
        state.last_use = Instant::now();
        state.prefixes.find(recipe, tokens)
    }

    /// Keeps the whole blocks that a sequence completed since it had `n_before` tokens.
    pub fn keep_completed(&self, ops: &Ops, sequence: &Sequence, n_before: usize) {
        let n_known = sequence.lineage().known().map_or(0, |(_, n)| n);
        if n_known / BLOCK > n_before / BLOCK {
            self.keep(ops, sequence, n_known / BLOCK * BLOCK);
        }
    }

    /// Keeps what a sequence is about to give up of its blocks when only `n_staying` of
    /// its tokens stay; gives whether there is any.
    pub fn keep_leaving(&self, ops: &Ops, sequence: &Sequence, n_staying: usize) -> bool {
        let n_known = sequence.lineage().known().map_or(0, |(_, n)| n);
        let leaves = n_known > n_staying.next_multiple_of(BLOCK) && !sequence.is_spilled();
        if leaves {
            let n = match n_known % BLOCK {
                short if short < MIN_TOKENS => n_known - short,
                _ => n_known,
            };
            self.keep(ops, sequence, n);
        }
        leaves
    }

    fn keep(&self, ops: &Ops, sequence: &Sequence, n_tokens: usize) {
        let Some((recipe, _)) = sequence.lineage().known() else {
            return;
        };
        let mut state = lock(&self.0);
        if state.max_bytes == Some(0) {
            return;
        }
        state.last_use = Instant::now();
        let tokens = &sequence.tokens()[..n_tokens];
        state.prefixes.keep(recipe, tokens, |index| {
            // A copy may need memory; without it the text is evaluated again.
            sequence.block(ops, index).ok()
        });
    }

    /// To its own limit.
    fn shrink(&self, usable: usize) {
        let mut state = lock(&self.0);
        let max_bytes = state.max_bytes.unwrap_or(usable / DEFAULT_SHARE);
        state.prefixes.shrink_to(max_bytes);
    }

    fn give_back(&self, bytes: usize) -> usize {
        let mut state = lock(&self.0);
        let left = state.prefixes.spare_bytes().saturating_sub(bytes);
        state.prefixes.shrink_to(left)
    }
}

/// Gives back what is over the caches' limits, or was promised to others.
pub(super) fn fit() {
    if ledger().bytes(Category::PrefixCache) == 0 {
        return;
    }
    let snapshot = budget().snapshot();
    let usable = snapshot.usable().usable_bytes;
    all().iter().for_each(|cache| cache.shrink(usable));
    shrink_all_to(snapshot.spare());
}

/// Gives back until all caches together hold no more than `bytes` that no sequence
/// does, those unused for longest first.
pub(super) fn shrink_all_to(bytes: usize) -> usize {
    let mut caches = all();
    caches.sort_by_key(|cache| lock(&cache.0).last_use);
    let mut given_back = 0;
    for cache in caches {
        let excess = ledger().bytes(Category::PrefixCache).saturating_sub(bytes);
        if excess > 0 {
            given_back += cache.give_back(excess);
        }
    }
    if given_back > 0 {
        log::info(format_args!(
            "gave back {given_back} bytes of the prefix cache"
        ));
    }
    given_back
}

fn all() -> Vec<Arc<PrefixCache>> {
    lock(&CACHES).iter().filter_map(Weak::upgrade).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
