//! A typed, tolerant reader of `config.json` whose errors name the key.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use super::file::read_bounded;
use super::json;
use crate::error::{Error, Result, ResultExt};

const LIMIT_BYTES: u64 = 16 << 20;

/// One key, or alternatives of which the first that is present counts.
pub trait Keys {
    fn names(&self) -> &[&str];
}

impl Keys for &str {
    fn names(&self) -> &[&str] {
        std::slice::from_ref(self)
    }
}

impl<const N: usize> Keys for [&str; N] {
    fn names(&self) -> &[&str] {
        self
    }
}

impl Keys for &[&str] {
    fn names(&self) -> &[&str] {
        self
    }
}

/// A JSON object with typed access by key.
///
/// A key whose value is `null` counts as absent. Where the object has a
/// `text_config`, or a `thinker_config` with one in it, the keys in it come before the
/// outer ones. The `opt_` methods
/// give `None` for an absent key, the others an error; a value of the wrong type
/// or outside of its range is always an error.
#[derive(Clone, Debug)]
pub struct Config {
    file: String,
    layers: Vec<Layer>,
}

/// What models that listen and talk call the part that writes.
const THINKER: &str = "thinker_config";

#[derive(Clone, Debug)]
struct Layer {
    /// Put before each key in messages: empty, or `rope_scaling.` and the like.
    prefix: String,
    values: Map<String, Value>,
}

struct Found<'a> {
    key: String,
    value: &'a Value,
}

impl Config {
    /// Parses an object; `file` is the name that errors begin with.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Config> {
        match json::parse(bytes).at(file)? {
            Value::Object(values) => Config::layered(file, values),
            _ => Err(Error::format(format!("{file} is not a JSON object"))),
        }
    }

    pub fn read(path: &Path) -> Result<Config> {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        Config::parse(&Config::read_bytes(path)?, &file)
    }

    pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
        read_bounded(path, LIMIT_BYTES)
    }

    pub(super) fn layered(file: &str, mut outer: Map<String, Value>) -> Result<Config> {
        let layer = |prefix: &str, values| Layer {
            prefix: prefix.to_owned(),
            values,
        };
        if let Some(Value::Object(thinker)) = outer.remove(THINKER) {
            let mut config = Config::layered(file, thinker)?;
            for layer in &mut config.layers {
                layer.prefix.insert_str(0, &format!("{THINKER}."));
            }
            config.layers.push(layer("", outer));
            return Ok(config);
        }
        let layers = match outer.remove("text_config") {
            Some(Value::Object(text)) => vec![layer("text_config.", text), layer("", outer)],
            None | Some(Value::Null) => vec![layer("", outer)],
            Some(other) => {
                return Err(Error::format(format!(
                    "{file}: \"text_config\" is {}; expected an object",
                    shown(&other)
                )));
            }
        };
        Ok(Config {
            file: file.to_owned(),
            layers,
        })
    }

    /// The same object without the keys of its `text_config`.
    pub fn outer(&self) -> Config {
        Config {
            file: self.file.clone(),
            layers: self.layers.last().cloned().into_iter().collect(),
        }
    }

    /// Whether there is a `text_config`.
    pub fn is_nested(&self) -> bool {
        self.layers.len() > 1
    }

    /// The entries, those of `text_config` first; a key may come twice then.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        let layers = self.layers.iter();
        layers.flat_map(|layer| {
            layer
                .values
                .iter()
                .map(|(key, value)| (key.as_str(), value))
        })
    }

    pub fn has(&self, keys: impl Keys) -> bool {
        self.find(&keys).is_some()
    }

    pub fn get(&self, keys: impl Keys) -> Option<&Value> {
        self.find(&keys).map(|found| found.value)
    }

    pub fn opt_i64(&self, keys: impl Keys, range: RangeInclusive<i64>) -> Result<Option<i64>> {
        self.opt_whole(&keys, range)
    }

    pub fn i64(&self, keys: impl Keys, range: RangeInclusive<i64>) -> Result<i64> {
        self.require(
            &keys,
            &whole_in(&range),
            self.opt_whole(&keys, range.clone()),
        )
    }

    pub fn opt_u32(&self, keys: impl Keys, range: RangeInclusive<u32>) -> Result<Option<u32>> {
        self.opt_whole(&keys, range)
    }

    pub fn u32(&self, keys: impl Keys, range: RangeInclusive<u32>) -> Result<u32> {
        self.require(
            &keys,
            &whole_in(&range),
            self.opt_whole(&keys, range.clone()),
        )
    }

    pub fn opt_usize(
        &self,
        keys: impl Keys,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>> {
        self.opt_whole(&keys, range)
    }

    pub fn usize(&self, keys: impl Keys, range: RangeInclusive<usize>) -> Result<usize> {
        self.require(
            &keys,
            &whole_in(&range),
            self.opt_whole(&keys, range.clone()),
        )
    }

    /// A number in `range`; an end at infinity lets `Infinity` in. Never NaN.
    pub fn opt_f64(&self, keys: impl Keys, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        self.convert(&keys, &number_in(&range), |value| number(value, &range))
    }

    pub fn f64(&self, keys: impl Keys, range: RangeInclusive<f64>) -> Result<f64> {
        let expected = number_in(&range);
        self.require(&keys, &expected, self.opt_f64(keys.names(), range))
    }

    pub fn opt_f32(&self, keys: impl Keys, range: RangeInclusive<f32>) -> Result<Option<f32>> {
        self.convert(&keys, &number_in(&range), |value| {
            let number = json::as_f64(value)? as f32;
            range.contains(&number).then_some(number)
        })
    }

    pub fn f32(&self, keys: impl Keys, range: RangeInclusive<f32>) -> Result<f32> {
        let expected = number_in(&range);
        self.require(&keys, &expected, self.opt_f32(keys.names(), range))
    }

    pub fn opt_bool(&self, keys: impl Keys) -> Result<Option<bool>> {
        self.convert(&keys, "true or false", Value::as_bool)
    }

    pub fn bool(&self, keys: impl Keys) -> Result<bool> {
        self.require(&keys, "true or false", self.opt_bool(keys.names()))
    }

    pub fn opt_str(&self, keys: impl Keys) -> Result<Option<&str>> {
        self.convert(&keys, "a string", Value::as_str)
    }

    pub fn str(&self, keys: impl Keys) -> Result<&str> {
        self.require(&keys, "a string", self.opt_str(keys.names()))
    }

    pub fn opt_array(&self, keys: impl Keys) -> Result<Option<&[Value]>> {
        self.convert(&keys, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    pub fn array(&self, keys: impl Keys) -> Result<&[Value]> {
        self.require(&keys, "a list", self.opt_array(keys.names()))
    }

    pub fn opt_usizes(
        &self,
        keys: impl Keys,
        range: RangeInclusive<usize>,
    ) -> Result<Option<Vec<usize>>> {
        let expected = format!("a list, each {}", whole_in(&range));
        self.convert(&keys, &expected, |value| {
            list_of(value, |item| whole_number(item, &range))
        })
    }

    pub fn opt_f64s(
        &self,
        keys: impl Keys,
        range: RangeInclusive<f64>,
    ) -> Result<Option<Vec<f64>>> {
        let expected = format!("a list, each {}", number_in(&range));
        self.convert(&keys, &expected, |value| {
            list_of(value, |item| number(item, &range))
        })
    }

    pub fn opt_strs(&self, keys: impl Keys) -> Result<Option<Vec<&str>>> {
        self.convert(&keys, "a list of strings", |value| {
            list_of(value, Value::as_str)
        })
    }

    /// A nested object, whose errors name the whole path: `rope_scaling.factor`.
    pub fn opt_object(&self, keys: impl Keys) -> Result<Option<Config>> {
        let Some(found) = self.find(&keys) else {
            return Ok(None);
        };
        let Value::Object(values) = found.value else {
            return Err(self.wrong(&found, "an object"));
        };
        Ok(Some(Config {
            file: self.file.clone(),
            layers: vec![Layer {
                prefix: format!("{}.", found.key),
                values: values.clone(),
            }],
        }))
    }

    pub fn object(&self, keys: impl Keys) -> Result<Config> {
        self.require(&keys, "an object", self.opt_object(keys.names()))
    }

    /// The error for a value that is well-formed by itself but makes no sense
    /// here, in the form of all others: `config.json: "key" is 7; expected …`.
    pub fn unexpected(&self, keys: impl Keys, expected: &str) -> Error {
        match self.find(&keys) {
            Some(found) => self.wrong(&found, expected),
            None => self.missing(keys.names(), expected),
        }
    }

    fn find(&self, keys: &impl Keys) -> Option<Found<'_>> {
        self.layers.iter().find_map(|layer| {
            keys.names().iter().find_map(|key| {
                let value = layer.values.get(*key).filter(|value| !value.is_null())?;
                let key = format!("{}{key}", layer.prefix);
                Some(Found { key, value })
            })
        })
    }

    fn convert<'a, T>(
        &'a self,
        keys: &impl Keys,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(found) = self.find(keys) else {
            return Ok(None);
        };
        match read(found.value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(&found, expected)),
        }
    }

    fn opt_whole<T: Whole>(&self, keys: &impl Keys, range: RangeInclusive<T>) -> Result<Option<T>> {
        self.convert(keys, &whole_in(&range), |value| whole_number(value, &range))
    }

    fn require<T>(&self, keys: &impl Keys, expected: &str, found: Result<Option<T>>) -> Result<T> {
        found?.ok_or_else(|| self.missing(keys.names(), expected))
    }

    fn wrong(&self, found: &Found<'_>, expected: &str) -> Error {
        Error::format(format!(
            "{}: \"{}\" is {}; expected {expected}",
            self.file,
            found.key,
            shown(found.value)
        ))
    }

    fn missing(&self, names: &[&str], expected: &str) -> Error {
        let prefix = match self.layers.as_slice() {
            [only] => only.prefix.as_str(),
            _ => "",
        };
        let quoted: Vec<_> = names
            .iter()
            .map(|key| format!("\"{prefix}{key}\""))
            .collect();
        let complaint = match quoted.as_slice() {
            [key] => format!("{key} is missing"),
            keys => format!("has none of {}", keys.join(", ")),
        };
        Error::format(format!("{}: {complaint}; expected {expected}", self.file))
    }
}

trait Whole: Copy + PartialOrd + std::fmt::Display + TryFrom<i128> {}
impl<T: Copy + PartialOrd + std::fmt::Display + TryFrom<i128>> Whole for T {}

fn whole_number<T: Whole>(value: &Value, range: &RangeInclusive<T>) -> Option<T> {
    // Beyond 2^53 a float no longer says which whole number was meant.
    const EXACT: f64 = (1_u64 << 53) as f64;
    let whole = match value {
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(signed), ..) => i128::from(signed),
            (_, Some(unsigned), _) => i128::from(unsigned),
            (.., Some(float)) if float.fract() == 0.0 && float.abs() <= EXACT => float as i128,
            _ => return None,
        },
        _ => return None,
    };
    T::try_from(whole)
        .ok()
        .filter(|whole| range.contains(whole))
}

fn number(value: &Value, range: &RangeInclusive<f64>) -> Option<f64> {
    json::as_f64(value).filter(|number| range.contains(number))
}

fn list_of<'a, T>(value: &'a Value, item: impl Fn(&'a Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(item).collect()
}

fn whole_in<T: Whole>(range: &RangeInclusive<T>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}

fn number_in<T: std::fmt::Display>(range: &RangeInclusive<T>) -> String {
    format!("a number from {} to {}", range.start(), range.end())
}

fn shown(value: &Value) -> String {
    json::clip(&value.to_string())
}

#[cfg(test)]
mod tests;
