"""Generating in asyncio."""

from __future__ import annotations

import asyncio

import pytest

import umrt


def test_pieces_come_as_those_of_a_generation(context: umrt.Context) -> None:
    expected = context.generate("a", max_tokens=20, ignore_end=True).text()
    context.trim(0, 0)

    async def collect() -> str:
        generation = context.generate_async("a", max_tokens=20, ignore_end=True)
        return "".join([piece async for piece in generation])

    assert asyncio.run(collect()) == expected != ""


def test_text_and_result_are_those_of_a_generation(context: umrt.Context) -> None:
    async def generate() -> tuple[str, int]:
        async with context.generate_async("a", max_tokens=5, ignore_end=True) as made:
            text = await made.text()
            return text, made.result.n_tokens

    text, n_tokens = asyncio.run(generate())
    assert text and n_tokens == 5


def test_the_event_loop_runs_meanwhile(chat_model: umrt.Model) -> None:
    with chat_model.context(n_ctx=8192) as context:

        async def generate_and_tick() -> int:
            n_ticks = 0
            generation = context.generate_async(
                tokens=[7] * 8000, max_tokens=1, ignore_end=True
            )
            task = asyncio.create_task(generation.text())
            while not task.done():
                await asyncio.sleep(0.001)
                n_ticks += 1
            await task
            return n_ticks

        assert asyncio.run(generate_and_tick()) > 5


def test_a_cancelled_task_leaves_a_usable_context(chat_model: umrt.Model) -> None:
    with chat_model.context(n_ctx=200_000) as context:

        async def cancel_in_the_middle() -> None:
            generation = context.generate_async(
                tokens=[7] * 199_000, max_tokens=1, ignore_end=True
            )
            task = asyncio.create_task(generation.text())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # Not busy any more.
            assert context.length() == 0

        asyncio.run(cancel_in_the_middle())


def test_several_generate_at_once(chat_model: umrt.Model) -> None:
    async def generate(context: umrt.Context) -> str:
        return await context.generate_async("a", max_tokens=10, ignore_end=True).text()

    async def generate_all() -> list[str]:
        contexts = [chat_model.context() for _ in range(8)]
        texts = await asyncio.gather(*map(generate, contexts))
        for context in contexts:
            context.close()
        return texts

    assert len(set(asyncio.run(generate_all()))) == 1


def test_errors_are_those_of_a_generation(context: umrt.Context) -> None:
    async def generate() -> None:
        async for _ in context.generate_async(tokens=[10**6]):
            pass

    with pytest.raises(umrt.InvalidArgumentError):
        asyncio.run(generate())
