//! Templates and tokenizers that are made to exhaust memory are refused, and the process
//! goes on.

use serde_json::{Value, json};
use umrt::error::{Result, Status};
use umrt::text::{ChatTemplate, EncodeFlags, NamedTemplate, Tokenizer, TokenizerConfig};

use crate::common::assert_fails;

const REQUEST: &str = r#"{"messages": [{"role": "user", "content": "Hello"}]}"#;

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(&[NamedTemplate::default_of(source)], &[]).expect("a template")
}

/// So that a bound is a matter of megabytes and not of the machine.
#[track_caller]
fn assert_stopped(source: &str) {
    let template = template(source);
    for _ in 0..2 {
        let rendered = template.render(REQUEST).map(drop);
        assert_fails(rendered, Status::Format, &["keeps more than", "variables"]);
    }
}

#[test]
fn a_template_that_doubles_a_text_is_stopped() {
    assert_stopped(
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}\
         {% set n.x = n.x ~ n.x %}{% endfor %}",
    );
}

#[test]
fn loops_are_not_needed_for_it() {
    let doubled = "{% set x = x + x %}".repeat(60);
    assert_stopped(&format!("{{% set x = 'aaaaaaaa' %}}{doubled}"));
}

#[test]
fn captured_output_counts() {
    let doubled = "{% set x %}{{ x }}{{ x }}{% endset %}".repeat(60);
    assert_stopped(&format!("{{% set x = 'aaaaaaaa' %}}{doubled}"));
    let raw = "a".repeat(20_000);
    assert_stopped(&format!(
        "{{% set x %}}{{% for i in range(50000) %}}{raw}{{% endfor %}}{{% endset %}}"
    ));
    assert_stopped(
        "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{% set n = namespace(x='aaaaaaaa') %}\
         {% for i in range(60) %}{% set n.x = twice(n.x) %}{% endfor %}",
    );
}

#[test]
fn filters_methods_and_lists_count() {
    let replaced = "{% set x = x | replace('a', x) %}".repeat(20);
    assert_stopped(&format!("{{% set x = 'aaa' %}}{replaced}"));
    let replaced = "{% set x = x.replace('a', x) %}".repeat(20);
    assert_stopped(&format!("{{% set x = 'aaa' %}}{replaced}"));
    assert_stopped("{% set x = ([1] * 90000000) | list %}{{ x | length }}");
    assert_stopped("{% set x = ('a' * 20000000) | list %}{{ x | length }}");
    assert_stopped(
        "{% set n = namespace(x=[]) %}{% for i in range(90) %}\
         {% set n.x = n.x + ['a' * 9000000 ~ i] %}{% endfor %}",
    );
}

#[test]
fn constants_count_before_they_are_used() {
    let source = "{{ 'a' * 90000000 }}".repeat(30);
    let compiled = ChatTemplate::new(&[NamedTemplate::default_of(source)], &[]).map(drop);
    assert_fails(compiled, Status::Format, &["take more than", "in memory"]);
}

/// Two million steps of which each reads 32 MB would take a day.
#[test]
fn a_template_whose_steps_take_long_is_stopped() {
    let template = template(
        "{% set x = 'ab' * 16000000 %}{% for i in range(700) %}{% for j in range(700) %}\
         {% if 'aa' in x ~ i %}{% endif %}{% endfor %}{% endfor %}",
    );
    for _ in 0..2 {
        let rendered = template.render(REQUEST).map(drop);
        assert_fails(rendered, Status::Format, &["takes more than 10 seconds"]);
    }
}

#[test]
fn many_threads_may_be_stopped_at_once() {
    let template = template("{% set x = 'a' * 50000000 %}{% set x = x ~ x ~ x %}");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let rendered = template.render(REQUEST).map(drop);
                assert_fails(rendered, Status::Format, &["keeps more than"]);
            });
        }
    });
}

#[test]
fn the_bound_grows_with_the_request() {
    let template = template(
        "{% for m in messages %}{{ m.content }}{% endfor %}{% set x = messages | tojson %}\
         {% set y = x ~ x %}{% set z = y.split('a') %}",
    );
    let content = "ab".repeat(2 << 20);
    let request = json!({"messages": [{"role": "user", "content": content}]});
    let rendered = template.render(&request.to_string());
    assert_eq!(rendered.expect("a prompt"), content);
    let many = vec![json!({"role": "", "content": ""}); 20_000];
    let request = json!({"messages": many, "rest": vec![json!({}); 200_000]});
    template.render(&request.to_string()).expect("a prompt");
}

fn tokenizer(rules: Value) -> Result<Tokenizer> {
    let mut json = json!({
        "model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
        "added_tokens": [],
    });
    for (key, rule) in rules.as_object().expect("an object") {
        json[key] = rule.clone();
    }
    Tokenizer::from_bytes(json.to_string().as_bytes(), &TokenizerConfig::default())
}

#[track_caller]
fn assert_refused(rules: Value, text: &str) {
    let tokenizer = tokenizer(rules).expect("a tokenizer");
    let ids = tokenizer.encode(text, EncodeFlags::default()).map(drop);
    assert_fails(ids, Status::Unsupported, &["could make", "limit"]);
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

#[test]
fn normalizers_that_make_too_much_are_refused() {
    let long = "b".repeat(1 << 20);
    let text = "a".repeat(1000);
    for pattern in [json!({"String": "a"}), json!({"Regex": "(?=a)"})] {
        assert_refused(json!({"normalizer": replace(pattern, &long)}), &text);
    }
    let prepend = json!({"type": "Prepend", "prepend": "b".repeat(9 << 20)});
    assert_refused(json!({"normalizer": prepend}), "a");
    let doubled = vec![replace(json!({"String": "a"}), "aa"); 40];
    let doubled = json!({"type": "Sequence", "normalizers": doubled});
    assert_refused(json!({"normalizer": doubled}), &text);
    let spaced = vec![
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false});
        30
    ];
    let spaced = json!({"type": "Sequence", "pretokenizers": spaced});
    assert_refused(json!({"pre_tokenizer": spaced}), &text);
}

#[test]
fn usual_rules_have_no_limit_of_their_own() {
    let spaces = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u{2581}"},
        replace(json!({"String": " "}), "\u{2581}"),
    ]});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                       "use_regex": false});
    for rules in [
        json!({"normalizer": spaces}),
        json!({"normalizer": {"type": "NFC"}, "pre_tokenizer": bytes}),
    ] {
        assert_takes_a_long_text(rules);
    }
}

#[track_caller]
fn assert_takes_a_long_text(rules: Value) {
    let tokenizer = tokenizer(rules).expect("a tokenizer");
    let text = "a ".repeat(1 << 19);
    let ids = tokenizer.encode(&text, EncodeFlags::default());
    assert_eq!(ids.expect("tokens").len(), 1);
}

#[test]
fn what_is_made_of_added_tokens_is_bounded_before_it_is_made() {
    let added: Vec<_> = (2..1002)
        .map(|id| {
            json!({"id": id, "content": format!("a{id}"), "normalized": true,
                         "special": false, "single_word": false, "lstrip": false, "rstrip": false})
        })
        .collect();
    let rules = json!({
        "normalizer": replace(json!({"String": "a"}), &"b".repeat(1 << 20)),
        "added_tokens": added,
    });
    assert_fails(
        tokenizer(rules).map(drop),
        Status::Unsupported,
        &["could make"],
    );
}

#[test]
fn long_spellings_of_the_unknown_are_refused() {
    for (key, model) in [
        ("unk_token", json!({"type": "WordLevel", "vocab": {"a": 0}})),
        (
            "continuing_subword_prefix",
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": []}),
        ),
        (
            "end_of_word_suffix",
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": []}),
        ),
    ] {
        let mut model = model;
        model[key] = json!("x".repeat(257));
        let refused = tokenizer(json!({"model": model})).map(drop);
        assert_fails(refused, Status::Format, &[key, "257", "256"]);
    }
}

#[test]
fn decoders_that_make_too_much_are_refused() {
    let decoder = replace(json!({"String": "a"}), &"b".repeat(1 << 20));
    let tokenizer = tokenizer(json!({"decoder": decoder})).expect("a tokenizer");
    let text = tokenizer.decode(&[0; 1000], false).map(drop);
    assert_fails(text, Status::Unsupported, &["could make", "limit"]);
}
