"""Objects end in any order, also at the end of the process."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

import umrt

KINDS = ("model", "context", "sampler", "detokenizer", "cancel", "generation")


def family(folder: Path) -> dict[str, Any]:
    """One object of each kind, in the middle of work."""
    model = umrt.Model.open(folder)
    context = model.context()
    sampler = umrt.Sampler(temperature=1.0)
    cancel = umrt.Cancel()
    detokenizer = model.detokenizer()
    detokenizer.push(10)
    generation = context.generate("a", sampler=sampler, cancel=cancel)
    next(generation)
    return dict(zip(KINDS, (model, context, sampler, detokenizer, cancel, generation)))


ORDERS = list(itertools.permutations(KINDS))[::31]


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_closing_works(order: tuple[str, ...], chat_folder: Path) -> None:
    objects = family(chat_folder)
    for kind in order:
        objects[kind].close()
    for kind in order:
        objects[kind].close()


@pytest.mark.parametrize("order", ORDERS[::4])
def test_any_order_of_collection_works(
    order: tuple[str, ...], chat_folder: Path
) -> None:
    objects = family(chat_folder)
    memories = [weakref.ref(objects[kind]) for kind in order]
    for kind in order:
        del objects[kind]
        gc.collect()
    assert [memory() for memory in memories] == [None] * len(order)


def test_objects_in_a_cycle_are_collected(chat_folder: Path) -> None:
    used = umrt.memory_stats()
    objects = family(chat_folder)
    objects["cycle"] = objects
    context = weakref.ref(objects["context"])
    del objects
    gc.collect()
    assert context() is None
    after = umrt.memory_stats()
    assert after.kv_reserved_bytes == used.kv_reserved_bytes
    assert after.weights_mapped_bytes == used.weights_mapped_bytes


def test_a_context_outlives_its_closed_model(chat_folder: Path) -> None:
    with umrt.Model.open(chat_folder) as model:
        context = model.context()
        detokenizer = model.detokenizer()
    assert context.eval([1, 2, 3]) == 1
    assert detokenizer.push(10) is not None


def test_closing_frees_although_a_traceback_is_kept(plain_model: umrt.Model) -> None:
    before = umrt.memory_stats().kv_reserved_bytes
    context = plain_model.context()
    context.eval([1, 2, 3])
    with pytest.raises(ValueError) as kept:
        context.eval([100_000])
    assert umrt.memory_stats().kv_reserved_bytes > before
    context.close()
    assert umrt.memory_stats().kv_reserved_bytes == before
    assert kept.value is not None


def test_a_failure_leaves_nothing_to_the_garbage_collector(
    chat_model: umrt.Model,
) -> None:
    def fail() -> None:
        context = chat_model.context(n_ctx=4)
        context.eval([1, 2, 3])
        generation = context.generate("much too long for so small a context")
        with pytest.raises(umrt.NoSpaceError):
            generation.text()
        with pytest.raises(umrt.NoSpaceError):
            _ = generation.result
        assert umrt.memory_stats().kv_reserved_bytes > before

    before = umrt.memory_stats().kv_reserved_bytes
    gc.disable()
    try:
        fail()
        assert umrt.memory_stats().kv_reserved_bytes == before
    finally:
        gc.enable()


def test_closing_while_another_thread_computes(plain_model: umrt.Model) -> None:
    for _ in range(20):
        context = plain_model.context(n_ctx=4096)
        outcomes: list[Any] = []

        def work(
            context: umrt.Context = context, outcomes: list[Any] = outcomes
        ) -> None:
            try:
                while True:
                    context.eval([1, 2, 3])
            except umrt.UmrtError as error:
                outcomes.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        while not thread.is_alive():
            pass
        context.close()
        thread.join(10)
        assert not thread.is_alive()
        assert isinstance(outcomes[0], (umrt.InvalidArgumentError, umrt.NoSpaceError))


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    package = str(Path(umrt.__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": package,
        "UMRT_LIBRARY": umrt.library_path(),
    }
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "sys.exit(0)",
        "generation.text",
        "import threading; threading.Thread(target=generation.text).start()",
        "objects = [model, context, generation]; objects.append(objects)",
        "import logging; umrt.log_to(logging.getLogger())",
        "view = context.model.context(); view.eval([1]); kept = view.logits(copy=False)",
    ],
)
def test_a_process_ends_quietly_whatever_is_open(
    chat_folder: Path, ending: str
) -> None:
    process = run(
        "import sys, umrt\n"
        "model = umrt.Model.open(sys.argv[1])\n"
        "context = model.context(n_ctx=300)\n"
        "generation = context.generate('a', ignore_end=True)\n"
        "next(generation)\n"
        f"{ending}\n",
        str(chat_folder),
    )
    assert process.stderr == ""
    assert process.returncode == 0


def test_an_exception_at_the_end_of_a_process_does_not_hang_it(
    chat_folder: Path,
) -> None:
    process = run(
        "import sys, umrt\n"
        "context = umrt.Model.open(sys.argv[1]).context(n_ctx=300)\n"
        "for piece in context.generate('a', ignore_end=True):\n"
        "    raise RuntimeError('the end')\n",
        str(chat_folder),
    )
    assert process.stderr.splitlines()[-1] == "RuntimeError: the end"
    assert process.returncode == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_ends_although_the_worker_is_not_in_it(
    chat_folder: Path,
) -> None:
    process = run(
        "import os, sys, umrt\n"
        "context = umrt.Model.open(sys.argv[1]).context(n_ctx=300)\n"
        "generation = context.generate('a', ignore_end=True)\n"
        "next(generation)\n"
        "child = os.fork()\n"
        "if child:\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n",
        str(chat_folder),
    )
    assert process.stdout.strip() == "0"


FORK_TEST = """\
import multiprocessing, sys, umrt

def work(folder):
    with umrt.Model.open(folder) as model, model.context() as context:
        return context.eval([1, 2, 3])

def attempt(call, *arguments):
    try:
        return call(*arguments)
    except umrt.UnsupportedError as error:
        return "forked" in str(error)

if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    with fork.Pool(2) as pool:
        print(pool.map(work, [sys.argv[1]] * 2))
    model = umrt.Model.open(sys.argv[1])
    context = model.context()
    context.eval([1, 2, 3])
    def in_child():
        print(
            attempt(work, sys.argv[1]),
            attempt(context.eval, [4]),
            attempt(lambda: context.generate("a").text()),
            flush=True,
        )
        context.close()
        model.close()
    child = fork.Process(target=in_child)
    child.start()
    child.join(30)
    print(child.exitcode, context.eval([4]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_works_before_the_first_use_and_is_refused_after_it(
    chat_folder: Path,
) -> None:
    process = run(FORK_TEST, str(chat_folder))
    assert process.stdout.splitlines() == [
        "[1, 1]",
        "True True True",
        "0 1",
    ], process.stderr
