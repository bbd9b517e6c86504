//! Metadata of a GGUF header: what a key has.

use super::reader::Reader;
use crate::error::{Error, Result};

const LIMIT_TEXT_BYTES: u64 = 64 << 20;
const LIMIT_ITEMS: u64 = 1 << 24;

/// The type of an item, by its number in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn read(reader: &mut Reader<'_>) -> Result<Kind> {
        const BY_NUMBER: [Kind; 13] = [
            Kind::U8,
            Kind::I8,
            Kind::U16,
            Kind::I16,
            Kind::U32,
            Kind::I32,
            Kind::F32,
            Kind::Bool,
            Kind::Text,
            Kind::Array,
            Kind::U64,
            Kind::I64,
            Kind::F64,
        ];
        let number = reader.u32()?;
        let kind = BY_NUMBER.get(number as usize).copied();
        kind.ok_or_else(|| Error::format(format!("has a value of the unknown type {number}")))
    }

    /// Bytes of an item; `None`: they differ.
    fn bytes(self) -> Option<u64> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Text | Kind::Array => None,
        }
    }
}

/// A value in the bytes of its file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Bool(bool),
    Whole(i128),
    Float(f64),
    Text(&'a str),
    Array(Array<'a>),
}

/// Items of one type, none of which was looked at but for its length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    kind: Kind,
    n: usize,
    bytes: &'a [u8],
}

impl<'a> Value<'a> {
    /// `file` is all of the file's bytes.
    pub fn read(reader: &mut Reader<'a>, file: &'a [u8]) -> Result<Value<'a>> {
        match Kind::read(reader)? {
            Kind::Array => Array::read(reader, file).map(Value::Array),
            kind => Value::item(kind, reader),
        }
    }

    fn item(kind: Kind, reader: &mut Reader<'a>) -> Result<Value<'a>> {
        Ok(match kind {
            Kind::U8 => Value::Whole(reader.u8()?.into()),
            Kind::I8 => Value::Whole((reader.u8()? as i8).into()),
            Kind::U16 => Value::Whole(reader.u16()?.into()),
            Kind::I16 => Value::Whole((reader.u16()? as i16).into()),
            Kind::U32 => Value::Whole(reader.u32()?.into()),
            Kind::I32 => Value::Whole((reader.u32()? as i32).into()),
            Kind::U64 => Value::Whole(reader.u64()?.into()),
            Kind::I64 => Value::Whole((reader.u64()? as i64).into()),
            Kind::F32 => Value::Float(f32::from_bits(reader.u32()?).into()),
            Kind::F64 => Value::Float(f64::from_bits(reader.u64()?)),
            Kind::Bool => Value::Bool(reader.u8()? != 0),
            Kind::Text => Value::Text(reader.text(LIMIT_TEXT_BYTES)?),
            Kind::Array => return Err(Error::unsupported("has arrays of arrays")),
        })
    }
}

impl<'a> Array<'a> {
    fn read(reader: &mut Reader<'a>, file: &'a [u8]) -> Result<Array<'a>> {
        let kind = Kind::read(reader)?;
        let n = reader.u64()?;
        if n > LIMIT_ITEMS {
            return Err(Error::format(format!(
                "has a list of {n} items; the limit is {LIMIT_ITEMS}"
            )));
        }
        let start = reader.position();
        match kind.bytes() {
            Some(bytes) => drop(reader.take(n * bytes)?),
            None => {
                for _ in 0..n {
                    Value::item(kind, reader)?;
                }
            }
        }
        Ok(Array {
            kind,
            n: n as usize,
            bytes: &file[start..reader.position()],
        })
    }

    pub fn len(&self) -> usize {
        self.n
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn items(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (kind, mut reader) = (self.kind, Reader::new(self.bytes, 0));
        (0..self.n).map(move |_| Value::item(kind, &mut reader).expect("read before"))
    }
}
