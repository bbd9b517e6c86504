//! Damage of every kind: to bytes, to numbers in them, to values of JSON, and to the
//! parts of an input.

use serde_json::{Map, Value, json};

use crate::random::Random;
use crate::targets::{join, split};

/// Another input, of at most so many bytes.
pub fn mutate(input: &[u8], random: &mut Random, limit_bytes: usize) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = split(input).into_iter().map(<[u8]>::to_vec).collect();
    for _ in 0..1 + below(random, 3) {
        let at = below(random, parts.len());
        match below(random, 16) {
            0 if parts.len() > 1 => drop(parts.remove(at)),
            1 => parts.push(parts[at].clone()),
            2 => {
                let other = below(random, parts.len());
                parts.swap(at, other);
            }
            n => {
                let structured = (n > 6).then(|| change_json(&parts[at], random)).flatten();
                match structured {
                    Some(text) => parts[at] = text,
                    None => change_bytes(&mut parts[at], random),
                }
            }
        }
    }
    let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
    let mut changed = join(&parts);
    changed.truncate(limit_bytes);
    changed
}

fn below(random: &mut Random, n: usize) -> usize {
    (random.next() % n.max(1) as u64) as usize
}

/// Where sizes and offsets go wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    7,
    127,
    255,
    256,
    65_535,
    1 << 24,
    (1 << 31) - 1,
    1 << 32,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

fn change_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    let (from, to) = range(bytes.len(), random);
    let number = NUMBERS[below(random, NUMBERS.len())];
    match below(random, 9) {
        0 => bytes.truncate(from),
        1 => drop(bytes.drain(from..to)),
        2 => {
            let copy = bytes[from..to].to_vec();
            let at = below(random, bytes.len() + 1);
            bytes.splice(at..at, copy);
        }
        3 => bytes[from..to].reverse(),
        4 => overwrite(bytes, from, &number.to_le_bytes()),
        5 => overwrite(bytes, from, &(number as u32).to_le_bytes()),
        6 => replace_digits(bytes, from, number),
        7 => bytes.insert(from, random.next() as u8),
        _ => overwrite(bytes, from, &[1 << below(random, 8)]),
    }
}

fn range(length: usize, random: &mut Random) -> (usize, usize) {
    let from = below(random, length + 1);
    let longest = (length - from).min(1 << below(random, 8));
    (from, from + below(random, longest + 1))
}

/// By exclusive or where it is one byte, so that it always differs.
fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(with) {
        *place = if with.len() == 1 {
            *place ^ byte
        } else {
            *byte
        };
    }
}

/// The next decimal number becomes another.
fn replace_digits(bytes: &mut Vec<u8>, from: usize, number: u64) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let Some(start) = bytes[from..].iter().position(is_digit) else {
        return;
    };
    let start = from + start;
    let length = bytes[start..]
        .iter()
        .take_while(|byte| is_digit(byte))
        .count();
    bytes.splice(start..start + length, number.to_string().into_bytes());
}

/// `None` where it is no JSON.
fn change_json(text: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut root: Value = serde_json::from_slice(text).ok()?;
    let mut places = Vec::new();
    list_places(&root, String::new(), &mut places);
    let place = &places[below(random, places.len())];
    let other = root.pointer(&places[below(random, places.len())])?.clone();
    let value = root.pointer_mut(place)?;
    match below(random, 8) {
        0 => *value = strange(random),
        1 => *value = other,
        2 => *value = json!([value.take()]),
        3 => *value = json!({"a": value.take()}),
        4 => remove(&mut root, place),
        5 => insert(value, other, random),
        6 => reorder(value, random),
        _ => disturb(value, random),
    }
    serde_json::to_vec(&root).ok()
}

/// JSON pointers to all values.
fn list_places(value: &Value, place: String, places: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                list_places(item, format!("{place}/{index}"), places);
            }
        }
        Value::Object(entries) => {
            for (key, item) in entries {
                let key = key.replace('~', "~0").replace('/', "~1");
                list_places(item, format!("{place}/{key}"), places);
            }
        }
        _ => {}
    }
    places.push(place);
}

fn strange(random: &mut Random) -> Value {
    let number = NUMBERS[below(random, NUMBERS.len())];
    match below(random, 10) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(""),
        3 => json!("\u{0}\u{feff}é%n"),
        4 => json!([]),
        5 => json!({}),
        6 => json!(1e308),
        7 => json!(-0.5),
        8 => json!(-(number.min(1 << 62) as i64)),
        _ => json!(number),
    }
}

fn remove(root: &mut Value, place: &str) {
    let Some((parent, key)) = place.rsplit_once('/') else {
        return;
    };
    match root.pointer_mut(parent) {
        Some(Value::Array(items)) => drop(key.parse().map(|index: usize| items.remove(index))),
        Some(Value::Object(entries)) => {
            drop(entries.remove(&key.replace("~1", "/").replace("~0", "~")));
        }
        _ => {}
    }
}

/// One more of what is there, perhaps under another's name.
fn insert(value: &mut Value, other: Value, random: &mut Random) {
    match value {
        Value::Array(items) => {
            let at = below(random, items.len() + 1);
            items.insert(at, other);
        }
        Value::Object(entries) => {
            let at = below(random, entries.len());
            let name = entries.keys().nth(at).cloned().unwrap_or_default();
            entries.insert(format!("{name}{}", below(random, 3)), other);
        }
        Value::String(text) => text.push_str(&other.to_string()),
        value => *value = other,
    }
}

fn reorder(value: &mut Value, random: &mut Random) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let (a, b) = (below(random, items.len()), below(random, items.len()));
            items.swap(a, b);
        }
        Value::Object(entries) if !entries.is_empty() => {
            let mut items: Vec<_> = std::mem::take(entries).into_iter().collect();
            let (a, b) = (below(random, items.len()), below(random, items.len()));
            // Names trade their values, so that what follows them does not fit.
            let traded = items[a].1.clone();
            items[a].1 = std::mem::replace(&mut items[b].1, traded);
            *entries = items.into_iter().rev().collect::<Map<_, _>>();
        }
        value => disturb(value, random),
    }
}

/// Something near.
fn disturb(value: &mut Value, random: &mut Random) {
    *value = match &*value {
        Value::Bool(set) => json!(!set),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => {
                let near = [
                    whole.wrapping_add(1),
                    whole.wrapping_sub(1),
                    whole.wrapping_mul(2),
                    whole / 2,
                    whole.wrapping_neg(),
                ];
                json!(near[below(random, near.len())])
            }
            None => json!(number.as_f64().map(|number| number * -2.0)),
        },
        Value::String(text) => {
            let n_chars = below(random, text.chars().count() + 1);
            json!(text.chars().take(n_chars).collect::<String>())
        }
        _ => strange(random),
    };
}
