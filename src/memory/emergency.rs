//! [`EmergencyAllocator`]: a little memory for when the system has none.
//!
//! Rust ends the process where a small allocation fails. With this allocator such a
//! piece comes from a static store, and [`ensure_small_pieces`], which is asked before
//! models, contexts and steps begin, makes a status of it. The C library is built with
//! it (feature `capi`); programs in Rust choose their own allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::hint;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::bounded;
use super::probe::probe;
use crate::error::{Error, Result};

const CELL_BYTES: usize = 64;
const N_CELLS: usize = 8192;
const STORE_BYTES: usize = N_CELLS * CELL_BYTES;
/// Larger alignments are not served.
const STORE_ALIGNMENT: usize = 4096;
/// What the system has to have again before anything new begins.
const ENOUGH_BYTES: usize = STORE_BYTES / 2;

/// Allocates from `A`, and from the process's emergency store what `A` refuses; holds
/// calls to their bounds ([`run_bounded`](super::run_bounded)).
pub struct EmergencyAllocator<A = System>(pub A);

static STORE: Store = Store {
    bytes: StoreBytes(UnsafeCell::new([0; STORE_BYTES])),
    is_locked: AtomicBool::new(false),
    map: UnsafeCell::new(Map([0; N_CELLS / 64])),
    was_needed: AtomicBool::new(false),
};

/// Fails while the system has no memory even for small pieces.
pub fn ensure_small_pieces() -> Result<()> {
    if !STORE.was_needed.load(Ordering::Relaxed) {
        return Ok(());
    }
    if STORE.taken_bytes() > ENOUGH_BYTES || !probe(ENOUGH_BYTES) {
        return Err(Error::out_of_memory(
            "the system has no memory left, not even for small pieces; free models and contexts, \
             or end other programs, and try again",
        ));
    }
    STORE.was_needed.store(false, Ordering::Relaxed);
    Ok(())
}

// SAFETY: what `A` returns comes from `A` and goes back to it; what it refuses comes from
// the store, whose pieces are aligned, do not overlap, and are told by their addresses.
unsafe impl<A: GlobalAlloc> GlobalAlloc for EmergencyAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        bounded::take(layout.size());
        // SAFETY: the caller's contract.
        let memory = unsafe { self.0.alloc(layout) };
        match memory.is_null() {
            true => STORE.take(layout),
            false => memory,
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        bounded::take(layout.size());
        // SAFETY: the caller's contract.
        let memory = unsafe { self.0.alloc_zeroed(layout) };
        if !memory.is_null() {
            return memory;
        }
        let memory = STORE.take(layout);
        if !memory.is_null() {
            // SAFETY: a piece of that size, which nobody else has.
            unsafe { memory.write_bytes(0, layout.size()) };
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        bounded::give_back(layout.size());
        match STORE.first_cell(memory) {
            Some(first) => STORE.give_back(first, layout),
            // SAFETY: the caller's contract; it came from `A`.
            None => unsafe { self.0.dealloc(memory, layout) },
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if STORE.first_cell(memory).is_none() {
            bounded::take(new_size);
            // SAFETY: the caller's contract; it came from `A`.
            let moved = unsafe { self.0.realloc(memory, layout, new_size) };
            if !moved.is_null() {
                bounded::give_back(layout.size());
                return moved;
            }
            bounded::give_back(new_size);
        }
        // SAFETY: the size is valid by the caller's contract; both pieces hold what is
        // copied, and the old one is not used any more.
        unsafe {
            let new_layout = Layout::from_size_align_unchecked(new_size, layout.align());
            let moved = self.alloc(new_layout);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(memory, layout.size().min(new_size));
                self.dealloc(memory, layout);
            }
            moved
        }
    }
}

struct Store {
    bytes: StoreBytes,
    /// A lock that takes no memory.
    is_locked: AtomicBool,
    map: UnsafeCell<Map>,
    /// Since somebody last saw that the system has memory.
    was_needed: AtomicBool,
}

// SAFETY: the map is used under the lock; pieces of the bytes belong to who took them.
unsafe impl Sync for Store {}

#[repr(C, align(4096))]
struct StoreBytes(UnsafeCell<[u8; STORE_BYTES]>);

const _: () = assert!(align_of::<StoreBytes>() == STORE_ALIGNMENT);

impl Store {
    /// Null if it does not fit either.
    fn take(&self, layout: Layout) -> *mut u8 {
        if layout.size() > STORE_BYTES || layout.align() > STORE_ALIGNMENT {
            return std::ptr::null_mut();
        }
        self.was_needed.store(true, Ordering::Relaxed);
        let n_cells = cells_of(layout);
        let step = layout.align().div_ceil(CELL_BYTES);
        let first = self.with_map(|map| {
            let first = map.find(n_cells, step)?;
            map.set(first..first + n_cells, true);
            Some(first)
        });
        match first {
            Some(first) => self.start().wrapping_add(first * CELL_BYTES),
            None => std::ptr::null_mut(),
        }
    }

    fn give_back(&self, first: usize, layout: Layout) {
        self.with_map(|map| map.set(first..first + cells_of(layout), false));
    }

    /// Where a piece begins, if it is one of the store's.
    fn first_cell(&self, memory: *const u8) -> Option<usize> {
        let offset = memory.addr().checked_sub(self.start().addr())?;
        (offset < STORE_BYTES).then_some(offset / CELL_BYTES)
    }

    fn taken_bytes(&self) -> usize {
        self.with_map(|map| map.n_taken()) * CELL_BYTES
    }

    fn start(&self) -> *mut u8 {
        self.bytes.0.get().cast()
    }

    fn with_map<T>(&self, call: impl FnOnce(&mut Map) -> T) -> T {
        while self.is_locked.swap(true, Ordering::Acquire) {
            hint::spin_loop();
        }
        // SAFETY: whoever took the lock is alone.
        let result = call(unsafe { &mut *self.map.get() });
        self.is_locked.store(false, Ordering::Release);
        result
    }
}

fn cells_of(layout: Layout) -> usize {
    layout.size().div_ceil(CELL_BYTES)
}

/// A bit for each cell that is taken.
struct Map([u64; N_CELLS / 64]);

impl Map {
    /// The first of `n_cells` free ones in a row, at a multiple of `step`.
    fn find(&self, n_cells: usize, step: usize) -> Option<usize> {
        let mut first = 0;
        while first + n_cells <= N_CELLS {
            let last_taken = (first..first + n_cells)
                .rev()
                .find(|&cell| self.is_taken(cell));
            match last_taken {
                None => return Some(first),
                Some(taken) => first = (taken + 1).next_multiple_of(step),
            }
        }
        None
    }

    fn is_taken(&self, cell: usize) -> bool {
        self.0[cell / 64] >> (cell % 64) & 1 == 1
    }

    fn set(&mut self, cells: Range<usize>, is_taken: bool) {
        for cell in cells {
            let bit = 1 << (cell % 64);
            match is_taken {
                true => self.0[cell / 64] |= bit,
                false => self.0[cell / 64] &= !bit,
            }
        }
    }

    fn n_taken(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has nothing.
    struct Empty;

    // SAFETY: null is always allowed, and nothing else is ever returned.
    unsafe impl GlobalAlloc for Empty {
        unsafe fn alloc(&self, _: Layout) -> *mut u8 {
            std::ptr::null_mut()
        }

        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
            unreachable!("it gave nothing");
        }
    }

    const ALLOCATOR: EmergencyAllocator<Empty> = EmergencyAllocator(Empty);

    fn layout(size: usize, alignment: usize) -> Layout {
        Layout::from_size_align(size, alignment).expect("a layout")
    }

    /// The only test that takes anything from the process's store.
    #[test]
    fn pieces_that_the_system_refuses_come_from_the_store_and_go_back() {
        let layouts = [(1, 1), (64, 8), (65, 64), (5000, 4096), (100_000, 16)];
        let layouts = layouts.map(|(size, alignment)| layout(size, alignment));
        let mut pieces: Vec<(*mut u8, Layout)> = Vec::new();
        for (mark, layout) in (1..).zip(layouts) {
            // SAFETY: no size is 0; a piece is written within its size.
            unsafe {
                let piece = ALLOCATOR.alloc_zeroed(layout);
                assert!(!piece.is_null() && piece.addr().is_multiple_of(layout.align()));
                assert_eq!(*piece.add(layout.size() - 1), 0);
                piece.write_bytes(mark, layout.size());
                pieces.push((piece, layout));
            }
        }
        assert!(STORE.taken_bytes() >= 105_000);
        for (mark, (piece, layout)) in (1..).zip(&mut pieces) {
            let grown = layout.size() + 100;
            // SAFETY: live pieces, each used within its size.
            unsafe {
                *piece = ALLOCATOR.realloc(*piece, *layout, grown);
                assert_eq!((**piece, *piece.add(layout.size() - 1)), (mark, mark));
            }
            *layout = self::layout(grown, layout.align());
        }
        for (piece, layout) in pieces {
            // SAFETY: live pieces.
            unsafe { ALLOCATOR.dealloc(piece, layout) };
        }
        assert_eq!(STORE.taken_bytes(), 0);
        // SAFETY: a valid size.
        assert!(unsafe { ALLOCATOR.alloc(layout(STORE_BYTES + 1, 1)) }.is_null());
        // The system has memory, so this was no shortage that lasts.
        ensure_small_pieces().expect("enough");
        assert!(!STORE.was_needed.load(Ordering::Relaxed));
    }

    #[test]
    fn a_row_of_cells_is_found_between_taken_ones() {
        let mut map = Map([0; N_CELLS / 64]);
        map.set(0..3, true);
        map.set(5..70, true);
        assert_eq!(map.find(2, 1), Some(3));
        assert_eq!(map.find(3, 1), Some(70));
        assert_eq!(map.find(1, 64), Some(128));
        assert_eq!(map.find(N_CELLS - 70, 1), Some(70));
        assert_eq!(map.find(N_CELLS - 69, 1), None);
        map.set(0..3, false);
        assert_eq!((map.find(5, 1), map.n_taken()), (Some(0), 65));
    }
}
