//! [`Model`]: what a SentencePiece `tokenizer.model` says.

use super::wire::{Fields, Value};
use crate::error::{Error, Result};

/// How texts become pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Unigram,
    Bpe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    pub text: &'a str,
    pub score: f32,
    pub kind: Kind,
}

#[derive(Debug)]
pub struct Model<'a> {
    pub pieces: Vec<Piece<'a>>,
    pub algorithm: Algorithm,
    pub has_byte_fallback: bool,
    /// `None`: there is no such token.
    pub bos: Option<usize>,
    pub eos: Option<usize>,
    pub normalizer: Normalizer<'a>,
}

#[derive(Clone, Copy, Debug)]
pub struct Normalizer<'a> {
    /// Darts' trie of what characters become; empty: they stay.
    pub character_map: &'a [u8],
    pub adds_prefix: bool,
    pub removes_extra_spaces: bool,
}

const LIMIT_PIECES: usize = 1 << 24;

impl<'a> Model<'a> {
    pub fn read(file: &'a [u8]) -> Result<Model<'a>> {
        let mut model = Model {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            has_byte_fallback: false,
            bos: Some(1),
            eos: Some(2),
            normalizer: Normalizer {
                character_map: &[],
                adds_prefix: true,
                removes_extra_spaces: true,
            },
        };
        for field in Fields::of(file) {
            match field? {
                (1, Value::Bytes(piece)) => model.pieces.push(Piece::read(piece)?),
                (2, Value::Bytes(trainer)) => model.read_trainer(trainer)?,
                (3, Value::Bytes(normalizer)) => model.normalizer.read(normalizer)?,
                _ => {}
            }
            if model.pieces.len() > LIMIT_PIECES {
                return Err(Error::format(format!(
                    "has more than {LIMIT_PIECES} pieces"
                )));
            }
        }
        match model.pieces.is_empty() {
            true => Err(Error::format("has no pieces")),
            false => Ok(model),
        }
    }

    fn read_trainer(&mut self, message: &'a [u8]) -> Result<()> {
        // Negative numbers, which stand for none, are beyond all others.
        let token = |id: u64| usize::try_from(id).ok().filter(|id| *id < LIMIT_PIECES);
        for field in Fields::of(message) {
            match field? {
                (3, Value::Whole(1)) => self.algorithm = Algorithm::Unigram,
                (3, Value::Whole(2)) => self.algorithm = Algorithm::Bpe,
                (3, _) => return Err(unsupported("words or characters as pieces")),
                (24, Value::Whole(1)) => return Err(unsupported("spaces at the ends of pieces")),
                (35, Value::Whole(flag)) => self.has_byte_fallback = flag != 0,
                (41, Value::Whole(id)) => self.bos = token(id),
                (42, Value::Whole(id)) => self.eos = token(id),
                _ => {}
            }
        }
        Ok(())
    }

    pub fn unknown(&self) -> Option<usize> {
        let is_it = |piece: &Piece<'_>| piece.kind == Kind::Unknown;
        self.pieces.iter().position(is_it)
    }

    pub fn text_of(&self, id: Option<usize>) -> Option<&'a str> {
        self.pieces.get(id?).map(|piece| piece.text)
    }
}

impl<'a> Piece<'a> {
    fn read(message: &'a [u8]) -> Result<Piece<'a>> {
        let mut piece = Piece {
            text: "",
            score: 0.0,
            kind: Kind::Normal,
        };
        for field in Fields::of(message) {
            match field? {
                (1, Value::Bytes(text)) => {
                    piece.text = std::str::from_utf8(text).map_err(|error| {
                        Error::format(format!("has a piece that is no UTF-8: {error}"))
                    })?;
                }
                (2, Value::Float(score)) if score.is_finite() => piece.score = score,
                (2, _) => return Err(Error::format("has a score that is no finite number")),
                (3, Value::Whole(kind)) => piece.kind = Kind::of(kind)?,
                _ => {}
            }
        }
        Ok(piece)
    }
}

impl Kind {
    fn of(number: u64) -> Result<Kind> {
        Ok(match number {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => {
                return Err(Error::format(format!(
                    "has a piece of the unknown type {number}"
                )));
            }
        })
    }
}

impl<'a> Normalizer<'a> {
    fn read(&mut self, message: &'a [u8]) -> Result<()> {
        for field in Fields::of(message) {
            match field? {
                (2, Value::Bytes(map)) => self.character_map = map,
                (3, Value::Whole(flag)) => self.adds_prefix = flag != 0,
                (4, Value::Whole(flag)) => self.removes_extra_spaces = flag != 0,
                (5, Value::Whole(0)) => return Err(unsupported("spaces that stay as they are")),
                _ => {}
            }
        }
        Ok(())
    }
}

fn unsupported(what: &str) -> Error {
    Error::unsupported(format!(
        "is a SentencePiece model with {what}, which this version does not read; put the model's \
         tokenizer.json beside it"
    ))
}
