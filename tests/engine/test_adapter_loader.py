"""Adapters come into the bank while the engine's thread does something else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lmoe_ray.engine import adapter_loader, adapter_weights
from lmoe_ray.engine.step import AdapterLoad

pytestmark = pytest.mark.torch

A, B = AdapterLoad("a", 1), AdapterLoad("b", 2)


class GatedBank:
    """Takes an adapter when its gate is open, and remembers how it came; ``broken`` ones it refuses."""

    def __init__(self) -> None:
        self.gates = {digest: threading.Event() for digest in ("a", "b", "broken")}
        self.begun = threading.Event()
        self.digests: dict[int, str] = {}
        self.was_inference: list[bool] = []
        self.threads: list[str] = []

    def load(self, slot: int, weights: Any) -> None:
        self.begun.set()
        assert self.gates[weights.digest].wait(10)
        if weights.digest == "broken":
            raise RuntimeError("no memory")
        self.digests[slot] = weights.digest
        self.was_inference.append(torch.is_inference_mode_enabled())
        self.threads.append(threading.current_thread().name)


@pytest.fixture
def bank() -> GatedBank:
    return GatedBank()


@pytest.fixture
def host_memory() -> dict[str, Any]:
    return {digest: adapter_weights.AdapterWeights(digest, digest, 1, {}) for digest in ("a", "b", "broken")}


@pytest.fixture
def loader(bank: GatedBank, host_memory: dict[str, Any]) -> Iterator[Any]:
    loader = adapter_loader.AdapterLoader(bank, host_memory.__getitem__, torch.device("cpu"))
    yield loader
    for gate in bank.gates.values():
        gate.set()
    loader.close()


def wait_for(loader: Any, *digests: str) -> None:
    loaded: list[str] = []
    while len(loaded) < len(digests):
        assert loader.is_busy
        loader.wait(10)
        loaded += loader.take_loaded()
    assert loaded == list(digests)


def test_whoever_orders_an_adapter_goes_on_and_is_told_once_when_it_is_in(loader: Any, bank: GatedBank) -> None:
    loader.start([A])
    assert (loader.is_busy, loader.take_loaded()) == (True, [])
    bank.gates["a"].set()
    loader.wait(10)
    assert loader.take_loaded() == ["a"]
    assert bank.digests == {1: "a"}
    assert (loader.is_busy, loader.take_loaded()) == (False, [])


def test_adapters_come_in_one_after_another_as_ordered(loader: Any, bank: GatedBank) -> None:
    loader.start([A])
    loader.start([B])
    bank.gates["b"].set()
    loader.wait(0.05)
    assert (loader.take_loaded(), bank.digests) == ([], {})
    bank.gates["a"].set()
    wait_for(loader, "a", "b")
    assert bank.digests == {1: "a", 2: "b"}


def test_waiting_ends_with_the_first_that_is_in(loader: Any, bank: GatedBank) -> None:
    loader.start([A, B])
    bank.gates["a"].set()
    loader.wait(20)  # longer than the second would wait before it fails
    assert loader.take_loaded() == ["a"]
    assert loader.is_busy


def test_there_is_nothing_to_wait_for_when_nothing_was_ordered(loader: Any) -> None:
    loader.start([])
    assert not loader.is_busy
    loader.wait(10)
    assert loader.take_loaded() == []


def test_weights_that_leave_host_memory_after_they_were_ordered_still_come_in(
    loader: Any, bank: GatedBank, host_memory: dict[str, Any]
) -> None:
    loader.start([A, B])
    host_memory.clear()
    bank.gates["a"].set()
    bank.gates["b"].set()
    wait_for(loader, "a", "b")


def test_the_bank_is_written_without_autograd_by_a_thread_of_its_own(loader: Any, bank: GatedBank) -> None:
    bank.gates["a"].set()
    loader.start([A])
    wait_for(loader, "a")
    assert bank.was_inference == [True]
    assert bank.threads[0].startswith("lmoe-adapter-writer")


def test_a_failed_write_is_raised_where_its_end_is_awaited(loader: Any, bank: GatedBank) -> None:
    bank.gates["broken"].set()
    loader.start([AdapterLoad("broken", 1)])
    loader.wait(10)
    with pytest.raises(RuntimeError, match="no memory"):
        loader.take_loaded()
    assert not loader.is_busy


def test_closing_ends_the_write_under_way_and_begins_no_other(loader: Any, bank: GatedBank) -> None:
    loader.start([A, B])
    assert bank.begun.wait(10)
    closing = threading.Thread(target=loader.close)
    closing.start()
    bank.gates["b"].set()
    closing.join(0.05)
    assert closing.is_alive()
    bank.gates["a"].set()
    closing.join(10)
    assert bank.digests == {1: "a"}
