//! Values as Python writes them: `str()` of floats, and `json.dumps`.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind, Output};

/// Writes a value to the prompt. The engine agrees with Python but for floats.
pub fn write_value(out: &mut Output<'_>, value: &Value) -> Result<(), Error> {
    let written = match as_float(value) {
        Some(float) => out.write_str(&float_repr(float)),
        None => write!(out, "{value}"),
    };
    written.map_err(Error::from)
}

/// The `string` filter.
pub fn to_string(value: &Value) -> String {
    as_float(value).map_or_else(|| value.to_string(), float_repr)
}

/// The `length` filter: what isn't there has no items.
pub fn length(value: &Value) -> Result<usize, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        kind => value
            .len()
            .ok_or_else(|| invalid(format!("{kind} has no length"))),
    }
}

/// The tests `iterable` and `sequence`, which agree in Jinja for all that JSON
/// has: strings and mappings are both. `none` isn't, though the engine loops
/// over it.
pub fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// The `tojson` filter of transformers: `json.dumps`, with nothing escaped for
/// HTML, and its arguments.
pub fn tojson(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match positional.get(index) {
            Some(value) => Some(value.clone()),
            None => named.get(name)?,
        };
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ensure_ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = argument(1, "indent")?.map(indent_unit).transpose()?;
    let separators = match argument(2, "separators")? {
        Some(pair) => separator_pair(&pair)?,
        // With an indent the end of a line follows the comma.
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let sort_keys = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    let mut dumper = JsonDumper {
        out: String::new(),
        ensure_ascii,
        indent,
        separators,
        sort_keys,
    };
    dumper.dump(value, 0)?;
    Ok(dumper.out)
}

/// A number of spaces, or the text itself.
fn indent_unit(indent: Value) -> Result<String, Error> {
    if let Some(unit) = indent.as_str() {
        return Ok(unit.to_owned());
    }
    let width = i64::try_from(indent)?.clamp(0, MAX_INDENT);
    Ok(" ".repeat(width as usize))
}

const MAX_INDENT: i64 = 64;

/// Nesting that no JSON of a request reaches.
const MAX_DEPTH: usize = 200;

fn separator_pair(pair: &Value) -> Result<(String, String), Error> {
    let (item, key) = (pair.get_item_by_index(0)?, pair.get_item_by_index(1)?);
    match (item.as_str(), key.as_str()) {
        (Some(item), Some(key)) => Ok((item.to_owned(), key.to_owned())),
        _ => Err(invalid("separators must be two strings".into())),
    }
}

struct JsonDumper {
    out: String,
    ensure_ascii: bool,
    /// What a level of nesting is indented with; everything is on one line without.
    indent: Option<String>,
    /// Between items, and between a key and its value.
    separators: (String, String),
    sort_keys: bool,
}

impl JsonDumper {
    fn dump(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!(
                "value is nested more than {MAX_DEPTH} times"
            )));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&json_number(value)),
            ValueKind::String => self.dump_string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item)).collect();
                self.dump_items(['[', ']'], items, depth)?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    entries.push((Some(key_text(&key)?), item));
                }
                if self.sort_keys {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.dump_items(['{', '}'], entries, depth)?;
            }
            kind => return Err(invalid(format!("{kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn dump_items(
        &mut self,
        [open, close]: [char; 2],
        items: Vec<(Option<String>, Value)>,
        depth: usize,
    ) -> Result<(), Error> {
        self.out.push(open);
        let is_empty = items.is_empty();
        for (index, (key, item)) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push_str(&self.separators.0);
            }
            self.break_line(depth + 1);
            if let Some(key) = key {
                self.dump_string(&key);
                self.out.push_str(&self.separators.1);
            }
            self.dump(&item, depth + 1)?;
        }
        if !is_empty {
            self.break_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn break_line(&mut self, depth: usize) {
        if let Some(unit) = &self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(unit.as_str(), depth));
        }
    }

    fn dump_string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\0'..='\x1f' => self.escape(character),
                '\x7f'.. if self.ensure_ascii && character != '\x7f' => self.escape(character),
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            self.out.push_str(&format!("\\u{unit:04x}"));
        }
    }
}

/// Python turns these keys into strings; all others are errors.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number => Ok(json_number(key)),
        kind => Err(invalid(format!("keys must be strings, not {kind}"))),
    }
}

fn json_number(value: &Value) -> String {
    match as_float(value) {
        None => value.to_string(),
        Some(float) if float.is_nan() => "NaN".into(),
        Some(f64::INFINITY) => "Infinity".into(),
        Some(f64::NEG_INFINITY) => "-Infinity".into(),
        Some(float) => float_repr(float),
    }
}

fn as_float(value: &Value) -> Option<f64> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    if is_float {
        f64::try_from(value.clone()).ok()
    } else {
        None
    }
}

/// The shortest digits that give the number back, with Python's exponents:
/// `1e+16`, where Rust writes `1e16`.
fn float_repr(float: f64) -> String {
    let text = format!("{float:?}").to_lowercase();
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn invalid(detail: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_in_python() {
        for (float, text) in [
            (1.0, "1.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e100, "1.5e+100"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (-0.0, "-0.0"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float_repr(float), text);
        }
    }
}
