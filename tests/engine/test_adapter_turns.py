"""Adapters come and go while others answer: nobody waits for a stranger's, and none answers with another's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.domain.package import Expert, LMoEPackage
from tests.engine import oracles

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

LONG = {"max_tokens": 450, "ignore_eos": True}
#: Far more than the one step that may be under way when a load begins.
NUM_STEPS = 40


class Gate:
    """Lets a function be called, and return only once opened."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._opened, self.entered = function, threading.Event(), threading.Event()

    def __call__(self, *args: Any) -> Any:
        self.entered.set()
        assert self._opened.wait(20)
        return self._function(*args)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def shut(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, str], Gate]]:
    """Puts a gate before a method, opened after the test at the latest."""
    gates: list[Gate] = []

    def shut(owner: Any, method: str) -> Gate:
        gates.append(Gate(getattr(owner, method)))
        monkeypatch.setattr(owner, method, gates[-1])
        return gates[-1]

    yield shut
    for gate in gates:
        gate.open()


async def assert_steps_go_on(engine: Any) -> None:
    """Poll: steps are counted in the engine's thread, which signals nobody."""
    num_steps = engine.stats().num_steps
    async with asyncio.timeout(10):
        while engine.stats().num_steps < num_steps + NUM_STEPS:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def alone(engine: Any, folder: Path, request: Any, expert: Expert) -> list[int]:
    ids = engine._tokenizer.encode_request(request)
    return oracles.reference_greedy(folder, ids, request.sampling.max_tokens, oracles.expert_folder(expert))


@pytest.mark.parametrize("overlap", [False, True], ids=["in turns", "overlapped"])
async def test_streams_go_on_while_an_adapter_is_written_to_the_bank(
    overlap: bool,
    llama: Path,
    package: LMoEPackage,
    make_engine: Callable[..., Any],
    shut: Callable[[Any, str], Gate],
) -> None:
    engine, (first, second, *_) = make_engine(options={"overlap": overlap}), package.experts
    await asyncio.gather(engine.load_adapter(first), engine.load_adapter(second))
    running = asyncio.create_task(oracles.answer(engine, oracles.prompt_request("x", "a", **LONG), first.digest))
    await assert_steps_go_on(engine)
    gate = shut(engine._engine._loader._bank, "load")
    request = oracles.prompt_request("the quick", "b", ignore_eos=True)
    waiting = asyncio.create_task(oracles.answer(engine, request, second.digest))
    assert await asyncio.to_thread(gate.entered.wait, 10)
    await assert_steps_go_on(engine)
    assert not waiting.done()
    assert not running.done()
    gate.open()
    assert (await waiting).ids == alone(engine, llama, request, second)
    assert len((await running).ids) == 450


async def test_streams_go_on_while_an_adapter_is_read_from_disk(
    package: LMoEPackage, make_engine: Callable[..., Any], shut: Callable[[Any, str], Gate]
) -> None:
    engine = make_engine()
    running = asyncio.create_task(oracles.answer(engine, oracles.prompt_request("x", **LONG)))
    gate = shut(engine._adapters, "_read")
    loading = asyncio.create_task(engine.load_adapter(package.experts[0]))
    assert await asyncio.to_thread(gate.entered.wait, 10)
    await assert_steps_go_on(engine)
    assert not loading.done()
    gate.open()
    await loading
    assert len((await running).ids) == 450


async def test_adapters_that_outnumber_slots_and_host_memory_are_read_again_and_answer_right(
    llama: Path, package: LMoEPackage, make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(max_adapters=2, max_host_adapters=3)
    reads: list[str] = []
    read = engine._adapters._read
    monkeypatch.setattr(engine._adapters, "_read", lambda expert: (reads.append(expert.name), read(expert))[1])

    async def ask(expert: Expert) -> None:
        request = oracles.prompt_request("over the lazy dog", expert.name, ignore_eos=True)
        async with engine.hold_adapter(expert):
            answered = await oracles.answer(engine, request, expert.digest)
        assert answered.ids == alone(engine, llama, request, expert)

    await asyncio.gather(*(ask(expert) for expert in package.experts))
    assert len(engine.loaded_adapters) == 3
    for expert in package.experts:
        await ask(expert)
    # Three of the six had stayed at most.
    assert len(reads) >= 6 + 3
    stats = engine.stats()
    assert (len(stats.adapters_on_device), stats.num_pinned_adapters) == (2, 0)
