use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde::de::IgnoredAny;
use serde_json::Value;

use super::*;
use crate::error::{Result, Status};
use crate::sample::rng::Rng;
use crate::text::{Detokenizer, SpecialToken, Tokenizer, TokenizerConfig};

/// A text that goes on for longer is left as it is.
const MOST_TOKENS: usize = 300;
/// From there on texts end as soon as they may.
const ENOUGH_TOKENS: usize = 40;

struct Fixture {
    tokenizer: Arc<Tokenizer>,
    end: i32,
    vocabulary: Arc<Vocabulary>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn tokenizer(name: &str) -> Tokenizer {
    let folder = fixtures().join("text/tokenizers").join(name);
    let config = fs::read_to_string(folder.join("tokenizer_config.json")).expect("a file");
    let config = TokenizerConfig::from_json(&config).expect("a configuration");
    Tokenizer::from_file(&folder.join("tokenizer.json"), &config).expect("a tokenizer")
}

/// Made once: a debug build takes a second for one.
fn all() -> &'static [Fixture] {
    static ALL: OnceLock<Vec<Fixture>> = OnceLock::new();
    ALL.get_or_init(|| {
        let names = [
            "byte-level-llama3",
            "byte-level-qwen",
            "sentencepiece-llama2",
        ];
        names.map(Fixture::new).into()
    })
}

impl Fixture {
    /// With rows behind its last token, as models have them.
    fn new(name: &str) -> Fixture {
        let tokenizer = tokenizer(name);
        let n_rows = tokenizer.vocab_size() + 7;
        let tokenizer = Arc::new(tokenizer.padded_to(n_rows));
        let end = tokenizer.special_token(SpecialToken::Eos).expect("an end");
        let vocabulary = Vocabulary::new(&tokenizer, &[end]).expect("a vocabulary");
        Fixture {
            tokenizer,
            end,
            vocabulary: Arc::new(vocabulary),
        }
    }

    fn constraint(&self, kind: ConstraintKind, text: &str) -> Result<Constraint> {
        Constraint::new(&self.vocabulary, kind, text)
    }

    /// A random text of the constraint; `None` if it did not come to an end.
    fn walk(&self, constraint: &Constraint, seed: u64) -> Option<String> {
        let mut rng = Rng::from_seed(seed);
        let mut matcher = constraint.begin();
        let mut stream = Detokenizer::continuing(self.tokenizer.clone(), true);
        let mut text = String::new();
        for n_tokens in 0..MOST_TOKENS {
            if matcher.is_complete() {
                text.push_str(stream.finish().expect("text"));
                return Some(text);
            }
            let token = self.choose(&mut matcher, &mut rng, n_tokens);
            matcher.accept(token).expect("an allowed token");
            if token == self.end {
                text.push_str(stream.finish().expect("text"));
                return Some(text);
            }
            text.push_str(stream.push(token).expect("text"));
        }
        None
    }

    /// Any of those that are allowed; later, one that brings the text to its end.
    fn choose(&self, matcher: &mut Matcher, rng: &mut Rng, n_tokens: usize) -> i32 {
        let mut ids = Vec::new();
        let allowed = matcher.allowed().expect("tokens");
        allowed.for_each_below(self.tokenizer.vocab_size(), |id| ids.push(id as i32));
        if n_tokens > ENOUGH_TOKENS {
            if ids.contains(&self.end) {
                return self.end;
            }
            let closing = |id: &i32| {
                let info = self.tokenizer.token_info(*id).expect("a token");
                matches!(info.bytes.as_slice(), b"\"" | b"}" | b"]")
            };
            let closing: Vec<i32> = ids.iter().copied().filter(closing).collect();
            if !closing.is_empty() {
                ids = closing;
            }
        }
        ids[(rng.next_u64() % ids.len() as u64) as usize]
    }
}

fn schemas() -> Vec<Value> {
    let file = fixtures().join("constraints/schemas.json");
    serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON")
}

#[test]
fn random_texts_of_all_schemas_are_json_with_every_tokenizer() {
    let schemas = schemas();
    assert!(schemas.len() >= 100);
    for fixture in all() {
        let mut n_ended = 0;
        for schema in &schemas {
            let constraint = fixture.constraint(ConstraintKind::JsonSchema, &schema.to_string());
            let constraint = constraint.unwrap_or_else(|error| panic!("{schema}: {error}"));
            for seed in 0..3 {
                let Some(text) = fixture.walk(&constraint, seed) else {
                    continue;
                };
                n_ended += 1;
                let value: Value = match serde_json::from_str(&text) {
                    Ok(value) => value,
                    // JSON does not say how large a number may be.
                    Err(error) if error.to_string().contains("out of range") => continue,
                    Err(error) => panic!("{schema}: {text:?}: {error}"),
                };
                assert_follows(schema, &value);
            }
        }
        assert!(n_ended >= schemas.len() * 2, "{n_ended}");
    }
}

/// Of keywords that need no more than a look; the tests of the Python package have a
/// validator.
#[track_caller]
fn assert_follows(schema: &Value, value: &Value) {
    let context = || format!("{value} of {schema}");
    if let Some(constant) = schema.get("const") {
        assert_eq!(constant, value);
    }
    if schema.get("anyOf").is_none() && schema.get("allOf").is_none() {
        if let Some(options) = schema.get("enum").and_then(Value::as_array) {
            assert!(options.contains(value), "{}", context());
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("integer") => {
                let whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
                assert!(whole, "{}", context());
            }
            Some("number") => assert!(value.is_number(), "{}", context()),
            Some("string") => assert!(value.is_string(), "{}", context()),
            Some("array") => assert!(value.is_array(), "{}", context()),
            Some("object") => assert!(value.is_object(), "{}", context()),
            _ => {}
        }
    }
    let keys = schema.get("required").and_then(Value::as_array);
    for key in keys.into_iter().flatten().filter_map(Value::as_str) {
        assert!(value.get(key).is_some(), "{}", context());
    }
}

#[test]
fn any_json_is_an_object() {
    let fixture = &all()[0];
    let constraint = fixture.constraint(ConstraintKind::Json, "").expect("JSON");
    let texts: Vec<_> = (0..8)
        .filter_map(|seed| fixture.walk(&constraint, seed))
        .collect();
    assert!(!texts.is_empty());
    for text in texts {
        // Numbers may be too large for a `Value`.
        let object: serde_json::Result<HashMap<String, IgnoredAny>> = serde_json::from_str(&text);
        assert!(object.is_ok(), "{text}");
    }
}

#[test]
fn characters_of_several_tokens_are_whole_where_an_expression_ends() {
    for fixture in all() {
        let constraint = fixture.constraint(ConstraintKind::Regex, "[日本🙂é]{3}");
        let constraint = constraint.expect("an expression");
        for seed in 0..5 {
            let text = fixture.walk(&constraint, seed).expect("an end");
            assert_eq!(text.chars().count(), 3, "{text:?}");
            assert!(text.chars().all(|one| "日本🙂é".contains(one)), "{text:?}");
        }
    }
}

#[test]
fn the_space_in_front_of_a_text_is_one_of_the_expression() {
    for fixture in all() {
        let with_space = fixture.constraint(ConstraintKind::Regex, " (a|b)c");
        let text = fixture
            .walk(&with_space.expect("an expression"), 1)
            .expect("an end");
        assert!([" ac", " bc"].contains(&text.as_str()), "{text:?}");
        let without = fixture.constraint(ConstraintKind::Regex, "(a|b)c");
        let text = fixture
            .walk(&without.expect("an expression"), 1)
            .expect("an end");
        assert!(["ac", "bc"].contains(&text.as_str()), "{text:?}");
    }
}

const SUMS: &str = r#"
start: sum
sum: product (("+" | "-") product)*
product: atom ("*" atom)*
atom: NUMBER | "(" sum ")"
NUMBER: /[0-9]{1,3}/
"#;

#[test]
fn texts_of_a_grammar_have_its_brackets_in_pairs() {
    for fixture in all() {
        let constraint = fixture
            .constraint(ConstraintKind::Grammar, SUMS)
            .expect("a grammar");
        let mut n_ended = 0;
        for seed in 0..10 {
            let Some(text) = fixture.walk(&constraint, seed) else {
                continue;
            };
            n_ended += 1;
            let mut depth = 0;
            for character in text.chars() {
                depth += i32::from(character == '(') - i32::from(character == ')');
                assert!(depth >= 0, "{text}");
            }
            assert_eq!(depth, 0, "{text}");
            assert!(text.ends_with(|last: char| last.is_ascii_digit() || last == ')'));
        }
        assert!(n_ended > 0);
    }
}

#[test]
fn neither_special_tokens_nor_rows_without_a_token_are_allowed_but_the_end() {
    for fixture in all() {
        let anything = fixture
            .constraint(ConstraintKind::Regex, "(?s:.*)")
            .expect("anything");
        let mut matcher = anything.begin();
        let allowed = matcher.allowed().expect("tokens");
        let n_rows = fixture.tokenizer.vocab_size();
        let mut n_allowed = 0;
        for id in 0..n_rows as i32 {
            let info = fixture.tokenizer.token_info(id);
            let is_text = info.is_some_and(|info| !info.is_special);
            assert!(
                is_text || !allowed.contains(id) || id == fixture.end,
                "{id}"
            );
            n_allowed += usize::from(allowed.contains(id));
        }
        assert!(allowed.contains(fixture.end));
        assert!(!allowed.contains(n_rows as i32) && !allowed.contains(-1));
        assert!(n_allowed > n_rows / 2);
    }
}

#[test]
fn a_token_that_is_not_allowed_changes_nothing() {
    let fixture = &all()[0];
    let constraint = fixture
        .constraint(ConstraintKind::Regex, "[0-9]{2}")
        .expect("digits");
    let mut matcher = constraint.begin();
    let id = |piece: &str| fixture.tokenizer.token_id(piece).expect("a token");
    for token in [id("a"), fixture.end, -1, i32::MAX] {
        let error = matcher.accept(token).expect_err("not allowed");
        assert_eq!(error.status(), Status::InvalidArgument, "{error}");
    }
    matcher.accept(id("1")).expect("a digit");
    let mut other = matcher.clone();
    matcher.accept(id("2")).expect("a digit");
    assert!(matcher.is_complete() && !other.is_complete());
    assert!(matcher.allowed().expect("the end").contains(fixture.end));
    matcher.accept(fixture.end).expect("the end");
    let behind = matcher.accept(id("3")).expect_err("behind the end");
    assert!(behind.message().contains("behind the end"), "{behind}");
    other.accept(id("3")).expect("a digit");
    assert!(other.is_complete());
}

#[test]
fn without_a_token_that_ends_texts_a_constraint_ends_them_itself() {
    let tokenizer = tokenizer("byte-level-llama3");
    let vocabulary = Arc::new(Vocabulary::new(&tokenizer, &[]).expect("a vocabulary"));
    let one = Constraint::new(&vocabulary, ConstraintKind::Regex, "a").expect("a letter");
    let mut matcher = one.begin();
    matcher
        .accept(tokenizer.token_id("a").expect("a token"))
        .expect("a letter");
    assert!(matcher.is_complete());
    let error = matcher.allowed().err().expect("nothing");
    assert!(error.message().contains("is complete"), "{error}");
}

#[test]
fn tokenizers_whose_tokens_depend_on_others_are_refused() {
    let json = r#"{"model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"}, "added_tokens": []}"#;
    let config = TokenizerConfig::default();
    let tokenizer = Tokenizer::from_bytes(json.as_bytes(), &config).expect("a tokenizer");
    let error = Vocabulary::new(&tokenizer, &[]).err().expect("refused");
    assert_eq!(error.status(), Status::Unsupported);
}

#[test]
fn refusals_say_where_and_why() {
    use ConstraintKind::{Grammar, Json, JsonSchema, Regex};
    let invalid = Status::InvalidArgument;
    let unsupported = Status::Unsupported;
    let deep = format!("start: {}a{}", "(".repeat(6001), ")".repeat(6001));
    let long = format!("start: \"{}\"", "a".repeat(1 << 16));
    for (kind, text, status, part) in [
        (JsonSchema, "{\"type\": ", invalid, "no JSON"),
        (JsonSchema, r#"{"type": "text"}"#, invalid, "text"),
        (JsonSchema, "3", invalid, "object or boolean"),
        (
            JsonSchema,
            r#"{"type": "integer", "minimum": 3, "maximum": 2}"#,
            invalid,
            "3",
        ),
        (
            JsonSchema,
            r#"{"not": {"type": "null"}}"#,
            unsupported,
            "not",
        ),
        (
            JsonSchema,
            r#"{"type": "array", "uniqueItems": true}"#,
            unsupported,
            "uniqueItems",
        ),
        (
            JsonSchema,
            r#"{"type": "string", "format": "color"}"#,
            unsupported,
            "color",
        ),
        (
            JsonSchema,
            r#"{"oneOf": [{"minimum": 1}, {"maximum": 2}]}"#,
            unsupported,
            "oneOf",
        ),
        (
            JsonSchema,
            r#"{"$ref": "https://example.org/schema"}"#,
            unsupported,
            "example.org",
        ),
        (JsonSchema, r##"{"$ref": "#/$defs/a"}"##, invalid, "$defs"),
        (Regex, "a(b", invalid, "unclosed group"),
        (Regex, "(?=a)b", invalid, "look-around"),
        (Regex, "(a)\\1", invalid, "backreference"),
        (Grammar, "start: \"a", invalid, "1("),
        (Grammar, "begin: \"a\"", invalid, "start"),
        (Grammar, "start: missing", invalid, "missing"),
        (Grammar, "start: <|end|>", invalid, "special token"),
        (Grammar, &deep, invalid, "6002 definitions"),
        (Grammar, &long, invalid, "65536"),
        (Json, "{}", invalid, "limit is 0"),
    ] {
        let error = all()[0].constraint(kind, text).map(drop).expect_err(text);
        assert_eq!(error.status(), status, "{text}: {error}");
        assert!(error.message().contains(part), "{text}: {error}");
    }
}

/// Some are refused, some only when a text goes on for long.
#[test]
fn what_looks_like_much_work_ends_soon() {
    use ConstraintKind::{Grammar, JsonSchema, Regex};
    let chain: String = (0..5000).map(|n| format!("A{n}: A{}\n", n + 1)).collect();
    let circle = chain + "A5000: A0\nstart: A0\n";
    let doubled = (0..24).map(|n| format!("a{n}: a{} a{}\n", n + 1, n + 1));
    let doubled = doubled.collect::<String>() + "a24: \"x\"\nstart: a0\n";
    for (kind, text) in [
        (Regex, "((a{1,1000}){1,1000}){1,1000}"),
        (Regex, "(.{0,30000}x){3}(.{0,30000}y){3}"),
        (Regex, "(a|aa)*(b|.{9})*.*c.{200}"),
        (
            JsonSchema,
            r#"{"type": "string", "pattern": "^(.{1,5000}a){500}$"}"#,
        ),
        (
            JsonSchema,
            r#"{"type": "array", "items": {"type": "null"}, "minItems": 100000000}"#,
        ),
        (Grammar, "start: a\na: b{1000000}\nb: c{1000000}\nc: \"x\""),
        (Grammar, "start: start start | \"x\" | "),
        (Grammar, &circle),
        (Grammar, &doubled),
    ] {
        let began = Instant::now();
        let fixture = &all()[0];
        if let Ok(constraint) = fixture.constraint(kind, text) {
            let mut matcher = constraint.begin();
            let mut rng = Rng::from_seed(1);
            let mut step = || -> Result<()> {
                let mut ids = Vec::new();
                matcher
                    .allowed()?
                    .for_each_below(usize::MAX, |id| ids.push(id as i32));
                matcher.accept(ids[(rng.next_u64() % ids.len() as u64) as usize])
            };
            let _end = (0..5).try_for_each(|_| step());
        }
        let taken = began.elapsed();
        assert!(
            taken.as_secs() < 60,
            "{}: {taken:?}",
            &text[..text.len().min(60)]
        );
    }
}

#[test]
fn alternatives_that_would_be_compared_with_each_other_are_bounded() {
    let alternatives: Vec<String> = (0..2000).map(|n| format!("{{\"const\":{n}}}")).collect();
    let one_of = format!("{{\"oneOf\": [{}]}}", alternatives.join(","));
    let refused = all()[0].constraint(ConstraintKind::JsonSchema, &one_of);
    let error = refused.map(drop).expect_err("too many");
    assert!(error.message().contains("4000000"), "{error}");
}

#[test]
fn what_is_read_by_recursion_has_the_stack_for_it() {
    let names = |name: &str, open: &str, close: &str, n: usize| {
        let chain = (0..n).map(|at| format!("{name}{at}: {open}{name}{}{close}\n", at + 1));
        let last = format!("{name}{n}: \"x\"\nstart: {name}0\n");
        chain.collect::<String>() + &last
    };
    let brackets = |n: usize| format!("start: {}\"x\"{}", "(".repeat(n), ")".repeat(n));
    let fixture = &all()[0];
    let references = (0..1900).map(|at| {
        format!(
            r##""{at}": {{"anyOf": [{{"$ref": "#/$defs/{}"}}, false]}}, "##,
            at + 1
        )
    });
    let references = references.collect::<String>();
    let schema =
        format!(r##"{{"$ref": "#/$defs/0", "$defs": {{{references} "1900": {{"const": "x"}}}}}}"##);
    let constraint = fixture.constraint(ConstraintKind::JsonSchema, &schema);
    let constraint = constraint.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fixture.walk(&constraint, 0).expect("an end"), "\"x\"");
    for grammar in [
        names("A", "", "", 3900),
        names("a", "", "", 3900),
        names("A", "((", "))", 1300),
        names("a", "((", "))", 1300),
        brackets(25),
    ] {
        let constraint = fixture.constraint(ConstraintKind::Grammar, &grammar);
        let constraint = constraint.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(fixture.walk(&constraint, 0).expect("an end"), "x");
    }
}

#[test]
fn generations_of_a_constraint_do_not_see_each_other() {
    let fixture = &all()[1];
    let schema = r#"{"type": "object", "properties": {"a": {"type": "string"}}}"#;
    let constraint = fixture
        .constraint(ConstraintKind::JsonSchema, schema)
        .expect("a schema");
    let alone: Vec<_> = (0..4).map(|seed| fixture.walk(&constraint, seed)).collect();
    assert!(alone.iter().collect::<BTreeSet<_>>().len() > 1);
    let constraint = &constraint;
    let together: Vec<_> = std::thread::scope(|scope| {
        let walks: Vec<_> = (0..4)
            .map(|seed| scope.spawn(move || fixture.walk(constraint, seed)))
            .collect();
        walks
            .into_iter()
            .map(|walk| walk.join().expect("a walk"))
            .collect()
    });
    assert_eq!(alone, together);
}
