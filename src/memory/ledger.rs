//! The ledger: bytes by category, counted where they are taken and given back.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What bytes are held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Tensors used where they are mapped.
    WeightsMapped,
    /// Tensors of adapters, used where they are mapped.
    Adapters,
    /// Of the mapped files: locked in memory.
    WeightsLocked,
    /// Tensors that had to be copied into MLX's memory.
    WeightsCopied,
    /// Weight files that were read into private memory.
    WeightsRead,
    /// Keys and values: allocated.
    KvReserved,
    /// Of these, in MLX's arrays.
    KvInMlx,
    /// Of the allocated ones, filled with tokens.
    KvUsed,
    /// Keys and values that no sequence holds, kept for texts that begin alike.
    PrefixCache,
    /// Keys and values of idle sequences: on disk, not in memory.
    KvSpilled,
    /// Logits of the last evaluation of each context.
    Logits,
    /// Vocabularies, merges and chat templates, estimated from their entries.
    Text,
    /// What our kernels compute in, kept for the next step or not.
    Scratch,
}

const CATEGORIES: usize = Category::Scratch as usize + 1;

/// Totals of the whole process, and the highest that each has been.
pub struct Ledger([Account; CATEGORIES]);

struct Account {
    bytes: AtomicUsize,
    peak: AtomicUsize,
}

/// The one ledger.
pub fn ledger() -> &'static Ledger {
    static LEDGER: Ledger = Ledger(
        [const {
            Account {
                bytes: AtomicUsize::new(0),
                peak: AtomicUsize::new(0),
            }
        }; CATEGORIES],
    );
    &LEDGER
}

impl Ledger {
    pub fn bytes(&self, category: Category) -> usize {
        self.0[category as usize].bytes.load(Ordering::Relaxed)
    }

    pub fn peak(&self, category: Category) -> usize {
        self.0[category as usize].peak.load(Ordering::Relaxed)
    }
}

/// One holder's share of a category; gives it back when dropped.
#[derive(Debug)]
pub struct Entry {
    category: Category,
    bytes: usize,
    peak: usize,
}

impl Entry {
    pub fn new(category: Category, bytes: usize) -> Self {
        let mut entry = Self {
            category,
            bytes: 0,
            peak: 0,
        };
        entry.set(bytes);
        entry
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most that this holder has held.
    pub fn peak(&self) -> usize {
        self.peak
    }

    pub fn set(&mut self, bytes: usize) {
        let account = &ledger().0[self.category as usize];
        if bytes >= self.bytes {
            let more = bytes - self.bytes;
            let total = account.bytes.fetch_add(more, Ordering::Relaxed) + more;
            account.peak.fetch_max(total, Ordering::Relaxed);
        } else {
            let less = self.bytes - bytes;
            account.bytes.fetch_sub(less, Ordering::Relaxed);
        }
        self.bytes = bytes;
        self.peak = self.peak.max(bytes);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_gives_back_what_it_took() {
        let before = ledger().bytes(Category::WeightsCopied);
        let mut entry = Entry::new(Category::WeightsCopied, 100);
        entry.set(40);
        assert_eq!(ledger().bytes(Category::WeightsCopied), before + 40);
        assert_eq!((entry.bytes(), entry.peak()), (40, 100));
        drop(entry);
        assert_eq!(ledger().bytes(Category::WeightsCopied), before);
        assert!(ledger().peak(Category::WeightsCopied) >= before + 100);
    }
}
