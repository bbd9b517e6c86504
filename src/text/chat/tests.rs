use super::*;
use crate::error::Status;

const AT_NOON: CivilTime = CivilTime {
    year: 2025,
    month: 3,
    day: 9,
    hour: 12,
    minute: 0,
    second: 0,
};

fn template(source: &str) -> ChatTemplate {
    let templates = [NamedTemplate::default_of(source)];
    ChatTemplate::new(&templates, &[("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap()
}

fn render_with(source: &str, request: &str) -> Result<String> {
    template(source).render_at(request, AT_NOON)
}

/// Renders with one message and what `variables` adds, `"x": 1, ` for example.
fn render(source: &str, variables: &str) -> String {
    let request = format!(r#"{{{variables} "messages": [{{"role": "user", "content": "hi"}}]}}"#);
    render_with(source, &request).unwrap()
}

#[test]
fn tojson_is_json_dumps() {
    let value = r#""x": {"b": [1, 2.0, true, null, "é<&'\"\n\u0001"], "a": {}, "c": []}, "#;
    for (filter, expected) in [
        (
            "tojson",
            r#"{"b": [1, 2.0, true, null, "é<&'\"\n\u0001"], "a": {}, "c": []}"#,
        ),
        (
            "tojson(indent=2)",
            "{\n  \"b\": [\n    1,\n    2.0,\n    true,\n    null,\n    \"é<&'\\\"\\n\\u0001\"\n  ],\n  \"a\": {},\n  \"c\": []\n}",
        ),
        (
            "tojson(separators=(',', ':'), sort_keys=true)",
            r#"{"a":{},"b":[1,2.0,true,null,"é<&'\"\n\u0001"],"c":[]}"#,
        ),
        (
            "tojson(ensure_ascii=true)",
            r#"{"b": [1, 2.0, true, null, "\u00e9<&'\"\n\u0001"], "a": {}, "c": []}"#,
        ),
    ] {
        let source = format!("{{{{ x | {filter} }}}}");
        assert_eq!(render(&source, value), expected);
    }
}

#[test]
fn tojson_refuses_what_json_cannot_say() {
    let messages = r#"{"messages": [{"role": "user"}]}"#;
    for source in ["{{ nothing | tojson }}", "{{ x | tojson(color='red') }}"] {
        assert_eq!(
            render_with(source, messages).unwrap_err().status(),
            Status::Format
        );
    }
}

#[test]
fn key_order_of_the_request_is_kept() {
    let value = r#""x": {"z": 1, "a": 2, "m": {"y": 1, "b": 2}}, "#;
    assert_eq!(
        render("{{ x | tojson }}", value),
        r#"{"z": 1, "a": 2, "m": {"y": 1, "b": 2}}"#
    );
}

#[test]
fn methods_win_over_keys_of_the_same_name() {
    let value = r#""x": {"items": 1, "keys": 2}, "#;
    let source = "{% for key, value in x.items() %}{{ key }}={{ value }};{% endfor %}";
    assert_eq!(render(source, value), "items=1;keys=2;");
}

#[test]
fn tests_and_lengths_follow_jinja() {
    for (value, iterable, sequence) in [
        ("none", "False", "False"),
        ("1", "False", "False"),
        ("'a'", "True", "True"),
        ("{}", "True", "True"),
        ("[1, 2][1:]", "True", "True"),
        ("missing", "True", "True"),
    ] {
        let source = format!("{{{{ {value} is iterable }}}} {{{{ {value} is sequence }}}}");
        assert_eq!(
            render(&source, ""),
            format!("{iterable} {sequence}"),
            "{value}"
        );
    }
    assert_eq!(
        render(
            "{{ missing | length }}{{ [1][1:] | count }}{{ 'é' | length }}",
            ""
        ),
        "001"
    );
}

#[test]
fn date_is_that_of_the_caller() {
    assert_eq!(render("{{ strftime_now('%d %b %Y') }}", ""), "09 Mar 2025");
}

#[test]
fn special_tokens_give_way_to_variables_of_the_request() {
    assert_eq!(render("{{ bos_token }}{{ eos_token }}", ""), "<s></s>");
    assert_eq!(render("{{ bos_token }}", r#""bos_token": "[B]", "#), "[B]");
}

#[test]
fn generation_prompt_is_on_unless_told_otherwise() {
    let source = "{{ add_generation_prompt }}";
    assert_eq!(render(source, ""), "True");
    assert_eq!(
        render(source, r#""add_generation_prompt": false, "#),
        "False"
    );
}

#[test]
fn tool_use_template_is_taken_for_tools() {
    let templates = ["default", "tool_use", "rag"].map(|name| NamedTemplate {
        name: name.into(),
        source: name.into(),
    });
    let chat = ChatTemplate::new(&templates, &[]).unwrap();
    for (variables, expected) in [
        ("", "default"),
        (r#""tools": null, "#, "default"),
        (r#""tools": [], "#, "tool_use"),
        (r#""tools": [{}], "chat_template": "rag", "#, "rag"),
    ] {
        let request = format!(r#"{{{variables}"messages": [{{}}]}}"#);
        assert_eq!(chat.render(&request).unwrap(), expected);
    }
    let unknown = chat
        .render(r#"{"messages": [{}], "chat_template": "x"}"#)
        .unwrap_err();
    assert_eq!(unknown.status(), Status::InvalidArgument);
    assert!(
        unknown
            .to_string()
            .contains(r#""default", "tool_use", "rag""#)
    );
}

#[test]
fn refusal_of_the_template_reaches_the_caller_in_its_words() {
    let nested =
        "{% macro m() %}{{ raise_exception('roles ' ~ 'must alternate') }}{% endmacro %}{{ m() }}";
    for source in ["{{ raise_exception('roles must alternate') }}", nested] {
        let error = render_with(source, r#"{"messages": [{}]}"#).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        assert_eq!(
            error.to_string(),
            r#"chat template "default" refuses: roles must alternate"#
        );
    }
}

#[test]
fn failure_names_template_and_line() {
    let templates = [NamedTemplate::default_of("a\n{% if %}")];
    let syntax = ChatTemplate::new(&templates, &[]).unwrap_err();
    let runtime = render_with("a\n\n{{ 1 + 'x' }}", r#"{"messages": [{}]}"#).unwrap_err();
    for (error, place) in [(syntax, "line 2: "), (runtime, "line 3: ")] {
        assert_eq!(error.status(), Status::Format);
        let start = format!(r#"chat template "default", {place}"#);
        assert!(error.to_string().starts_with(&start), "{error}");
    }
    let missing = ChatTemplate::new(&[], &[]).unwrap_err();
    assert_eq!(missing.to_string(), "this checkpoint has no chat template");
}

#[test]
fn runaway_templates_are_stopped() {
    for (source, reason) in [
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "fuel",
        ),
        (
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "recursion",
        ),
        (
            "{% for a in range(99) %}{{ 'x' * 100000 }}{% endfor %}",
            "more than 4194",
        ),
    ] {
        let error = render_with(source, r#"{"messages": [{}]}"#).unwrap_err();
        assert_eq!(error.status(), Status::Format);
        assert!(error.to_string().contains(reason), "{error}");
    }
}

/// A template may look back at all messages for each message.
#[test]
fn long_conversations_are_rendered() {
    let source = "{% for m in messages %}{% for n in messages %}{% if n.role == 'x' %}x{% endif %}{% endfor %}{% endfor %}done";
    let messages = vec![r#"{"role": "user", "content": "?"}"#; 600].join(",");
    let request = format!(r#"{{"messages": [{messages}]}}"#);
    assert_eq!(render_with(source, &request).unwrap(), "done");
}

#[test]
fn deep_templates_need_no_stack_of_the_caller() {
    let deep = "{% macro f(x) %}{% for y in [x] %}{% set z %}{{ f([y]) }}{% endset %}{{ z }}{% endfor %}{% endmacro %}{{ f([1]) }}";
    let list_in_list = "{% set n = namespace(x=1) %}{% for i in range(20000) %}{% set n.x = [n.x] %}{% endfor %}done";
    let run = move || {
        let request = r#"{"messages": [{}]}"#;
        let error = render_with(deep, request).unwrap_err();
        assert!(error.to_string().contains("recursion"), "{error}");
        assert_eq!(render_with(list_in_list, request).unwrap(), "done");
        let nested_400_times = format!("{}1{}", "(".repeat(400), ")".repeat(400));
        let templates = [NamedTemplate::default_of(format!(
            "{{{{ {nested_400_times} }}}}"
        ))];
        assert!(ChatTemplate::new(&templates, &[]).is_err());
    };
    let thread = std::thread::Builder::new().stack_size(128 << 10).spawn(run);
    thread.unwrap().join().unwrap();
}

#[test]
fn malformed_requests_say_what_is_wrong() {
    for (request, expected) in [
        ("", "the chat request is not a JSON object: "),
        ("[]", "the chat request is not a JSON object: "),
        ("{}", "the chat request needs a list called messages"),
        (r#"{"messages": []}"#, "messages is empty"),
        (r#"{"messages": [{}, 1]}"#, "messages[1] is not an object"),
        (
            r#"{"messages": [{}], "tools": {}}"#,
            "tools must be a list of objects",
        ),
        (
            r#"{"messages": [{}], "documents": [1]}"#,
            "documents must be a list of objects",
        ),
        (
            r#"{"messages": [{}], "chat_template": 1}"#,
            "chat_template must be the name",
        ),
        (
            r#"{"messages": [{}], "add_generation_prompt": 1}"#,
            "add_generation_prompt must be",
        ),
        (
            r#"{"messages": [{}], "continue_final_message": true}"#,
            "continue_final_message is set",
        ),
        (
            r#"{"messages": [{"content": "x"}], "continue_final_message": true, "add_generation_prompt": true}"#,
            "add_generation_prompt begins a new message",
        ),
    ] {
        let error = render_with("{{ messages }}", request).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

fn continue_with(source: &str, message: &str) -> Result<String> {
    let request = format!(r#"{{"messages": [{message}], "continue_final_message": true}}"#);
    render_with(source, &request)
}

#[test]
fn continued_message_ends_the_prompt() {
    let plain = "[{{ messages[0].content }}]</s>";
    let trimming = "[{{ messages[0].content | trim }}]</s>";
    let parts = "[{{ messages[0].content[0].text }}]</s>";
    let text = r#"{"role": "assistant", "content": "Once upon "}"#;
    let in_parts = r#"{"content": [{"type": "text", "text": "Once "}, {"type": "image"}]}"#;
    assert_eq!(continue_with(plain, text).unwrap(), "[Once upon ");
    assert_eq!(continue_with(trimming, text).unwrap(), "[Once upon");
    assert_eq!(continue_with(parts, in_parts).unwrap(), "[Once ");
}

#[test]
fn message_that_the_template_drops_cannot_be_continued() {
    let text = r#"{"role": "assistant", "content": "Once"}"#;
    for source in ["{# content #}nothing", "{{ messages[0].role }}"] {
        let error = continue_with(source, text).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
    }
}

#[test]
fn continued_reasoning_is_found_under_its_other_names() {
    let request = r#"{"messages": [{"content": "x", "reasoning": "so "}], "continue_final_message": "reasoning"}"#;
    let source = "<think>{{ messages[0].reasoning_content }}</think>{{ messages[0].content }}";
    assert_eq!(render_with(source, request).unwrap(), "<think>so ");
}
