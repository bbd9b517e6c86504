"""What to generate, as the C API takes it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from . import _arguments, _ffi
from ._arguments import Tokens
from ._constraint import Constraint
from ._sampling import Sampler, Sampling, sampler_params
from .errors import InvalidArgumentError

SamplingDevice = Literal["auto", "cpu", "gpu"]

_SAMPLING_DEVICES: dict[SamplingDevice, int] = {
    "auto": _ffi.DEVICE_AUTO,
    "cpu": _ffi.DEVICE_CPU,
    "gpu": _ffi.DEVICE_GPU,
}


class GenerateOptions(TypedDict, total=False):
    """The keywords of `Context.generate` that say what to generate; see there."""

    messages: Sequence[Mapping[str, Any]] | None
    tools: Sequence[Mapping[str, Any]] | None
    template_kwargs: Mapping[str, Any] | None
    tokens: Tokens | None
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    repetition_window: int
    seed: int
    stop: str | Iterable[str]
    ignore_end: bool
    sampler: Sampler | None
    n_draft: int
    ngram: int
    timeout: float | None
    sampling_device: SamplingDevice
    constraint: Constraint | None


def generate_params(
    prompt: str | None = None,
    *,
    messages: Sequence[Mapping[str, Any]] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    tokens: Tokens | None = None,
    max_tokens: int = 0,
    stop: str | Iterable[str] = (),
    ignore_end: bool = False,
    sampler: Sampler | None = None,
    n_draft: int = 0,
    ngram: int = 0,
    timeout: float | None = None,
    sampling_device: SamplingDevice = "auto",
    constraint: Constraint | None = None,
    **sampling: Any,
) -> _ffi.GenerateParams:
    """Checks the arguments of `Context.generate`; `sampler`, `constraint` and the
    sequence are left to the call."""
    chosen = Sampling(**sampling)
    if sampler is not None:
        _arguments.instance("sampler", sampler, Sampler)
    if constraint is not None:
        _arguments.instance("constraint", constraint, Constraint)
    if sampler is not None and chosen != Sampling():
        raise InvalidArgumentError(
            "give either a sampler or temperature, top_k and so on, not both"
        )
    if messages is None and (tools is not None or template_kwargs is not None):
        raise InvalidArgumentError("tools and template_kwargs are only for messages")
    if sum(given is not None for given in (prompt, messages, tokens)) != 1:
        raise InvalidArgumentError("give exactly one of prompt, messages and tokens")
    stops = [
        _arguments.utf8_without_nul("a stop string", text)
        for text in ([stop] if isinstance(stop, str) else stop)
    ]
    params = _ffi.GenerateParams(
        max_tokens=_arguments.u32("max_tokens", max_tokens),
        flags=_ffi.GENERATE_IGNORE_END if ignore_end else 0,
        stop=(ctypes.c_char_p * len(stops))(*stops),
        n_stop=len(stops),
        sampling=ctypes.pointer(sampler_params(chosen)),
        n_draft=_arguments.u32("n_draft", n_draft),
        ngram=_arguments.u32("ngram", ngram),
        deadline_ms=_arguments.milliseconds("timeout", timeout),
        sampling_device=_arguments.choice(
            "sampling_device", sampling_device, _SAMPLING_DEVICES
        ),
    )
    if prompt is not None:
        params.prompt = _arguments.utf8_without_nul("prompt", prompt)
    if messages is not None:
        params.chat = _arguments.chat_request(messages, tools, template_kwargs or {})
    if tokens is not None:
        ids = _arguments.int32_array("tokens", tokens)
        params.tokens, params.n_tokens = ids, len(ids)
    return params
