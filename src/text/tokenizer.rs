//! `tokenizer.json`: text to token ids and back.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::OnceLock;

use tokenizers::{AddedToken, AddedVocabulary, Encoding, Model, OffsetType, PreTokenizer, Token};

use super::config::{SpecialToken, TokenizerConfig};
use super::growth::Growths;
use super::pieces::{PieceBytes, PieceRules, byte_level_bytes};
use crate::error::{Error, Result, ResultExt};
use crate::panics;

/// How [`Tokenizer::encode`] treats special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeFlags {
    /// Adds what the checkpoint puts around a text, such as a BOS token. Leave
    /// it off for a rendered chat template, which writes those itself.
    pub add_special: bool,
    /// Reads the spelling of a special token as that token. Leave it off for
    /// text from users: `<|im_end|>` is then ten ordinary characters, and
    /// nobody can end their turn by writing it.
    pub parse_special: bool,
}

/// What one id of the vocabulary stands for.
/// As for models. Some loops go over all ids, whether they have a token or not.
const LIMIT_VOCABULARY: u32 = 1 << 24;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// As it is written in `tokenizer.json`.
    pub piece: String,
    /// What it adds to the middle of a text; a leading space is kept, and the
    /// bytes may be part of a character.
    pub bytes: Vec<u8>,
    /// A control token, which `skip_special` leaves out.
    pub is_special: bool,
    /// One byte of a character that the vocabulary doesn't have.
    pub is_byte_fallback: bool,
}

/// A checkpoint's tokenizer. It never changes; share it between threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    growths: Growths,
    /// The added tokens of `inner`, but blind for special ones.
    plain_vocabulary: AddedVocabulary,
    rules: PieceRules,
    /// What `add_special` puts in front of a text, and behind it.
    prefix: Vec<i32>,
    suffix: Vec<i32>,
    special_ids: [Option<i32>; SpecialToken::COUNT],
    vocab_size: usize,
    estimated_bytes: usize,
    /// Made when vocabularies are first compared.
    fingerprint: OnceLock<u64>,
}

/// Where two vocabularies differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VocabularyDifference {
    pub id: i32,
    /// What the id stands for in each.
    pub pieces: [Option<String>; 2],
}

impl Tokenizer {
    /// # Errors
    /// `NotFound` or `Io` if the file cannot be read, `Format` if it is malformed.
    pub fn from_file(path: &Path, config: &TokenizerConfig) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| Error::io("read", path, &error))?;
        Self::from_bytes(&bytes, config).at(path.display())
    }

    /// # Errors
    /// `Format` if the bytes aren't a `tokenizer.json`; `Unsupported` if it could make
    /// too much of its own tokens.
    pub fn from_bytes(json: &[u8], config: &TokenizerConfig) -> Result<Self> {
        let growths = Growths::of_tokenizer(json)?;
        let build = || Self::build(json, growths, config);
        let mut tokenizer = guarded("this tokenizer cannot be used", build)?;
        tokenizer.apply_overrides(config);
        Ok(tokenizer)
    }

    fn build(json: &[u8], growths: Growths, config: &TokenizerConfig) -> tokenizers::Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json)?;
        inner.with_truncation(None)?;
        inner.with_padding(None);
        disable_cache(&mut inner);
        let undeclared = undeclared_special_tokens(&inner, config);
        inner.add_special_tokens(undeclared)?;

        let mut plain_vocabulary = inner.get_added_vocabulary().clone();
        plain_vocabulary.set_encode_special_tokens(true);
        let vocabulary = inner.get_vocab(true);
        let estimated_bytes = estimated_bytes(&vocabulary);
        let largest_id = vocabulary.into_values().max();
        let largest_id = largest_id.ok_or("its vocabulary is empty")?;
        if largest_id >= LIMIT_VOCABULARY {
            let limit = format!("a vocabulary has at most {LIMIT_VOCABULARY} tokens");
            return Err(format!("its largest token id is {largest_id}; {limit}").into());
        }
        let (prefix, suffix) = affixes(&inner)?;
        Ok(Self {
            growths,
            plain_vocabulary,
            rules: PieceRules::of(inner.get_decoder()),
            prefix,
            suffix,
            special_ids: SpecialToken::ALL.map(|kind| {
                let content = config.special_token(kind)?;
                inner.token_to_id(content).map(|id| id as i32)
            }),
            vocab_size: largest_id as usize + 1,
            estimated_bytes,
            fingerprint: OnceLock::new(),
            inner,
        })
    }

    /// `add_bos_token` and `add_eos_token` say what the file's own template
    /// should have said. Without such a token there is nothing to add.
    fn apply_overrides(&mut self, config: &TokenizerConfig) {
        if let (Some(wanted), Some(bos)) =
            (config.add_bos_token, self.special_token(SpecialToken::Bos))
        {
            match (wanted, self.prefix.first() == Some(&bos)) {
                (true, false) => self.prefix.insert(0, bos),
                (false, true) => drop(self.prefix.remove(0)),
                _ => {}
            }
        }
        if let (Some(wanted), Some(eos)) =
            (config.add_eos_token, self.special_token(SpecialToken::Eos))
        {
            match (wanted, self.suffix.last() == Some(&eos)) {
                (true, false) => self.suffix.push(eos),
                (false, true) => drop(self.suffix.pop()),
                _ => {}
            }
        }
    }

    /// # Errors
    /// `Format` if the tokenizer's own rules fail on this text; `Unsupported` if
    /// they could make too much of it, or if the text spells a special token that
    /// this vocabulary cannot write as ordinary tokens and `parse_special` is off.
    pub fn encode(&self, text: &str, flags: EncodeFlags) -> Result<Vec<i32>> {
        self.growths.encoding.ensure_bounded(text.len())?;
        let encoding = guarded("this text cannot be encoded", || {
            if flags.parse_special {
                self.inner.encode_fast(text, false)
            } else {
                self.encode_plain(text)
            }
        })?;
        let ids = encoding.get_ids().iter().map(|&id| id as i32);
        if !flags.add_special {
            return Ok(ids.collect());
        }
        let before = self.prefix.iter().copied();
        let after = self.suffix.iter().copied();
        Ok(before.chain(ids).chain(after).collect())
    }

    /// The whole text at once, as transformers decodes it: ids without a token
    /// add nothing, bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// `InvalidArgument` if an id is not below [`vocab_size`](Self::vocab_size).
    pub fn decode(&self, ids: &[i32], skip_special: bool) -> Result<String> {
        let mut pieces = Vec::with_capacity(ids.len());
        for &id in ids {
            let piece = self.piece(id)?;
            pieces.extend(piece.filter(|piece| !(skip_special && self.is_special(piece))));
        }
        self.join_pieces(pieces)
    }

    /// `None` for an id that has no token, in the vocabulary or beyond it.
    pub fn token_info(&self, id: i32) -> Option<TokenInfo> {
        let piece = self.piece(id).ok().flatten()?;
        let bytes = self.bytes_of(&piece);
        Some(TokenInfo {
            is_special: self.is_special(&piece),
            is_byte_fallback: matches!(bytes, PieceBytes::Fallback(_)),
            bytes: match bytes {
                PieceBytes::Raw(bytes) => bytes,
                PieceBytes::Fallback(byte) => vec![byte],
                PieceBytes::Text(text) => text.into_bytes(),
            },
            piece,
        })
    }

    /// One more than the largest id; below it, some ids may have no token.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Counts ids below `vocab_size` as ids without a token: models pad their
    /// embedding beyond what the tokenizer knows.
    #[must_use]
    pub fn padded_to(mut self, vocab_size: usize) -> Self {
        self.vocab_size = self.vocab_size.max(vocab_size);
        self
    }

    /// The first id that stands for another token to `other`, if there is one. Ids
    /// without a token are all the same.
    pub fn first_difference(&self, other: &Tokenizer) -> Option<VocabularyDifference> {
        if self.fingerprint() == other.fingerprint() {
            return None;
        }
        let ids = 0..self.vocab_size.max(other.vocab_size) as u32;
        let of_both = ids.map(|id| (id, [self, other].map(|one| one.inner.id_to_token(id))));
        let mut different = of_both.filter(|(_, [a, b])| a != b);
        different.next().map(|(id, pieces)| VocabularyDifference {
            id: id as i32,
            pieces,
        })
    }

    /// The same for the same tokens with the same ids.
    fn fingerprint(&self) -> u64 {
        *self.fingerprint.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            for id in 0..self.vocab_size as u32 {
                if let Some(piece) = self.inner.id_to_token(id) {
                    (id, piece).hash(&mut hasher);
                }
            }
            hasher.finish()
        })
    }

    /// Bytes that the vocabulary takes, estimated from its entries.
    pub fn estimated_bytes(&self) -> usize {
        self.estimated_bytes
    }

    /// The id of a token with a role, if the checkpoint has one.
    pub fn special_token(&self, kind: SpecialToken) -> Option<i32> {
        self.special_ids[kind as usize]
    }

    /// The id of a token by its exact spelling in `tokenizer.json`.
    pub fn token_id(&self, piece: &str) -> Option<i32> {
        self.inner.token_to_id(piece).map(|id| id as i32)
    }

    /// Whether a token stands for the same bytes wherever it is, but for a space in front
    /// of a whole text.
    pub fn has_fixed_bytes(&self) -> bool {
        !matches!(self.rules, PieceRules::Contextual)
    }

    pub(super) fn rules(&self) -> &PieceRules {
        &self.rules
    }

    /// The piece of an id that is in range; some ids have none.
    pub(super) fn piece(&self, id: i32) -> Result<Option<String>> {
        let index = u32::try_from(id).ok();
        let index = index.filter(|&index| (index as usize) < self.vocab_size);
        let index = index.ok_or_else(|| {
            let last = self.vocab_size - 1;
            Error::invalid(format!(
                "token id {id} is outside of 0 to {last}, the vocabulary"
            ))
        })?;
        Ok(self.inner.id_to_token(index))
    }

    pub(super) fn is_special(&self, piece: &str) -> bool {
        self.inner.get_added_vocabulary().is_special_token(piece)
    }

    pub(super) fn bytes_of(&self, piece: &str) -> PieceBytes {
        match &self.rules {
            PieceRules::ByteLevel => PieceBytes::Raw(byte_level_bytes(piece)),
            PieceRules::SentencePiece(rules) => rules.bytes_of(piece),
            PieceRules::Contextual => PieceBytes::Text(self.text_after_itself(piece)),
        }
    }

    /// What a second `piece` adds to a first one.
    fn text_after_itself(&self, piece: &str) -> String {
        let join = |n| {
            self.join_pieces(vec![piece.to_owned(); n])
                .unwrap_or_default()
        };
        let (once, twice) = (join(1), join(2));
        twice.strip_prefix(&once).unwrap_or(&once).to_owned()
    }

    /// Runs the checkpoint's decoder.
    pub(super) fn join_pieces(&self, pieces: Vec<String>) -> Result<String> {
        use tokenizers::Decoder;
        // Some decoders panic without any piece.
        if pieces.is_empty() {
            return Ok(String::new());
        }
        let bytes = pieces.iter().map(String::len).sum();
        self.growths.decoding.ensure_bounded(bytes)?;
        match self.inner.get_decoder() {
            Some(decoder) => guarded("these tokens cannot be decoded", || decoder.decode(pieces)),
            None => Ok(pieces.join(" ")),
        }
    }

    /// The steps of `tokenizers::Tokenizer::encode`, without control tokens.
    fn encode_plain(&self, text: &str) -> tokenizers::Result<Encoding> {
        let normalizer = self.inner.get_normalizer();
        let mut splits = self
            .plain_vocabulary
            .extract_and_normalize(normalizer, text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut splits)?;
        }
        splits.tokenize(|split| self.tokenize_plain(split.get()))?;
        splits.into_encoding(None, 0, OffsetType::None)
    }

    /// The added vocabulary isn't the only way to a control token: a model may
    /// have its spelling as a piece, like any other (Unigram and WordLevel do).
    /// Such a piece is spelled with smaller ones.
    fn tokenize_plain(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let mut tokens = Vec::new();
        for token in self.inner.get_model().tokenize(text)? {
            let (start, end) = token.offsets;
            match text.get(start..end) {
                Some(span) if span == token.value && self.is_special(span) => {
                    let first_len = span.chars().next().map_or(0, char::len_utf8);
                    if first_len == 0 || first_len == span.len() {
                        return Err(NotPlain(span.to_owned()).into());
                    }
                    tokens.extend(self.tokenize_plain(&span[..first_len])?);
                    tokens.extend(self.tokenize_plain(&span[first_len..])?);
                }
                _ => tokens.push(token),
            }
        }
        Ok(tokens)
    }
}

/// A control token of one character: there is nothing smaller to spell it with.
#[derive(Debug, thiserror::Error)]
#[error("it has the control token {0:?}, which this vocabulary cannot write as plain text")]
struct NotPlain(String);

/// Runs code of the tokenizers crate, which panics on some malformed files.
fn guarded<T>(failure: &str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    panics::catch(run)
        .unwrap_or_else(|_| Err("tokenizer.json declares something inconsistent".into()))
        .map_err(|error| {
            let message = format!("{failure}: {error}");
            match error.downcast_ref::<NotPlain>() {
                Some(_) => Error::unsupported(message),
                None => Error::format(message),
            }
        })
}

/// The BPE model remembers 10,000 words in every thread that encodes, and gives
/// that memory back when the thread ends, not when the tokenizer is dropped.
fn disable_cache(inner: &mut tokenizers::Tokenizer) {
    let mut model = inner.get_model().clone();
    model.resize_cache(0);
    inner.with_model(model);
}

/// Roles given to tokens that `tokenizer.json` doesn't declare as special.
fn undeclared_special_tokens(
    inner: &tokenizers::Tokenizer,
    config: &TokenizerConfig,
) -> Vec<AddedToken> {
    let added = inner.get_added_vocabulary().get_vocab();
    let contents = SpecialToken::ALL
        .into_iter()
        .filter_map(|kind| config.special_token(kind));
    contents
        .filter(|&content| !added.contains_key(content))
        .filter(|content| inner.get_model().token_to_id(content).is_some())
        .map(|content| AddedToken::from(content, true))
        .collect()
}

/// What a vocabulary takes in the tokenizers crate: two tables, from pieces to ids
/// and back, each with its own copy of the pieces, and a table of merges with about
/// as many entries.
fn estimated_bytes(vocabulary: &HashMap<String, u32>) -> usize {
    // The least that a C library's allocator takes for a short text, and its step.
    const LEAST_BLOCK: usize = 32;
    const BLOCK_STEP: usize = 16;
    const BLOCK_HEADER: usize = 8;
    // A hash table is at most 7/8 full, has a power of two of slots, and a byte of
    // its own for each.
    let slots = (vocabulary.len() * 8 / 7).next_power_of_two();
    let table = |entry_bytes: usize| slots * (entry_bytes + 1);
    let block = |piece: &String| {
        let bytes = (piece.len() + BLOCK_HEADER).next_multiple_of(BLOCK_STEP);
        bytes.max(LEAST_BLOCK)
    };
    let pieces: usize = vocabulary.keys().map(block).sum();
    2 * (table(size_of::<(String, u32)>()) + pieces) + table(size_of::<[u32; 4]>())
}

/// Lets the post-processor work on a placeholder: what is around it belongs
/// around every text.
fn affixes(inner: &tokenizers::Tokenizer) -> tokenizers::Result<(Vec<i32>, Vec<i32>)> {
    const TEXT: u32 = u32::MAX;
    let text = Encoding::from_tokens(vec![Token::new(TEXT, String::new(), (0, 0))], 0);
    let encoding = inner.post_process(text, None, true)?;
    let ids: Vec<i32> = encoding.get_ids().iter().map(|&id| id as i32).collect();
    let mut around = ids.splitn(2, |&id| id as u32 == TEXT).map(<[i32]>::to_vec);
    match (around.next(), around.next()) {
        (Some(prefix), Some(suffix)) => {
            let is_unknown = |id: &&i32| inner.id_to_token(**id as u32).is_none();
            match prefix.iter().chain(&suffix).find(is_unknown) {
                None => Ok((prefix, suffix)),
                Some(id) => {
                    let id = *id as u32;
                    Err(format!("its post_processor adds token {id}, which does not exist").into())
                }
            }
        }
        _ => Err("its post_processor drops the text".into()),
    }
}

#[cfg(test)]
mod tests;
