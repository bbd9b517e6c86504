//! [`Fields`]: the fields of a protobuf message.

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Whole(u64),
    Float(f32),
    Bytes(&'a [u8]),
    /// Of eight bytes, which no field here has.
    Wide,
}

/// Number and value, one field after the other. Behind an error there is nothing.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn of(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    fn field(&mut self) -> Result<(u64, Value<'a>)> {
        let tag = self.whole()?;
        let value = match tag & 7 {
            0 => Value::Whole(self.whole()?),
            1 => {
                self.take(8)?;
                Value::Wide
            }
            2 => {
                let length = self.whole()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?.try_into().expect("as many as were asked for");
                Value::Float(f32::from_le_bytes(bytes))
            }
            other => {
                return Err(Error::format(format!(
                    "has a field of the unknown wire type {other}"
                )));
            }
        };
        Ok((tag >> 3, value))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let rest = self.rest;
        let split = usize::try_from(length)
            .ok()
            .and_then(|length| rest.split_at_checked(length));
        let (taken, behind) = split.ok_or_else(|| {
            Error::format(format!(
                "is truncated: {length} more bytes should follow, there are {}",
                rest.len()
            ))
        })?;
        self.rest = behind;
        Ok(taken)
    }

    /// Seven bits per byte, the lowest first; the eighth says that others follow.
    fn whole(&mut self) -> Result<u64> {
        let mut whole = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.take(1)?[0];
            whole |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(whole);
            }
        }
        Err(Error::format("has a number of more than 64 bits"))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}
