//! Licenses as crates declare them: names, `AND`, `OR` (or a slash), `WITH` and
//! parentheses.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// What deny.toml accepts.
pub struct Policy {
    allowed: Vec<String>,
    /// More for single crates.
    exceptions: BTreeMap<String, Vec<String>>,
}

impl Policy {
    pub fn parse(text: &str) -> Result<Policy> {
        let section = text.split("\n[").find(|part| part.starts_with("licenses]"));
        let section = section.context("no section [licenses]")?;
        let (_, list) = section.split_once("\nallow = [").context("no `allow`")?;
        let (list, _) = list.split_once("\n]").context("`allow` has no end")?;
        let allowed = quoted(list);
        ensure!(!allowed.is_empty(), "`allow` is empty");
        let entries = section.lines().filter(|line| line.contains("{ crate ="));
        let exceptions = entries.map(|line| {
            let mut texts = quoted(line).into_iter();
            Ok((
                texts.next().context("an exception names a crate")?,
                texts.collect(),
            ))
        });
        Ok(Policy {
            allowed,
            exceptions: exceptions.collect::<Result<_>>()?,
        })
    }

    pub fn accepts(&self, package: &str, license: &str) -> bool {
        let exceptions = self.exceptions.get(package);
        let is_allowed = |name: &str| {
            let more = exceptions.into_iter().flatten();
            self.allowed
                .iter()
                .chain(more)
                .any(|allowed| allowed == name)
        };
        let license = license.replace('/', " OR ");
        let license = license.replace('(', " ( ").replace(')', " ) ");
        let mut words = license.split_whitespace().peekable();
        let accepted = any(&mut words, &is_allowed);
        accepted == Some(true) && words.next().is_none()
    }
}

/// The texts in quotation marks.
fn quoted(text: &str) -> Vec<String> {
    let texts = text.split('"').skip(1).step_by(2);
    texts.map(str::to_owned).collect()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// `None` where the expression is malformed.
fn any(words: &mut Words<'_>, is_allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut accepted = every(words, is_allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        accepted |= every(words, is_allowed)?;
    }
    Some(accepted)
}

fn every(words: &mut Words<'_>, is_allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut accepted = one(words, is_allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        accepted &= one(words, is_allowed)?;
    }
    Some(accepted)
}

fn one(words: &mut Words<'_>, is_allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let name = words.next()?;
    if name == "(" {
        let accepted = any(words, is_allowed)?;
        return (words.next()? == ")").then_some(accepted);
    }
    match words.next_if_eq(&"WITH") {
        None => Some(is_allowed(name)),
        Some(_) => Some(is_allowed(&format!("{name} WITH {}", words.next()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_judged_by_the_lists() {
        let text = "\n[licenses]\nallow = [\n    \"MIT\",\n    \"A WITH E\",\n]\n\
                    exceptions = [\n    { crate = \"tool\", allow = [\"MPL\"] },\n]\n\n[bans]\n";
        let policy = Policy::parse(text).expect("a policy");
        for (package, license, accepted) in [
            ("a", "MIT", true),
            ("a", "GPL", false),
            ("a", "", false),
            ("a", "GPL OR MIT", true),
            ("a", "GPL/MIT", true),
            ("a", "MIT AND GPL", false),
            ("a", "(GPL OR MIT) AND A WITH E", true),
            ("a", "(GPL OR MIT) AND A", false),
            ("a", "(MIT", false),
            ("a", "MIT)", false),
            ("a", "MIT MIT", false),
            ("a", "MPL", false),
            ("tool", "MPL AND MIT", true),
        ] {
            assert_eq!(
                policy.accepts(package, license),
                accepted,
                "{package}: {license}"
            );
        }
        assert!(Policy::parse("[bans]\n").is_err());
    }
}
