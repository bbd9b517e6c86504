//! [`Work`]: what is to be done for a segment, in units that any thread takes.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plan::Plan;
use super::tile::Partial;
use super::{Attention, run_merge, run_piece};
use crate::kernels::aligned::Aligned;
use crate::kernels::level::Level;
use crate::kernels::output::Output;

/// Tokens of a prompt that are stored at a time.
const STORED_TOKENS: usize = 16;

/// Storing an element of a key or value costs as much as so many products.
const STORED_PRODUCTS: usize = 8;

/// What units write into.
pub struct Results<'a> {
    /// Of pieces whose positions are cut.
    pub partials: Output<'a, f32>,
    pub out: Output<'a, u8>,
}

/// The work for one segment.
pub struct Work<'a> {
    job: Attention<'a>,
    plan: Plan,
    /// Where its partial results begin: tile after tile, cut after cut.
    first_partial: usize,
    /// By tile: cuts that are not done yet.
    pending: Vec<AtomicUsize>,
}

/// A part of the work.
pub enum Unit<'a> {
    /// The keys and values of some tokens.
    Store(&'a Attention<'a>, Range<usize>),
    /// A cut of a tile.
    Attend {
        work: &'a Work<'a>,
        tile: usize,
        cut: usize,
    },
}

impl<'a> Work<'a> {
    pub fn all(jobs: impl Iterator<Item = Attention<'a>>) -> Vec<Work<'a>> {
        let mut works: Vec<Work<'a>> = Vec::with_capacity(jobs.size_hint().0);
        for job in jobs {
            let plan = Plan::new(&job);
            let n_counted = if plan.n_cuts > 1 { plan.n_tiles() } else { 0 };
            works.push(Work {
                job,
                first_partial: works.last().map_or(0, Work::partials_end),
                pending: (0..n_counted)
                    .map(|_| AtomicUsize::new(plan.n_cuts))
                    .collect(),
                plan,
            });
        }
        works
    }

    pub fn partials_end(&self) -> usize {
        self.first_partial + self.pending.len() * self.plan.n_cuts * self.piece_floats()
    }

    /// Partial results of a piece.
    fn piece_floats(&self) -> usize {
        self.plan.tile_rows() * Partial::floats(&self.job)
    }

    /// Whether each position of a head is looked at by one piece alone, which then
    /// stores its new key and value.
    pub fn stores_itself(&self) -> bool {
        self.plan.n_row_tiles == 1
    }

    /// Its tokens' keys and values.
    pub fn stores(&'a self) -> impl Iterator<Item = Unit<'a>> {
        let n_tokens = match self.job.step.stores() {
            true => self.job.segment.n_tokens,
            false => 0,
        };
        let firsts = (0..n_tokens).step_by(STORED_TOKENS);
        firsts
            .map(move |first| Unit::Store(&self.job, first..(first + STORED_TOKENS).min(n_tokens)))
    }

    pub fn pieces(&'a self) -> impl Iterator<Item = Unit<'a>> {
        let n_cuts = self.plan.n_cuts;
        (0..self.plan.n_tiles() * n_cuts).map(move |index| Unit::Attend {
            work: self,
            tile: index / n_cuts,
            cut: index % n_cuts,
        })
    }

    /// # Safety
    /// As for [`Unit::run`].
    unsafe fn attend(&self, level: Level, tile: usize, cut: usize, results: &Results<'_>) {
        let piece = self.plan.piece(&self.job, tile, cut);
        if self.stores_itself() && self.job.step.stores() {
            let start = piece.positions.start.max(self.job.segment.start);
            let new = start..piece.positions.end.max(start);
            // SAFETY: the caller's; no other piece has these positions of this head.
            unsafe { self.job.store(level, piece.kv_head, new) };
        }
        let floats = self.piece_floats();
        let n_cuts = self.plan.n_cuts;
        if n_cuts == 1 {
            let mut partials = Aligned::zeroed(floats);
            let partials = partials.as_mut_slice();
            run_piece(level, &self.job, &piece, partials);
            return run_merge(level, &self.job, &piece, partials, 1, &results.out);
        }
        let first = self.first_partial + tile * n_cuts * floats;
        let own = first + cut * floats..first + (cut + 1) * floats;
        // SAFETY: each piece has its own part until it is counted as done.
        let partials = unsafe { results.partials.part(own) };
        run_piece(level, &self.job, &piece, partials);
        if self.pending[tile].fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: all pieces of the tile are done, and what they wrote is
            // visible here: each one's count was released behind it.
            let partials = unsafe { results.partials.part(first..first + n_cuts * floats) };
            run_merge(level, &self.job, &piece, partials, n_cuts, &results.out);
        }
    }
}

impl Unit<'_> {
    /// What it costs, in products of one query and one key element.
    pub fn products(&self) -> usize {
        match self {
            Unit::Store(job, tokens) => {
                let step = job.step;
                let elements = step.n_kv_heads() * (step.key_dim() + step.value_dim());
                tokens.len() * elements * STORED_PRODUCTS
            }
            Unit::Attend { work, .. } => work.plan.piece_products,
        }
    }

    /// # Safety
    /// As for [`super::attention`], and what it looks at but does not store itself
    /// is stored.
    pub unsafe fn run(&self, level: Level, results: &Results<'_>) {
        match self {
            Unit::Store(job, tokens) => {
                let start = job.segment.start;
                let positions = start + tokens.start..start + tokens.end;
                for kv_head in 0..job.step.n_kv_heads() {
                    // SAFETY: the caller's; these tokens are this unit's.
                    unsafe { job.store(level, kv_head, positions.clone()) };
                }
            }
            // SAFETY: the caller's.
            Unit::Attend { work, tile, cut } => unsafe {
                work.attend(level, *tile, *cut, results);
            },
        }
    }
}
