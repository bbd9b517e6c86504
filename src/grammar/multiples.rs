//! `multipleOf`: what llguidance can follow of it.
//!
//! An expression for the multiples of a number has a state for each remainder, and where
//! schemas are combined, llguidance computes least common multiples in 32 bits, without
//! looking whether they fit.

use serde_json::Value;

use crate::error::{Error, Result};

/// The largest number, without its decimal point, and the largest common multiple.
const LIMIT: u64 = 100_000;
/// What schemas are combined by.
const COMBINING: [&str; 4] = ["$ref", "allOf", "anyOf", "oneOf"];

/// `digits` divided by a power of ten.
#[derive(Clone, Copy)]
struct Decimal {
    digits: u64,
    exponent: u32,
}

impl Decimal {
    /// None where it is no number that llguidance takes, which it says itself.
    fn of(value: &Value) -> Option<Decimal> {
        let text = format!("{}", value.as_f64()?);
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        Some(Decimal {
            digits: format!("{whole}{fraction}").parse().ok()?,
            exponent: fraction.len() as u32,
        })
    }

    fn scaled(self, exponent: u32) -> Option<u64> {
        self.digits
            .checked_mul(10_u64.checked_pow(exponent - self.exponent)?)
    }
}

#[derive(Default)]
struct Found {
    numbers: Vec<Decimal>,
    is_combined: bool,
}

/// Refuses a schema whose multiples would take too many states, or be others than it says.
pub fn ensure_followable(schema: &Value) -> Result<()> {
    let mut found = Found::default();
    found.look(schema)?;
    match found.is_combined && !found.has_common_multiple() {
        true => Err(Error::invalid(format!(
            "the numbers that multipleOf has in the JSON Schema may be combined by $ref, allOf, \
             anyOf or oneOf; the limit of their least common multiple is {LIMIT}, and llguidance \
             computes it in 32 bits"
        ))),
        false => Ok(()),
    }
}

impl Found {
    fn look(&mut self, schema: &Value) -> Result<()> {
        match schema {
            Value::Array(items) => items.iter().try_for_each(|item| self.look(item)),
            Value::Object(keywords) => keywords.iter().try_for_each(|(keyword, value)| {
                self.is_combined |= COMBINING.contains(&keyword.as_str());
                if keyword == "multipleOf" {
                    self.add(value)?;
                }
                self.look(value)
            }),
            _ => Ok(()),
        }
    }

    fn add(&mut self, value: &Value) -> Result<()> {
        let number = Decimal::of(value);
        if number.is_some_and(|number| number.digits > LIMIT) {
            return Err(Error::invalid(format!(
                "the JSON Schema has a multipleOf of {value}; without its decimal point the \
                 limit is {LIMIT}"
            )));
        }
        self.numbers.extend(number);
        Ok(())
    }

    /// Within the limit, and within 32 bits in whichever order it is computed.
    fn has_common_multiple(&self) -> bool {
        let exponents = self.numbers.iter().map(|number| number.exponent);
        let exponent = exponents.max().unwrap_or(0);
        let mut common = 1_u64;
        let mut largest = 1;
        for number in self.numbers.iter().filter(|number| number.digits > 0) {
            let Some(scaled) = number.scaled(exponent) else {
                return false;
            };
            largest = largest.max(scaled);
            let Some(product) =
                (common / greatest_common_divisor(common, scaled)).checked_mul(scaled)
            else {
                return false;
            };
            common = product;
        }
        let fits = common
            .checked_mul(largest)
            .is_some_and(|product| u32::try_from(product).is_ok());
        fits && without_zeros(common, exponent) <= LIMIT
    }
}

/// `value` divided by 10^`exponent`, or by as much of it as leaves a whole number.
fn without_zeros(mut value: u64, exponent: u32) -> u64 {
    for _ in 0..exponent {
        if !value.is_multiple_of(10) {
            break;
        }
        value /= 10;
    }
    value
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        _ => greatest_common_divisor(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn multiples_of_small_numbers_are_followed() {
        for schema in [
            json!({"multipleOf": 100_000}),
            json!({"multipleOf": 0.0001}),
            json!({"multipleOf": 12.5}),
            json!({"properties": {"a": {"multipleOf": 99991}, "b": {"multipleOf": 60000}}}),
            json!({"allOf": [{"multipleOf": 65535}, {"multipleOf": 65535}]}),
            json!({"allOf": [{"multipleOf": 0.01}, {"multipleOf": 5}, {"multipleOf": 0}]}),
            json!({"anyOf": [{"multipleOf": "no number"}, {"multipleOf": -3}]}),
            json!({"$ref": "#/a", "a": [{"multipleOf": 7}, {"multipleOf": 100}]}),
        ] {
            assert!(ensure_followable(&schema).is_ok(), "{schema}");
        }
    }

    #[test]
    fn multiples_that_take_too_much_are_refused() {
        for schema in [
            json!({"multipleOf": 100_001}),
            json!([{"items": {"multipleOf": 1.00001}}]),
            json!({"allOf": [{"multipleOf": 65535}, {"multipleOf": 2}]}),
            json!({"allOf": [{"multipleOf": 1e-6}, {"multipleOf": 60000}]}),
            json!({"$ref": "#/a", "a": [{"multipleOf": 317}, {"multipleOf": 316}]}),
        ] {
            let error = ensure_followable(&schema).expect_err("too large");
            assert!(error.message().contains("100000"), "{schema}: {error}");
        }
    }
}
