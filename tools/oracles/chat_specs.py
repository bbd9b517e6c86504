"""Chat template cases, as data: which template gets which conversation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]

NOW = "2025-03-09T14:05:07"  # what strftime_now sees


@dataclass(frozen=True)
class ChatCase:
    name: str
    template: str  # the name of a file in templates/
    messages: list[Message]
    tools: list[Any] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)


def _m(role: str, content: Any, **rest: Any) -> Message:
    return {"role": role, "content": content, **rest}


def _call(name: str, arguments: Any, **rest: Any) -> dict[str, Any]:
    return {**rest, "type": "function", "function": {"name": name, "arguments": arguments}}


_PROMPT = {"add_generation_prompt": True}
_SYSTEM = _m("system", "  You are terse.\n")
_ASK = _m("user", " What is 2 + 2?\n")
_ANSWER = _m("assistant", " Four. ")
_UNICODE = _m("user", "Grüße 👩‍🚀 שלום “<b>&amp;</b>” \\ 'x' \"y\" 漢字\ttab")
_DIALOG = [_SYSTEM, _ASK, _ANSWER, _UNICODE]
_WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place <now>, in °C & with 'quotes'.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City, e.g. Zürich"},
                "days": {"type": "integer", "minimum": 1, "default": None},
                "precision": {"type": "number", "multipleOf": 0.01, "maximum": 1.0},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}
_NUMBERS_TOOL = {
    "type": "function",
    "function": {
        "name": "scale",
        "description": "",
        "parameters": {
            "type": "object",
            "properties": {
                "tiny": {"type": "number", "default": 1e-07},
                "huge": {"type": "number", "default": 1e16},
                "big": {"type": "integer", "default": 9007199254740993},
                "empty": {"type": "array", "items": {}, "default": []},
            },
        },
    },
}
_TOOLS = [_WEATHER_TOOL, _NUMBERS_TOOL]
_WEATHER_CALL = _call("get_weather", {"place": "Zürich", "days": 2}, id="call00001")
_CALL_WITHOUT_CONTENT: Message = {"role": "assistant", "tool_calls": [_WEATHER_CALL]}
_TOOL_DIALOG = [
    _SYSTEM,
    _m("user", "Weather in Zürich?"),
    _m("assistant", "", tool_calls=[_WEATHER_CALL]),
    _m("tool", '{"celsius": 21.5}', tool_call_id="call00001", name="get_weather"),
]
_TWO_CALLS = [
    _m("user", "Weather in Bern and Basel?"),
    _m(
        "assistant",
        "<think>\nTwo calls.\n</think>\n\nLet me see.",
        tool_calls=[
            _call("get_weather", {"place": "Bern"}, id="call00001"),
            _call("get_weather", '{"place": "Basel"}', id="call00002"),
        ],
    ),
    _m("tool", "20", tool_call_id="call00001"),
    _m("tool", "19", tool_call_id="call00002"),
]
_THINKING = [
    _m("user", "One?"),
    _m("assistant", "<think>\nold thought\n</think>\n\nOne."),
    _m("user", "Two?"),
    _m("assistant", "<think>\nnew thought\n</think>\n\nTwo."),
]
_PARTS = [
    _m("system", [{"type": "text", "text": "Look closely."}]),
    _m("user", [{"type": "image"}, {"type": "text", "text": " What is it? "}]),
]

CASES: tuple[ChatCase, ...] = (
    ChatCase("plain", "llama3-like", [_ASK], None, _PROMPT),
    ChatCase("dialog-given-date", "llama3-like", _DIALOG, None, {"date_string": "26 Jul 2024"}),
    ChatCase("system-only", "llama3-like", [_SYSTEM], None, _PROMPT),
    ChatCase("tools-in-user-message", "llama3-like", [_SYSTEM, _ASK], _TOOLS, _PROMPT),
    ChatCase(
        "tools-in-system-message",
        "llama3-like",
        _TOOL_DIALOG,
        _TOOLS,
        _PROMPT | {"tools_in_user_message": False},
    ),
    ChatCase("custom-tools", "llama3-like", [_ASK], None, {"custom_tools": [_WEATHER_TOOL]}),
    ChatCase("tools-without-user", "llama3-like", [_SYSTEM], _TOOLS),
    ChatCase("two-tool-calls", "llama3-like", _TWO_CALLS, _TOOLS),
    ChatCase("plain", "qwen-like", [_ASK], None, _PROMPT),
    ChatCase("no-thinking", "qwen-like", [_ASK], None, _PROMPT | {"enable_thinking": False}),
    ChatCase("dialog", "qwen-like", _DIALOG, None, _PROMPT),
    ChatCase("tool-dialog", "qwen-like", _TOOL_DIALOG, _TOOLS, _PROMPT),
    ChatCase("two-tool-calls", "qwen-like", _TWO_CALLS, [_WEATHER_TOOL], _PROMPT),
    ChatCase("empty-tools", "qwen-like", [_ASK], [], _PROMPT),
    ChatCase("thoughts-of-earlier-turns-are-dropped", "qwen-like", _THINKING),
    ChatCase(
        "reasoning-content",
        "qwen-like",
        [_ASK, _m("assistant", "Four.", reasoning_content="\n2 + 2 = 4\n")],
    ),
    ChatCase(
        "reasoning-under-another-name",
        "qwen-like",
        [_ASK, _m("assistant", "Four.", reasoning="2 + 2 = 4")],
    ),
    ChatCase(
        "continued-final-message",
        "qwen-like",
        [_ASK, _m("assistant", "The answer is ")],
        None,
        {"continue_final_message": True},
    ),
    ChatCase("missing-content", "qwen-like", [_ASK, _CALL_WITHOUT_CONTENT]),
    ChatCase("null-content", "qwen-like", [_ASK, _CALL_WITHOUT_CONTENT | {"content": None}]),
    ChatCase("null-tool-calls", "qwen-like", [_ASK, _m("assistant", "Four.", tool_calls=None)]),
    ChatCase("plain", "mistral-like", [_ASK], None, _PROMPT),
    ChatCase("dialog", "mistral-like", _DIALOG),
    ChatCase("tool-dialog", "mistral-like", _TOOL_DIALOG, _TOOLS),
    ChatCase("two-users-in-a-row", "mistral-like", [_ASK, _UNICODE]),
    ChatCase("unknown-role", "mistral-like", [_ASK, _m("narrator", "Meanwhile")]),
    ChatCase(
        "short-tool-call-id",
        "mistral-like",
        [_ASK, _m("assistant", "", tool_calls=[_call("f", {}, id="1")])],
    ),
    ChatCase("plain", "gemma-like", [_ASK], None, _PROMPT),
    ChatCase("dialog", "gemma-like", _DIALOG, None, _PROMPT),
    ChatCase("content-parts", "gemma-like", _PARTS, None, _PROMPT),
    ChatCase("starts-with-assistant", "gemma-like", [_ANSWER]),
    ChatCase("number-as-content", "gemma-like", [_m("user", 7)]),
    ChatCase("dialog", "whitespace", _DIALOG),
    ChatCase(
        "comments-and-stop",
        "control-flow",
        [
            _m("user", "one two three four"),
            _m("comment", "not shown"),
            _m("assistant", "Incomprehensibilities abound\nhere", name="ada lovelace"),
            _m("stop", ""),
            _m("user", "never reached"),
        ],
        _TOOLS,
        {"system": "None"},
    ),
    ChatCase("no-tools", "control-flow", [_ASK], None, {"system": "on"}),
    ChatCase("variables-that-are-always-there", "defined", [_ASK]),
    ChatCase("dialog", "generation-tag", _DIALOG, None, _PROMPT),
    ChatCase(
        "values", "python-printing", [_m("user", "it's", flag=True, number=1.5, nothing=None)]
    ),
)
