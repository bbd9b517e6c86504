"""From logits to a token."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from dataclasses import dataclass
from typing import SupportsIndex

from . import _arguments, _ffi
from ._constraint import Constraint
from ._handle import Closeable, Handle


@dataclass(frozen=True)
class Sampling:
    """How to choose a token. 0 means off; all zero is greedy decoding.

    The stages come in this order: penalties, temperature, top-k, top-p, min-p.
    """

    temperature: float = 0.0
    """Divides the logits: 0 to 100. 0 takes the most likely token."""
    top_k: int = 0
    """Keeps this many of the most likely tokens."""
    top_p: float = 0.0
    """Keeps the most likely tokens that add up to this probability: 0 to 1."""
    min_p: float = 0.0
    """Drops tokens less likely than this times the most likely: 0 to 1."""
    repetition_penalty: float = 0.0
    """Divides positive and multiplies negative logits of tokens in the window:
    0 to 100; 1 is off too."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of a token in the window: -100 to 100."""
    frequency_penalty: float = 0.0
    """Subtracted for each time that a token is in the window: -100 to 100."""
    repetition_window: int = 0
    """How many of the last tokens the penalties look at, up to 2**20."""
    seed: int = 0
    """The same seed gives the same tokens, on every machine."""


def sampler_params(sampling: Sampling) -> _ffi.SamplerParams:
    """As the C API wants them; it checks the ranges."""
    return _ffi.SamplerParams(
        temperature=_arguments.real("temperature", sampling.temperature),
        top_k=_arguments.u32("top_k", sampling.top_k),
        top_p=_arguments.real("top_p", sampling.top_p),
        min_p=_arguments.real("min_p", sampling.min_p),
        repetition_penalty=_arguments.real(
            "repetition_penalty", sampling.repetition_penalty
        ),
        presence_penalty=_arguments.real("presence_penalty", sampling.presence_penalty),
        frequency_penalty=_arguments.real(
            "frequency_penalty", sampling.frequency_penalty
        ),
        repetition_window=_arguments.u32(
            "repetition_window", sampling.repetition_window
        ),
        seed=_arguments.integer("seed", sampling.seed, 0, _arguments.U64_MAX),
    )


class Sampler(Closeable):
    """Chooses tokens, and remembers them for penalties.

    Takes one call at a time: a second, overlapping one raises `BusyError`.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        min_p: float = 0.0,
        repetition_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_window: int = 0,
        seed: int = 0,
    ) -> None:
        """The parameters are those of `Sampling`; all zero is greedy decoding.

        Raises `InvalidArgumentError` that names the parameter and its range.
        """
        self.sampling = Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_window=repetition_window,
            seed=seed,
        )
        params = sampler_params(self.sampling)
        super().__init__(
            Handle.create(
                "Sampler",
                _ffi.lib.umrt_sampler_free,
                _ffi.lib.umrt_sampler_new,
                ctypes.byref(params),
            )
        )

    def reset(self) -> None:
        """Goes back to the beginning: the seed again, no remembered tokens, no
        constraint."""
        with self._handle as address:
            _ffi.check(_ffi.lib.umrt_sampler_reset(address))

    def constrain(self, constraint: Constraint | None) -> None:
        """From the next token on, `Context.sample` chooses what the constraint allows;
        where nothing can follow, a token that ends texts. None: anything again.
        Generations have their own constraint, in their arguments."""
        if constraint is not None:
            _arguments.instance("constraint", constraint, Constraint)
        with (
            self._handle as address,
            constraint._handle if constraint else nullcontext() as wanted,
        ):
            _ffi.check(_ffi.lib.umrt_sampler_constrain(address, wanted))

    def accept(self, token: SupportsIndex) -> None:
        """Remembers a token that was not chosen by this sampler, such as those
        of a prompt, for the penalties, and for a constraint, which is to be set
        behind the prompt.

        Raises InvalidArgumentError if the constraint does not allow it here.
        """
        with self._handle as address:
            _ffi.check(
                _ffi.lib.umrt_sampler_accept(address, _arguments.i32("token", token))
            )
