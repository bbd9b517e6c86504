//! Text out of a growing list of tokens.
//!
//! A token is not always whole characters, and what it adds may depend on the
//! tokens before it. A [`Detokenizer`] emits text as soon as it can no longer
//! change, in constant time per token.
//!
//! What is emitted, put together, equals [`Tokenizer::decode`] of all tokens,
//! with one exception. A run of byte-fallback tokens that isn't UTF-8 as a whole
//! decodes to one U+FFFD per byte; a stream has emitted the run's complete
//! characters by then and keeps them: only the other bytes become U+FFFD.

use std::sync::Arc;

use super::pieces::{PieceBytes, PieceRules};
use super::tokenizer::Tokenizer;
use crate::error::Result;

/// The text of one stream of tokens.
#[derive(Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    pending: Pending,
    /// What the last call returned.
    emitted: String,
}

/// What came in and isn't out yet.
#[derive(Clone)]
enum Pending {
    Bytes(PendingBytes),
    Window(Window),
}

impl Detokenizer {
    /// With `skip_special`, control tokens add no text.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self {
            pending: Pending::for_rules(tokenizer.rules()),
            tokenizer,
            skip_special,
            emitted: String::new(),
        }
    }

    /// As `new`, inside of a text: nothing is left out at the beginning.
    pub fn continuing(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        let mut detokenizer = Self::new(tokenizer, skip_special);
        if let Pending::Bytes(pending) = &mut detokenizer.pending {
            pending.to_strip = None;
        }
        detokenizer
    }

    /// The text that is certain now and was not before; often empty.
    ///
    /// # Errors
    /// `InvalidArgument` if the id is outside of the vocabulary; the stream then
    /// is as it was before.
    pub fn push(&mut self, id: i32) -> Result<&str> {
        self.emitted.clear();
        let piece = self.tokenizer.piece(id)?;
        if let Some(piece) = piece.filter(|p| !(self.skip_special && self.tokenizer.is_special(p)))
        {
            match &mut self.pending {
                Pending::Bytes(pending) => {
                    pending.push(self.tokenizer.bytes_of(&piece), &mut self.emitted);
                }
                Pending::Window(window) => {
                    window.push(piece, &self.tokenizer, &mut self.emitted)?;
                }
            }
        }
        Ok(&self.emitted)
    }

    /// The rest of the text: U+FFFD for an incomplete character. The next
    /// [`push`](Self::push) begins a new text.
    pub fn finish(&mut self) -> Result<&str> {
        self.emitted.clear();
        match &mut self.pending {
            Pending::Bytes(pending) => pending.replace_rest(&mut self.emitted),
            Pending::Window(window) => window.flush(&self.tokenizer, &mut self.emitted)?,
        }
        self.pending = Pending::for_rules(self.tokenizer.rules());
        Ok(&self.emitted)
    }
}

impl Pending {
    fn for_rules(rules: &PieceRules) -> Self {
        match rules {
            PieceRules::ByteLevel => Pending::Bytes(PendingBytes::default()),
            PieceRules::SentencePiece(rules) => Pending::Bytes(PendingBytes {
                to_strip: rules.strip_start,
                one_mark_per_byte: true,
                ..PendingBytes::default()
            }),
            PieceRules::Contextual => Pending::Window(Window::default()),
        }
    }
}

/// The bytes of a character that isn't complete: three at most between calls.
#[derive(Clone, Default)]
struct PendingBytes {
    bytes: Vec<u8>,
    /// Leading characters still to be left out of the text.
    to_strip: Option<(char, usize)>,
    /// Byte fallback marks every byte it cannot use, UTF-8 decoding a sequence.
    one_mark_per_byte: bool,
}

impl PendingBytes {
    fn push(&mut self, piece: PieceBytes, out: &mut String) {
        match piece {
            PieceBytes::Raw(bytes) => {
                self.bytes.extend(bytes);
                self.emit_characters(out);
            }
            PieceBytes::Fallback(byte) => {
                self.bytes.push(byte);
                self.emit_characters(out);
            }
            PieceBytes::Text(text) => {
                self.replace_rest(out);
                self.emit(&text, out);
            }
        }
    }

    /// All but a last character that more bytes could complete.
    fn emit_characters(&mut self, out: &mut String) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let error = match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.emit(text, out);
                    break;
                }
                Err(error) => error,
            };
            let (valid, invalid) = rest.split_at(error.valid_up_to());
            self.emit(&String::from_utf8_lossy(valid), out);
            let Some(n_invalid) = error.error_len() else {
                self.bytes.extend_from_slice(invalid);
                break;
            };
            self.emit_marks(n_invalid, out);
            rest = &invalid[n_invalid..];
        }
    }

    fn replace_rest(&mut self, out: &mut String) {
        let n_bytes = self.bytes.len();
        self.bytes.clear();
        if n_bytes > 0 {
            self.emit_marks(n_bytes, out);
        }
    }

    fn emit_marks(&mut self, n_bytes: usize, out: &mut String) {
        let n_marks = if self.one_mark_per_byte { n_bytes } else { 1 };
        for _ in 0..n_marks {
            self.emit("\u{fffd}", out);
        }
    }

    fn emit(&mut self, mut text: &str, out: &mut String) {
        while let Some((content, count)) = self.to_strip.filter(|_| !text.is_empty()) {
            let stripped = text.strip_prefix(content).filter(|_| count > 0);
            self.to_strip = stripped.map(|_| (content, count - 1));
            text = stripped.unwrap_or(text);
        }
        out.push_str(text);
    }
}

/// The last tokens: those whose text is out, which decide how the next ones
/// decode, and those which are held back.
#[derive(Clone, Default)]
struct Window {
    pieces: Vec<String>,
    n_context: usize,
    context: String,
}

impl Window {
    /// A character has four bytes; what is still incomplete after this many
    /// tokens will not be completed.
    const MAX_HELD: usize = 16;

    fn push(&mut self, piece: String, tokenizer: &Tokenizer, out: &mut String) -> Result<()> {
        self.pieces.push(piece);
        let text = tokenizer.join_pieces(self.pieces.clone())?;
        let is_incomplete = text.ends_with('\u{fffd}') || text.len() <= self.context.len();
        if is_incomplete && self.pieces.len() - self.n_context < Self::MAX_HELD {
            return Ok(());
        }
        out.push_str(after_common_prefix(&self.context, &text));
        self.pieces.drain(..self.n_context);
        self.n_context = self.pieces.len();
        self.context = tokenizer.join_pieces(self.pieces.clone())?;
        Ok(())
    }

    fn flush(&mut self, tokenizer: &Tokenizer, out: &mut String) -> Result<()> {
        let text = tokenizer.join_pieces(std::mem::take(&mut self.pieces))?;
        out.push_str(after_common_prefix(&self.context, &text));
        Ok(())
    }
}

/// A decoder may rewrite what it gave before; what is out stays.
fn after_common_prefix<'a>(before: &str, after: &'a str) -> &'a str {
    let mut characters = after.char_indices().zip(before.chars());
    let end = after.len().min(before.len());
    let first_change = characters.find(|((_, new), old)| new != old);
    &after[first_change.map_or(end, |((index, _), _)| index)..]
}
