"""The command `run`: a conversation in the terminal, or one answer."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .._context import Context
from .._generation import Generation, GenerationResult
from .._memory import memory_stats
from .._model import Model
from ..errors import InvalidArgumentError
from .output import Commands, Part, as_json, show, size

Message = Mapping[str, str]


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "run",
        help="a conversation, or one answer",
        description="Begins a conversation with a model, or gives one answer to PROMPT, "
        "or to standard input if that is no terminal. Ctrl-C cancels an answer, Ctrl-D "
        "ends the conversation.",
    )
    parser.add_argument("model", help="the folder of a model, or a GGUF file")
    parser.add_argument("prompt", nargs="?", help="answer this and end")
    parser.add_argument("--system", help="a message that comes first")
    parser.add_argument("--max-tokens", type=int, default=0, help="of an answer")
    parser.add_argument("--temperature", type=float, default=0.7, help="0: greedy")
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-ctx", type=int, default=0, help="tokens of the context")
    parser.add_argument(
        "--raw", action="store_true", help="go on with the text; no chat template"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per answer, at its end"
    )
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> str:
    """Shows everything itself and leaves nothing to print."""
    with Model.open(given.model) as model, model.context(given.n_ctx) as context:
        is_chat = model.info.has_chat_template and not given.raw
        messages: list[Message] = []
        if given.system is not None:
            if not is_chat:
                raise InvalidArgumentError(
                    "--system takes a model with a chat template"
                )
            messages.append({"role": "system", "content": given.system})
        for prompt in _prompts(given):
            messages.append({"role": "user", "content": prompt})
            generation = _generation(context, messages if is_chat else prompt, given)
            text = _stream(generation, given.json)
            messages.append({"role": "assistant", "content": text})
    return ""


def _prompts(given: argparse.Namespace) -> Iterator[str]:
    if given.prompt is not None:
        yield given.prompt
    elif not sys.stdin.isatty():
        yield sys.stdin.read()
    else:
        yield from _typed_lines()


def _typed_lines() -> Iterator[str]:
    with contextlib.suppress(ImportError):
        # Lets the arrow keys edit the line.
        import readline  # noqa: F401
    while True:
        try:
            line = input("> ")
        except KeyboardInterrupt:
            print("\n(Ctrl-D ends the conversation)")
            continue
        except EOFError:
            print()
            return
        if line.strip():
            yield line


def _generation(
    context: Context, request: list[Message] | str, given: argparse.Namespace
) -> Generation:
    settings: dict[str, Any] = {
        "max_tokens": given.max_tokens,
        "temperature": given.temperature,
        "top_p": given.top_p,
        "seed": given.seed,
    }
    if isinstance(request, str):
        return context.generate(request, **settings)
    text = context.model.render_chat(request)
    tokens = context.model.tokenize(text, add_special=False, parse_special=True)
    # The sequence holds most of the conversation already.
    n_kept = context.reuse_prefix(tokens)
    return context.generate(tokens=tokens[n_kept:], **settings)


def _stream(generation: Generation, is_json: bool) -> str:
    pieces: list[str] = []
    is_cancelled = False
    with generation:
        try:
            for piece in generation:
                pieces.append(piece)
                if not is_json:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            is_cancelled = True
    text = "".join(pieces)
    if is_json:
        print(_as_json(generation, text, is_cancelled), flush=True)
        return text
    print(" (cancelled)" if is_cancelled else "", flush=True)
    if not is_cancelled and sys.stderr.isatty():
        show(_status(generation.context, generation.result), sys.stderr)
    return text


def _as_json(generation: Generation, text: str, is_cancelled: bool) -> str:
    return as_json(
        {
            "text": text,
            "cancelled": is_cancelled,
            "result": None if is_cancelled else generation.result,
            "n_ctx": generation.context.info.n_ctx,
            "n_tokens_held": generation.context.length(),
            "memory": memory_stats(),
        },
        indent=None,
    )


def _status(context: Context, result: GenerationResult) -> Iterator[Part]:
    """Speed, how full the context is, and where the memory is."""
    memory = memory_stats()
    yield Part(f"{result.tokens_per_second:.1f} tokens/s", "bold")
    yield Part(f"  {context.length()} of {context.info.n_ctx} tokens", "dim")
    rows = [
        ("weights", memory.weights_mapped_bytes, "green"),
        ("copied", memory.weights_copied_bytes, "red"),
        ("KV", memory.kv_reserved_bytes, "cyan"),
        ("scratch", memory.scratch_bytes + memory.mlx_cache_bytes, "yellow"),
        ("process", memory.process_anonymous_bytes, "magenta"),
    ]
    for name, n_bytes, style in rows:
        if n_bytes:
            yield Part(f"  {name} ", "dim")
            yield Part(size(n_bytes), style)
