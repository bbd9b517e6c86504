//! JSON as model directories contain it, with the bare `NaN` and `Infinity` that
//! Python's `json` module writes.

use std::borrow::Cow;

use serde_json::Value;

use crate::error::{Error, Result};

const NON_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Parses `bytes`; a bare `NaN`, `Infinity` or `-Infinity` becomes a string of
/// that spelling, which [`as_f64`] reads back as the number.
pub(super) fn parse(bytes: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Error::format(format!("is not UTF-8: {error}")))?;
    serde_json::from_str(&quote_non_finite(text))
        .map_err(|error| Error::format(format!("is not valid JSON: {}", clip(&error.to_string()))))
}

/// The number in `value`, where a non-finite one may be spelled as a string.
pub(super) fn as_f64(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            "NaN" => Some(f64::NAN),
            _ => None,
        },
        _ => None,
    }
}

/// At most 200 characters of `text` on one line, fit for an error message.
pub(super) fn clip(text: &str) -> String {
    const LIMIT_CHARS: usize = 200;
    let mut clipped: String = text
        .chars()
        .take(LIMIT_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(LIMIT_CHARS).is_some() {
        clipped.push('…');
    }
    clipped
}

fn quote_non_finite(text: &str) -> Cow<'_, str> {
    if !text.contains("NaN") && !text.contains("Infinity") {
        return Cow::Borrowed(text);
    }
    let mut quoted = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(next) = rest.find(['"', '-', 'I', 'N']) {
        quoted.push_str(&rest[..next]);
        rest = &rest[next..];
        let (token_bytes, quote) = next_token(rest);
        let (token, after) = rest.split_at(token_bytes);
        if quote {
            quoted.extend(["\"", token, "\""]);
        } else {
            quoted.push_str(token);
        }
        rest = after;
    }
    quoted.push_str(rest);
    Cow::Owned(quoted)
}

/// Length of the token that `text` starts with, and whether to quote it.
fn next_token(text: &str) -> (usize, bool) {
    if text.starts_with('"') {
        return (string_bytes(text), false);
    }
    match NON_FINITE.iter().find(|word| text.starts_with(**word)) {
        Some(word) => (word.len(), true),
        None => (1, false),
    }
}

/// Length of the JSON string that `text` starts with, both quotes included, or
/// of all of `text` when the string doesn't end.
fn string_bytes(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quoted(text: &str) -> String {
        quote_non_finite(text).into_owned()
    }

    #[test]
    fn bare_non_finite_numbers_are_read_as_numbers() {
        let value = parse(br#"{"limit": [0.0, Infinity, -Infinity], "x": NaN}"#).unwrap();
        assert_eq!(as_f64(&value["limit"][1]), Some(f64::INFINITY));
        assert_eq!(as_f64(&value["limit"][2]), Some(f64::NEG_INFINITY));
        assert!(as_f64(&value["x"]).unwrap().is_nan());
    }

    #[test]
    fn text_inside_strings_is_left_alone() {
        let text = r#"{"a \" NaN": "-Infinity \\", "b": "NaN\\\""}"#;
        assert_eq!(quoted(text), text);
    }

    #[test]
    fn words_that_only_begin_alike_stay_errors() {
        for text in [
            "[Infinityx]",
            "[xNaN]",
            "[--Infinity]",
            "[\"NaN]",
            "[NaNNaN]",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_instead_of_overflowing_the_stack() {
        let text = "[".repeat(1_000_000);
        let error = parse(text.as_bytes()).unwrap_err();
        assert!(error.message().contains("recursion limit"), "{error}");
    }

    #[test]
    fn clipped_messages_are_one_short_line() {
        let clipped = clip(&"é\n".repeat(500));
        assert_eq!(clipped.chars().count(), 201);
        assert!(!clipped.contains('\n'));
    }

    proptest! {
        #[test]
        fn valid_json_means_the_same_after_quoting(text in r#"([\[\]{}",:\\NaInfity\-0-9 é]|NaN|Infinity){0,60}"#) {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert_eq!(serde_json::from_str::<Value>(&quoted(&text)).unwrap(), value);
            }
        }
    }
}
