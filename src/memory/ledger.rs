//! The ledger: bytes by category, counted where they are taken and given back.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What bytes are held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Tensors used where they are mapped.
    WeightsMapped,
    /// Tensors that had to be copied out of their file.
    WeightsCopied,
    /// Keys and values: allocated.
    KvReserved,
    /// Of these, in MLX's arrays.
    KvInMlx,
    /// Of the allocated ones, filled with tokens.
    KvUsed,
    /// Logits of the last evaluation of each context.
    Logits,
}

const CATEGORIES: usize = Category::Logits as usize + 1;

/// Totals of the whole process.
pub struct Ledger([AtomicUsize; CATEGORIES]);

/// The one ledger.
pub fn ledger() -> &'static Ledger {
    static LEDGER: Ledger = Ledger([const { AtomicUsize::new(0) }; CATEGORIES]);
    &LEDGER
}

impl Ledger {
    pub fn bytes(&self, category: Category) -> usize {
        self.0[category as usize].load(Ordering::Relaxed)
    }
}

/// One holder's share of a category; gives it back when dropped.
#[derive(Debug)]
pub struct Entry {
    category: Category,
    bytes: usize,
}

impl Entry {
    pub fn new(category: Category, bytes: usize) -> Self {
        let mut entry = Self { category, bytes: 0 };
        entry.set(bytes);
        entry
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn set(&mut self, bytes: usize) {
        let total = &ledger().0[self.category as usize];
        match bytes >= self.bytes {
            true => total.fetch_add(bytes - self.bytes, Ordering::Relaxed),
            false => total.fetch_sub(self.bytes - bytes, Ordering::Relaxed),
        };
        self.bytes = bytes;
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
        drop(entry);
        assert_eq!(ledger().bytes(Category::WeightsCopied), before);
    }
}
