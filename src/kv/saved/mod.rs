//! Sequences outside of memory, in files or elsewhere.
//!
//! What is written is, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 72 and 12 per layer | [`Header`]: whose it is and how large everything is |
//! | 4 per token | token ids |
//! | 4 per float | the states of recurrent layers, if there are any |
//! | the layout's per token | keys and values, in chunks of 256 tokens (the last one of fewer) |
//!
//! Behind each of them, and behind each chunk, is its XXH3 (64 bits), seeded with
//! its number, so that none can take another's place. A chunk is a block with room
//! for its tokens and no more (`kernels/cache/layout.rs`), whichever way and with
//! whatever `n_ctx` it was computed.

mod header;
mod read;
mod write;

pub use header::Origin;
pub use read::SavedSequence;
pub use write::{saved_bytes, write_sequence};

use twox_hash::XxHash3_64;

const CHECKSUM_BYTES: usize = size_of::<u64>();

/// Which part it is: 0 the header, 1 the tokens, 2 the states, and then the chunks.
fn checksum(number: usize, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    XxHash3_64::oneshot_with_seed(number as u64, bytes).to_le_bytes()
}

const HEADER: usize = 0;
const TOKENS: usize = 1;
const STATES: usize = 2;
const FIRST_CHUNK: usize = 3;

#[cfg(test)]
mod tests;
