//! Constraints: a kind, its text, and tokens that try to go on with it.

use std::sync::{Arc, OnceLock};

use umrt::error::{Error, Result};
use umrt::grammar::{Constraint, ConstraintKind, Vocabulary};
use umrt::text::{SpecialToken, Tokenizer, TokenizerConfig};

use super::{fixtures, join, parts, read};

const MOST_TOKENS: usize = 24;

/// A kind by its name, a text, and bytes that choose among the allowed tokens.
pub fn run(input: &[u8]) -> Result<()> {
    let [kind, text, choices] = parts(input);
    let kind = match kind {
        b"schema" => ConstraintKind::JsonSchema,
        b"regex" => ConstraintKind::Regex,
        b"grammar" => ConstraintKind::Grammar,
        _ => return Err(Error::invalid("no such kind")),
    };
    let text = std::str::from_utf8(text).map_err(|_| Error::invalid("is not UTF-8"))?;
    let constraint = Constraint::new(vocabulary(), kind, text)?;
    let mut matcher = constraint.begin();
    for choice in choices.iter().take(MOST_TOKENS) {
        if matcher.is_complete() {
            break;
        }
        let mut ids = Vec::new();
        let allowed = matcher.allowed()?;
        allowed.for_each_below(usize::MAX, |id| ids.push(id as i32));
        let chosen = ids[usize::from(*choice) % ids.len()];
        // It may be none that is allowed.
        let _refused = matcher.accept(i32::from(*choice) - 1);
        if !matcher.is_complete() && matcher.allowed()?.contains(chosen) {
            matcher.accept(chosen)?;
        }
    }
    Ok(())
}

fn vocabulary() -> &'static Arc<Vocabulary> {
    static VOCABULARY: OnceLock<Arc<Vocabulary>> = OnceLock::new();
    VOCABULARY.get_or_init(|| {
        let folder = fixtures("models/llama3-chat-f16");
        let config = read(&folder.join("tokenizer_config.json"));
        let config = TokenizerConfig::from_json(&String::from_utf8_lossy(&config));
        let json = read(&folder.join("tokenizer.json"));
        let tokenizer = Tokenizer::from_bytes(&json, &config.expect("a configuration"));
        let tokenizer = tokenizer.expect("a tokenizer");
        let end = tokenizer.special_token(SpecialToken::Eos).expect("an end");
        Arc::new(Vocabulary::new(&tokenizer, &[end]).expect("a vocabulary"))
    })
}

pub fn seeds() -> Vec<Vec<u8>> {
    let schemas = read(&fixtures("constraints/schemas.json"));
    let schemas: Vec<serde_json::Value> = serde_json::from_slice(&schemas).expect("schemas");
    let schemas = schemas.iter().map(|schema| ("schema", schema.to_string()));
    let others = [
        ("regex", r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])"),
        ("regex", r"(?i)[a-z\p{Greek}]{1,8}(?:, \w+)*\.?"),
        (
            "grammar",
            "start: sum\nsum: atom (\"+\" atom)*\natom: /[0-9]+/ | \"(\" sum \")\"",
        ),
        (
            "grammar",
            "%ignore / +/\nstart: WORD{1,3} %json {\"type\": \"null\"}\nWORD: /[a-z]+/",
        ),
    ];
    let others = others.map(|(kind, text)| (kind, text.to_owned()));
    let seed = |(kind, text): (&str, String)| {
        join(&[
            kind.as_bytes(),
            text.as_bytes(),
            b"\x01\x20\x07\x40\x03\x99\x11",
        ])
    };
    schemas.chain(others).map(seed).collect()
}
