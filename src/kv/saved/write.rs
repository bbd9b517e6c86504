//! Writing a sequence.

use std::io::{self, Write};

use super::super::sequence::Sequence;
use super::super::shape::BLOCK;
use super::header::{Header, Origin};
use super::{CHECKSUM_BYTES, FIRST_CHUNK, STATES, TOKENS, checksum};
use crate::kernels::CacheLayout;
use crate::mlx::Ops;

/// What `write_sequence` writes.
pub fn saved_bytes(origin: Origin, sequence: &Sequence) -> usize {
    let shape = sequence.shape();
    let header = Header::new(origin, shape, sequence.length());
    total_bytes(&header, shape.layout()).expect("what is in memory can be counted")
}

/// `None`: more than can be addressed.
pub(super) fn total_bytes(header: &Header, layout: &CacheLayout) -> Option<usize> {
    let per_token = size_of::<i32>() + layout.bytes_per_token();
    let n_parts = 2 + usize::from(header.n_floats > 0) + header.n_tokens.div_ceil(BLOCK);
    let body = header.n_tokens.checked_mul(per_token)?;
    let states = header.n_floats.checked_mul(size_of::<f32>())?;
    let checksums = n_parts.checked_mul(CHECKSUM_BYTES)?;
    let sizes = [body, states, checksums];
    sizes
        .into_iter()
        .try_fold(header.bytes(), usize::checked_add)
}

pub fn write_sequence(
    ops: &Ops,
    origin: Origin,
    sequence: &Sequence,
    out: &mut dyn Write,
) -> io::Result<()> {
    let n_tokens = sequence.length();
    let header = Header::new(origin, sequence.shape(), n_tokens);
    out.write_all(&header.to_bytes())?;
    let tokens = sequence.tokens().iter();
    let tokens: Vec<u8> = tokens.flat_map(|token| token.to_le_bytes()).collect();
    out.write_all(&tokens)?;
    out.write_all(&checksum(TOKENS, &tokens))?;
    if header.n_floats > 0 {
        let states = sequence.state_floats(ops).map_err(io::Error::other)?;
        let states: Vec<u8> = states.iter().flat_map(|x| x.to_le_bytes()).collect();
        out.write_all(&states)?;
        out.write_all(&checksum(STATES, &states))?;
    }
    for index in 0..n_tokens.div_ceil(BLOCK) {
        let mut chunk = sequence.chunk(ops, index).map_err(io::Error::other)?;
        let bytes = chunk.bytes_mut();
        out.write_all(bytes)?;
        out.write_all(&checksum(FIRST_CHUNK + index, bytes))?;
    }
    Ok(())
}
