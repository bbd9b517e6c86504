//! Mixers whose past is a state of fixed size, instead of keys and values of every token.
//! A kernel turns the state in front of some tokens into that behind them, token by
//! token, so results depend neither on how a text is cut into steps nor on threads.
//!
//! - `state`: [`StateMemory`], the states of a sequence; [`StateLayout`], what is where in
//!   it; [`StateSegment`], a sequence's part of a step
//! - `short_conv`: [`short_conv`], causal convolutions over a few tokens
//! - `delta`: [`gated_delta`], memories of heads that correct what they recall
//! - `scan`: [`selective_scan`], memories of heads that only fade
//! - `memory`: the matrices that both are
//! - `gate`: [`GatedNorm`], what heads say through a norm and a gate
//! - `parts`, `regroup`: where the parts of heads are in rows

mod delta;
mod gate;
mod memory;
mod parts;
mod regroup;
mod scan;
mod short_conv;
mod state;

use std::ops::Range;

pub use delta::{DeltaShape, DeltaStep, gated_delta};
pub use gate::{GatedNorm, GroupNorm};
pub use parts::{HeadParts, PartPlace};
pub use regroup::regroup;
pub use scan::{ScanShape, ScanStep, selective_scan};
pub use short_conv::{MOST_TAPS, ShortConv, short_conv};
pub use state::{StateLayout, StateMemory, StatePart, StateSegment};

/// Tokens that a head goes through before the next head does.
const BLOCK_TOKENS: usize = 32;

/// A sequence's rows in blocks of so many.
fn blocks(segment: &StateSegment) -> impl Iterator<Item = Range<usize>> {
    let end = segment.first_row + segment.n_tokens;
    let firsts = (segment.first_row..end).step_by(BLOCK_TOKENS);
    firsts.map(move |first| first..end.min(first + BLOCK_TOKENS))
}

#[cfg(test)]
mod tests;
