//! How the pieces of a vocabulary become bytes.
//!
//! Nearly every language model's tokenizer decodes in one of two ways in which
//! a token always stands for the same bytes. Those are recognised here and
//! written down once; all other decoders are asked about a window of tokens.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::normalizers::replace::ReplacePattern;

/// What kind of decoder `tokenizer.json` declares.
#[derive(Debug)]
pub enum PieceRules {
    /// GPT-2's alphabet: each character of a piece stands for one byte.
    ByteLevel,
    SentencePiece(SentencePiece),
    /// What a token means depends on the tokens before it.
    Contextual,
}

/// Replace, byte fallback, fuse, strip: what converted SentencePiece models declare.
#[derive(Debug, Default)]
pub struct SentencePiece {
    /// In their order, `("▁", " ")` as a rule.
    replacements: Vec<(String, String)>,
    has_byte_fallback: bool,
    /// This many of this character go from the beginning of the whole text.
    pub strip_start: Option<(char, usize)>,
}

/// One token's share of the text.
#[derive(Debug, PartialEq, Eq)]
pub enum PieceBytes {
    /// May begin or end in the middle of a character.
    Raw(Vec<u8>),
    /// One byte of a character that the vocabulary doesn't have.
    Fallback(u8),
    Text(String),
}

impl PieceRules {
    pub fn of(decoder: Option<&DecoderWrapper>) -> Self {
        let stages = match decoder {
            Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders(),
            Some(single) => std::slice::from_ref(single),
            None => return PieceRules::Contextual,
        };
        match stages {
            [DecoderWrapper::ByteLevel(_)] => PieceRules::ByteLevel,
            stages => {
                SentencePiece::of(stages).map_or(PieceRules::Contextual, PieceRules::SentencePiece)
            }
        }
    }
}

impl SentencePiece {
    fn of(stages: &[DecoderWrapper]) -> Option<Self> {
        let mut rules = Self::default();
        let mut stages = stages.iter().peekable();
        while let Some(DecoderWrapper::Replace(replace)) = stages.peek() {
            rules.replacements.push(literal_replacement(replace)?);
            stages.next();
        }
        rules.has_byte_fallback = stages
            .next_if(|stage| matches!(stage, DecoderWrapper::ByteFallback(_)))
            .is_some();
        stages.next_if(|stage| matches!(stage, DecoderWrapper::Fuse(_)))?;
        if let Some(DecoderWrapper::Strip(strip)) = stages.peek() {
            if strip.stop > 0 {
                return None;
            }
            rules.strip_start = Some((strip.content, strip.start));
            stages.next();
        }
        stages.next().is_none().then_some(rules)
    }

    pub fn bytes_of(&self, piece: &str) -> PieceBytes {
        let mut text = piece.to_owned();
        for (from, to) in &self.replacements {
            text = text.replace(from, to);
        }
        match self.fallback_byte(&text) {
            Some(byte) => PieceBytes::Fallback(byte),
            None => PieceBytes::Text(text),
        }
    }

    fn fallback_byte(&self, text: &str) -> Option<u8> {
        let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
        let is_byte = self.has_byte_fallback && digits.len() == 2;
        u8::from_str_radix(digits, 16).ok().filter(|_| is_byte)
    }
}

fn literal_replacement(
    replace: &tokenizers::normalizers::replace::Replace,
) -> Option<(String, String)> {
    // The pattern is private, but part of what is serialized.
    let mut fields = serde_json::to_value(replace).ok()?;
    let pattern = serde_json::from_value(fields.get_mut("pattern")?.take()).ok()?;
    match pattern {
        ReplacePattern::String(from) if !from.is_empty() => Some((from, replace.content.clone())),
        _ => None,
    }
}

/// A piece with a character outside of the alphabet is an added token: it
/// stands for itself.
pub fn byte_level_bytes(piece: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = piece.chars().map(byte_level_byte).collect();
    bytes.unwrap_or_else(|| piece.as_bytes().to_vec())
}

/// GPT-2's `bytes_to_unicode`, backwards: printable Latin-1 stands for itself,
/// the 68 other bytes were given the characters from U+0100 on, in their order.
fn byte_level_byte(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    fn rules(json: &str) -> PieceRules {
        PieceRules::of(Some(&serde_json::from_str(json).unwrap()))
    }

    const LLAMA_2: &str = r#"{"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#;

    #[test]
    fn byte_alphabet_is_complete() {
        let alphabet = ByteLevel::alphabet();
        let mut bytes: Vec<u8> = alphabet.into_iter().filter_map(byte_level_byte).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_level_bytes("Ġé"), b" \xe9");
        assert_eq!(byte_level_bytes("<｜end｜>"), "<｜end｜>".as_bytes());
    }

    #[test]
    fn common_decoders_are_recognised() {
        let byte_level = r#"{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true}"#;
        assert!(matches!(rules(byte_level), PieceRules::ByteLevel));
        let PieceRules::SentencePiece(llama) = rules(LLAMA_2) else {
            panic!("Llama 2's decoder was not recognised");
        };
        assert_eq!(llama.strip_start, Some((' ', 1)));
        assert_eq!(llama.bytes_of("▁a▁b"), PieceBytes::Text(" a b".into()));
        assert_eq!(llama.bytes_of("<0xE5>"), PieceBytes::Fallback(0xe5));
        assert_eq!(llama.bytes_of("<0xE5"), PieceBytes::Text("<0xE5".into()));
    }

    #[test]
    fn other_decoders_are_contextual() {
        for json in [
            r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}"#,
            r###"{"type": "WordPiece", "prefix": "##", "cleanup": true}"###,
            r#"{"type": "Sequence", "decoders": [{"type": "ByteFallback"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#,
            r#"{"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"},
                {"type": "Fuse"}]}"#,
            r#"{"type": "Sequence", "decoders": [{"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 0, "stop": 1}]}"#,
        ] {
            assert!(matches!(rules(json), PieceRules::Contextual), "{json}");
        }
        assert!(matches!(PieceRules::of(None), PieceRules::Contextual));
    }
}
