//! [`SavedSequence`]: what was written, on its way back.

use std::io::{self, ErrorKind, Read};

use super::super::sequence::{Sequence, chunk_tokens};
use super::super::shape::CacheShape;
use super::header::{FIXED_BYTES, Header, Origin};
use super::write::total_bytes;
use super::{CHECKSUM_BYTES, FIRST_CHUNK, STATES, TOKENS, checksum};
use crate::error::{Error, Result, Status};
use crate::kernels::{CacheBlock, StateMemory};
use crate::memory::probe;

/// A saved sequence of which header and tokens were read and found right.
pub struct SavedSequence<'a> {
    input: &'a mut dyn Read,
    tokens: Vec<i32>,
    shape: CacheShape,
}

impl<'a> SavedSequence<'a> {
    /// `bytes` is all that `input` has. What does not belong into a sequence of this
    /// origin and one of these shapes is refused.
    pub fn open(
        input: &'a mut dyn Read,
        bytes: u64,
        origin: Origin,
        shapes: &[&CacheShape],
    ) -> Result<SavedSequence<'a>> {
        let header = read_header(input)?;
        let has_format = |shape: &&&CacheShape| shape.layout().format() == header.format;
        let shape = *shapes.iter().find(has_format).unwrap_or(&shapes[0]);
        header.ensure_fits(origin, shape)?;
        let expected = total_bytes(&header, shape.layout());
        if expected.map(|expected| expected as u64) != Some(bytes) {
            return Err(Error::format(format!(
                "it has {bytes} bytes where {} tokens take {}: it is cut off or not of one piece",
                header.n_tokens,
                expected.unwrap_or(usize::MAX)
            )));
        }
        let mut tokens = vec![0; header.n_tokens * size_of::<i32>()];
        read_checked(input, TOKENS, &mut tokens)?;
        let token = |bytes: &[u8]| i32::from_le_bytes(bytes.try_into().expect("four bytes"));
        Ok(SavedSequence {
            input,
            tokens: tokens.chunks_exact(size_of::<i32>()).map(token).collect(),
            shape: shape.clone(),
        })
    }

    pub fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// Reads keys and values and puts them in place of what `sequence` holds. If that fails, it is as before.
    pub fn load_into(self, sequence: &mut Sequence) -> Result<()> {
        let SavedSequence {
            input,
            tokens,
            shape,
        } = self;
        let n_tokens = tokens.len();
        let states = read_states(input, &shape, n_tokens)?;
        sequence.replace(&shape, tokens, states, |index| {
            let capacity = chunk_tokens(index, n_tokens).len();
            let chunk = CacheBlock::zeroed(shape.layout(), capacity);
            let mut chunk = chunk.map_err(no_memory)?;
            read_checked(input, FIRST_CHUNK + index, chunk.bytes_mut())?;
            Ok(chunk)
        })
    }
}

/// Of recurrent layers, if the model has some; in front of all tokens they are zeros.
fn read_states(
    input: &mut dyn Read,
    shape: &CacheShape,
    n_tokens: usize,
) -> Result<Option<StateMemory>> {
    let layout = shape.states();
    if layout.n_floats() == 0 {
        return Ok(None);
    }
    if !probe(2 * layout.bytes()) {
        return Err(no_memory(ErrorKind::OutOfMemory.into()));
    }
    let mut states = StateMemory::zeroed(layout).map_err(no_memory)?;
    let mut bytes = vec![0; layout.bytes()];
    read_checked(input, STATES, &mut bytes)?;
    if n_tokens == 0 && bytes.iter().any(|byte| *byte != 0) {
        return Err(Error::format("it has states of no tokens"));
    }
    let (stored, _) = bytes.as_chunks();
    for (state, stored) in states.floats_mut().iter_mut().zip(stored) {
        *state = f32::from_le_bytes(*stored);
    }
    Ok(Some(states))
}

fn no_memory(error: io::Error) -> Error {
    Error::out_of_memory(format!("no memory for keys and values: {error}"))
}

fn read_header(input: &mut dyn Read) -> Result<Header> {
    let mut fixed = [0; FIXED_BYTES];
    read(input, &mut fixed)?;
    let mut header = vec![0; Header::length(&fixed)?];
    header[..FIXED_BYTES].copy_from_slice(&fixed);
    read(input, &mut header[FIXED_BYTES..])?;
    Header::from_bytes(&header)
}

fn read_checked(input: &mut dyn Read, number: usize, bytes: &mut [u8]) -> Result<()> {
    let mut expected = [0; CHECKSUM_BYTES];
    read(input, bytes)?;
    read(input, &mut expected)?;
    match checksum(number, bytes) == expected {
        true => Ok(()),
        false if number == TOKENS => Err(Error::format("its tokens are damaged")),
        false if number == STATES => Err(Error::format("its states are damaged")),
        false => Err(Error::format("its keys and values are damaged")),
    }
}

fn read(input: &mut dyn Read, bytes: &mut [u8]) -> Result<()> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => Error::format("it ends too early: it is cut off"),
        _ => Error::new(Status::Io, format!("it cannot be read: {error}")),
    })
}
