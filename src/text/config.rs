//! The part of `tokenizer_config.json` that matters at run time.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A token with a role. The numbers are those of the C API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum SpecialToken {
    Bos = 0,
    Eos = 1,
    Unk = 2,
    Sep = 3,
    Pad = 4,
    Cls = 5,
    Mask = 6,
}

impl SpecialToken {
    pub const COUNT: usize = 7;

    pub const ALL: [SpecialToken; Self::COUNT] = [
        SpecialToken::Bos,
        SpecialToken::Eos,
        SpecialToken::Unk,
        SpecialToken::Sep,
        SpecialToken::Pad,
        SpecialToken::Cls,
        SpecialToken::Mask,
    ];

    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i32 == code)
    }

    /// Its key in `tokenizer_config.json` and its variable in chat templates.
    pub fn key(self) -> &'static str {
        match self {
            SpecialToken::Bos => "bos_token",
            SpecialToken::Eos => "eos_token",
            SpecialToken::Unk => "unk_token",
            SpecialToken::Sep => "sep_token",
            SpecialToken::Pad => "pad_token",
            SpecialToken::Cls => "cls_token",
            SpecialToken::Mask => "mask_token",
        }
    }
}

/// One of a checkpoint's chat templates. A single one is called "default".
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NamedTemplate {
    pub name: String,
    #[serde(rename = "template")]
    pub source: String,
}

impl NamedTemplate {
    pub const DEFAULT: &'static str = "default";

    pub fn default_of(source: impl Into<String>) -> Self {
        Self {
            name: Self::DEFAULT.into(),
            source: source.into(),
        }
    }
}

/// What `tokenizer_config.json` says; the default is an absent file.
#[derive(Clone, Debug, Default)]
pub struct TokenizerConfig {
    special_tokens: [Option<String>; SpecialToken::COUNT],
    /// Overrides whether `tokenizer.json` puts the BOS token in front.
    pub add_bos_token: Option<bool>,
    /// Overrides whether `tokenizer.json` puts the EOS token at the end.
    pub add_eos_token: Option<bool>,
    /// Tokens with a content and rules of their own, by id.
    pub added_tokens: BTreeMap<u32, Map<String, Value>>,
    /// What follows an added token begins with a space, as texts do.
    pub is_legacy: Option<bool>,
    /// From the `chat_template` key. A checkpoint with a `chat_template.jinja`
    /// means that file instead: put its text here.
    pub chat_templates: Vec<NamedTemplate>,
}

impl TokenizerConfig {
    /// # Errors
    /// `Format` if the text is not JSON or a known key has the wrong type.
    pub fn from_json(json: &str) -> Result<Self> {
        let file: ConfigFile = serde_json::from_str(json)
            .map_err(|error| Error::format(format!("tokenizer_config.json: {error}")))?;
        let special_tokens = [
            file.bos_token,
            file.eos_token,
            file.unk_token,
            file.sep_token,
            file.pad_token,
            file.cls_token,
            file.mask_token,
        ];
        Ok(Self {
            special_tokens: special_tokens.map(|token| token.map(TokenText::into_content)),
            add_bos_token: file.add_bos_token,
            add_eos_token: file.add_eos_token,
            added_tokens: file.added_tokens_decoder.unwrap_or_default(),
            is_legacy: file.legacy,
            chat_templates: file
                .chat_template
                .map_or_else(Vec::new, Templates::into_named),
        })
    }

    /// The same where this token is known, or else with this one.
    #[must_use]
    pub fn or_token(mut self, kind: SpecialToken, content: Option<&str>) -> Self {
        let token = &mut self.special_tokens[kind as usize];
        *token = token.take().or_else(|| content.map(str::to_owned));
        self
    }

    pub fn special_token(&self, kind: SpecialToken) -> Option<&str> {
        self.special_tokens[kind as usize].as_deref()
    }
}

#[derive(Deserialize)]
struct ConfigFile {
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
    unk_token: Option<TokenText>,
    sep_token: Option<TokenText>,
    pad_token: Option<TokenText>,
    cls_token: Option<TokenText>,
    mask_token: Option<TokenText>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    added_tokens_decoder: Option<BTreeMap<u32, Map<String, Value>>>,
    legacy: Option<bool>,
    chat_template: Option<Templates>,
}

/// A token is written as its text or as an object with a `content`.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Plain(String),
    Described { content: String },
}

impl TokenText {
    fn into_content(self) -> String {
        match self {
            TokenText::Plain(content) | TokenText::Described { content } => content,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

impl Templates {
    fn into_named(self) -> Vec<NamedTemplate> {
        match self {
            Templates::One(source) => vec![NamedTemplate::default_of(source)],
            Templates::Named(templates) => templates,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[test]
    fn tokens_are_read_in_both_notations() {
        let config = TokenizerConfig::from_json(
            r#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false},
                "pad_token": null, "add_bos_token": true, "model_max_length": 1e30}"#,
        )
        .unwrap();
        assert_eq!(config.special_token(SpecialToken::Bos), Some("<s>"));
        assert_eq!(config.special_token(SpecialToken::Eos), Some("</s>"));
        assert_eq!(config.special_token(SpecialToken::Pad), None);
        assert_eq!(config.add_bos_token, Some(true));
        assert_eq!(config.add_eos_token, None);
    }

    #[test]
    fn templates_are_read_in_both_notations() {
        let one = TokenizerConfig::from_json(r#"{"chat_template": "x"}"#).unwrap();
        assert_eq!(one.chat_templates, [NamedTemplate::default_of("x")]);
        let several = TokenizerConfig::from_json(
            r#"{"chat_template": [{"name": "default", "template": "x"},
                                  {"name": "tool_use", "template": "y"}]}"#,
        )
        .unwrap();
        assert_eq!(several.chat_templates.len(), 2);
        assert_eq!(several.chat_templates[1].source, "y");
    }

    #[test]
    fn malformed_config_says_which_file() {
        for json in [
            "",
            "[]",
            r#"{"bos_token": 1}"#,
            r#"{"add_bos_token": "yes"}"#,
        ] {
            let error = TokenizerConfig::from_json(json).unwrap_err();
            assert_eq!(error.status(), Status::Format);
            assert!(error.to_string().starts_with("tokenizer_config.json: "));
        }
    }

    #[test]
    fn codes_round_trip() {
        for (code, kind) in (0..).zip(SpecialToken::ALL) {
            assert_eq!(SpecialToken::from_code(code), Some(kind));
        }
        assert_eq!(SpecialToken::from_code(-1), None);
    }
}
