"""Generating text in asyncio."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from ._generation import Generation, GenerationResult

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec, Self

    P = ParamSpec("P")

Owner = TypeVar("Owner")
Result = TypeVar("Result")


class AsyncGeneration(AsyncIterator[str]):
    """Text as it is generated: an asynchronous iterator of pieces, each of whole
    characters.

    The event loop runs on while a piece is computed. A task that is cancelled while
    it waits for one stops the generation, and the context is free when the task
    ends; what was generated stays in the sequence.
    """

    def __init__(self, generation: Generation) -> None:
        """For `Context.generate_async`."""
        self._generation = generation

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        piece = await self._compute(lambda: next(self._generation, None))
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def text(self) -> str:
        """Generates what is left; returns the whole text, with the pieces that were
        already iterated over."""
        return await self._compute(self._generation.text)

    @property
    def result(self) -> GenerationResult:
        """As `Generation.result`."""
        return self._generation.result

    async def aclose(self) -> None:
        """Stops it where it is and waits for that. Closing again does nothing."""
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(None, self._generation.close))

    async def _compute(self, call: Callable[[], Result]) -> Result:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(None, call)
        except asyncio.CancelledError:
            await self.aclose()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def asynchronous(
    generate: Callable[Concatenate[Owner, P], Generation],
) -> Callable[Concatenate[Owner, P], AsyncGeneration]:
    """The same function for asyncio."""

    @functools.wraps(generate)
    def begin(owner: Owner, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGeneration:
        return AsyncGeneration(generate(owner, *args, **kwargs))

    begin.__doc__ = f"""As `{generate.__name__}`, for asyncio:

            async for piece in context.{generate.__name__}_async("Once upon a time"):
                print(piece, end="", flush=True)
        """
    return begin
