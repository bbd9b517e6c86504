//! `{% generation %}`, with which transformers finds the assistant's tokens for
//! training. It changes nothing in what is rendered.

/// Writes the tags as `{% with %}`, which is a scope of its own too, and keeps
/// the signs of whitespace control.
pub fn as_plain_blocks(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        plain.push_str(before);
        rest = tag;
        for (name, replacement) in [("generation", "with"), ("endgeneration", "endwith")] {
            if let Some(name_start) = name_of_tag(tag, name) {
                plain.push_str(&tag[..name_start]);
                plain.push_str(replacement);
                rest = &tag[name_start + name.len()..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

/// Where `name` is in a tag, from behind `{%` on, that has nothing else.
fn name_of_tag(tag: &str, name: &str) -> Option<usize> {
    let inner = tag.strip_prefix(['-', '+']).unwrap_or(tag).trim_start();
    let end = inner.strip_prefix(name)?.trim_start();
    let end = end.strip_prefix(['-', '+']).unwrap_or(end);
    end.starts_with("%}").then(|| tag.len() - inner.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generation_tags_change() {
        for (source, plain) in [
            (
                "a{% generation %}b{% endgeneration %}c",
                "a{% with %}b{% endwith %}c",
            ),
            (
                "{%- generation -%}{%+endgeneration+%}",
                "{%- with -%}{%+endwith+%}",
            ),
            (
                "{% generation_x %}{% set generation = 1 %}",
                "{% generation_x %}{% set generation = 1 %}",
            ),
            (
                "{% if generation %}{% generation",
                "{% if generation %}{% generation",
            ),
            ("{%", "{%"),
        ] {
            assert_eq!(as_plain_blocks(source), plain);
        }
    }
}
