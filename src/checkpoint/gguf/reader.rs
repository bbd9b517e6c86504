//! [`Reader`]: the little-endian items of a GGUF header, none of which may lie
//! beyond the end of the file.

use crate::error::{Error, Result};

/// A place in the bytes of a file.
#[derive(Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Reader<'a> {
        Reader { bytes, at }
    }

    /// In bytes from the beginning of the file.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| {
            Error::format(format!(
                "is truncated: the header has {length} more bytes at {}, the file has {}",
                self.at,
                self.bytes.len()
            ))
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.try_into().expect("as many as were asked for"))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length, and as many bytes of UTF-8.
    pub fn text(&mut self, limit_bytes: u64) -> Result<&'a str> {
        let at = self.at;
        let length = self.u64()?;
        if length > limit_bytes {
            return Err(Error::format(format!(
                "has a text of {length} bytes at {at}; the limit is {limit_bytes}"
            )));
        }
        std::str::from_utf8(self.take(length)?).map_err(|error| {
            Error::format(format!("has a text at {at} that is not UTF-8: {error}"))
        })
    }
}
