//! Mixers whose past is a state of fixed size, instead of keys and values of every token.
//! A kernel turns the state in front of some tokens into that behind them, token by
//! token, so results depend neither on how a text is cut into steps nor on threads.
//!
//! - `state`: [`StateMemory`], the states of a sequence; [`StateLayout`], what is where in
//!   it; [`StateSegment`], a sequence's part of a step
//! - `short_conv`: [`short_conv`], causal convolutions over a few tokens

mod short_conv;
mod state;

pub use short_conv::{MOST_TAPS, ShortConv, short_conv};
pub use state::{StateLayout, StateMemory, StatePart, StateSegment};

#[cfg(test)]
mod tests;
