"""Cancelling, and Ctrl-C, in the middle of long calls."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import umrt

# Far more than is computed before the interruption.
N_CTX = 200_000
DELAY_SECONDS = 0.3
# What the tests allow on a busy machine; it is far less than the call would take.
PATIENCE_SECONDS = 20


@contextmanager
def soon(action: Callable[[], object]) -> Iterator[None]:
    """Does something from another thread, a moment later."""
    timer = threading.Timer(DELAY_SECONDS, action)
    timer.start()
    began = time.monotonic()
    try:
        yield
    finally:
        timer.join()
    assert DELAY_SECONDS <= time.monotonic() - began < PATIENCE_SECONDS


@pytest.fixture
def long_context(chat_model: umrt.Model) -> Iterator[umrt.Context]:
    with chat_model.context(n_ctx=N_CTX) as context:
        yield context


def interrupt_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_from_this_thread() -> None:
    """The main thread is not woken by a signal that another thread receives."""
    signal.raise_signal(signal.SIGINT)


def endless(
    context: umrt.Context, cancel: umrt.Cancel | None = None
) -> umrt.Generation:
    return context.generate("a", ignore_end=True, temperature=1.0, cancel=cancel)


@pytest.mark.parametrize("interrupt", [interrupt_process, interrupt_from_this_thread])
def test_ctrl_c_stops_a_generation(
    long_context: umrt.Context, interrupt: Callable[[], None]
) -> None:
    generation = endless(long_context)
    next(generation)
    with pytest.raises(KeyboardInterrupt), soon(interrupt):
        generation.text()
    length = long_context.length()
    assert 0 < length < N_CTX - 1
    long_context.generate("b", max_tokens=1, ignore_end=True).text()
    assert long_context.length() > length


def test_ctrl_c_between_pieces_leaves_a_usable_context(
    long_context: umrt.Context,
) -> None:
    generation = endless(long_context)
    next(generation)
    with pytest.raises(KeyboardInterrupt), soon(interrupt_process), generation:
        for _ in generation:
            time.sleep(0.001)
    assert long_context.length() > 0


@pytest.mark.parametrize("interrupt", [interrupt_process, interrupt_from_this_thread])
def test_ctrl_c_stops_an_evaluation(
    long_context: umrt.Context, interrupt: Callable[[], None]
) -> None:
    with pytest.raises(KeyboardInterrupt), soon(interrupt):
        long_context.eval([7] * (N_CTX - 1))
    assert long_context.length() == 0
    assert long_context.eval([1, 2, 3]) == 1


def test_ctrl_c_stops_an_evaluation_within_50_ms(long_context: umrt.Context) -> None:
    def seconds_until_stopped() -> float:
        pressed: list[float] = []

        def press() -> None:
            pressed.append(time.monotonic())
            interrupt_process()

        with pytest.raises(KeyboardInterrupt), soon(press):
            long_context.eval([7] * (N_CTX - 1))
        return time.monotonic() - pressed[0]

    # Once is enough: on a busy machine threads wait for each other.
    assert any(seconds_until_stopped() < 0.05 for _ in range(20))


def test_ctrl_c_stops_the_prompt_of_a_generation(long_context: umrt.Context) -> None:
    with pytest.raises(KeyboardInterrupt), soon(interrupt_process):
        next(long_context.generate(tokens=[7] * (N_CTX - 1)))
    assert long_context.length() == 0


@pytest.mark.parametrize("interrupt", [interrupt_process, interrupt_from_this_thread])
def test_ctrl_c_stops_a_step_and_leaves_its_requests(
    chat_model: umrt.Model, interrupt: Callable[[], None]
) -> None:
    with chat_model.context(n_ctx=N_CTX, prefill_chunk=N_CTX) as context:
        scheduler = umrt.Scheduler(context)
        request = scheduler.submit(tokens=[7] * (N_CTX - 1))
        with pytest.raises(KeyboardInterrupt), soon(interrupt):
            scheduler.step()
        assert context.length() == 0
        request.cancel()
        assert scheduler.step().n_running == 0
        with pytest.raises(umrt.CancelledError):
            _ = request.result


def test_another_thread_cancels_a_generation(long_context: umrt.Context) -> None:
    cancel = umrt.Cancel()
    generation = endless(long_context, cancel)
    with pytest.raises(umrt.CancelledError) as caught, soon(cancel.trigger):
        for _ in generation:
            pass
    assert caught.value.status_name == "CANCELLED"
    assert cancel.triggered
    with pytest.raises(umrt.CancelledError):
        _ = generation.result
    with pytest.raises(umrt.CancelledError):
        next(endless(long_context, cancel))
    cancel.reset()
    assert not cancel.triggered
    with endless(long_context, cancel) as again:
        assert next(again)
    assert not cancel._followers, "it would hold on to all that it ever stopped"


def test_another_thread_cancels_an_evaluation(long_context: umrt.Context) -> None:
    cancel = umrt.Cancel()
    with pytest.raises(umrt.CancelledError), soon(cancel.trigger):
        long_context.eval([7] * (N_CTX - 1), cancel=cancel)
    assert long_context.length() == 0


def test_a_thread_that_is_not_the_main_one_is_cancelled_too(
    long_context: umrt.Context,
) -> None:
    cancel = umrt.Cancel()
    caught: list[BaseException] = []

    def work() -> None:
        try:
            long_context.eval([7] * (N_CTX - 1), cancel=cancel)
        except umrt.CancelledError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises(umrt.BusyError, match="another call"):
        while thread.is_alive():
            long_context.length()
            time.sleep(0.001)
    cancel.trigger()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive() and len(caught) == 1


def test_short_evaluations_obey_a_cancel(long_context: umrt.Context) -> None:
    with umrt.Cancel() as cancel:
        cancel.trigger()
        with pytest.raises(umrt.CancelledError):
            long_context.eval([1], cancel=cancel)
        cancel.reset()
        assert long_context.eval([1], cancel=cancel) == 1
    with pytest.raises(ValueError, match="this Cancel is closed"):
        cancel.trigger()
    with pytest.raises(ValueError, match="this Cancel is closed"):
        long_context.eval([1], cancel=cancel)


def test_closing_from_another_thread_ends_the_iteration(
    long_context: umrt.Context,
) -> None:
    generation = endless(long_context)
    first = next(generation)
    with soon(generation.close):
        text = generation.text()
    assert text == generation.text() != ""
    assert text.startswith(first)


def test_closing_does_not_trigger_the_users_cancel(long_context: umrt.Context) -> None:
    cancel = umrt.Cancel()
    with endless(long_context, cancel) as generation:
        next(generation)
    assert not cancel.triggered
    assert long_context.eval([1], cancel=cancel) == 1


def test_one_cancel_stops_many_calls(chat_model: umrt.Model) -> None:
    cancel = umrt.Cancel()
    contexts = [chat_model.context(n_ctx=N_CTX) for _ in range(2)]
    generations = [endless(context, cancel) for context in contexts]
    for generation in generations:
        next(generation)
    cancel.trigger()
    for generation in generations:
        with pytest.raises(umrt.CancelledError):
            generation.text()
    for context in contexts:
        context.close()


def test_other_python_threads_run_meanwhile(long_context: umrt.Context) -> None:
    """Native calls do not hold the GIL."""
    cancel = umrt.Cancel()

    def tick() -> None:
        for _ in range(30):
            time.sleep(0.01)
        cancel.trigger()

    thread = threading.Thread(target=tick)
    thread.start()
    with pytest.raises(umrt.CancelledError):
        long_context.eval([7] * (N_CTX - 1), cancel=cancel)
    thread.join()


def test_an_evaluation_that_takes_too_long_changes_nothing(
    long_context: umrt.Context,
) -> None:
    long_context.eval([1, 2, 3])
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        long_context.eval([5] * (N_CTX - 10), timeout=0.05)
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert isinstance(caught.value, umrt.DeadlineExceededError)
    assert caught.value.status_name == "DEADLINE_EXCEEDED"
    assert long_context.length() == 3
    long_context.eval([4], timeout=60)


def test_a_generation_that_takes_too_long_keeps_its_tokens(
    long_context: umrt.Context,
) -> None:
    # The second is for a machine that is too busy for any token in the first.
    for timeout in [1, 30]:
        generation = long_context.generate("a", ignore_end=True, timeout=timeout)
        with pytest.raises(umrt.DeadlineExceededError):
            generation.text()
        if long_context.length() > 0:
            break
    assert 0 < long_context.length() < N_CTX


@pytest.mark.parametrize("timeout", [0, -1, 1e9, float("nan"), float("inf")])
def test_a_timeout_has_to_be_a_time(long_context: umrt.Context, timeout: float) -> None:
    with pytest.raises(umrt.InvalidArgumentError, match="timeout"):
        long_context.eval([1], timeout=timeout)
