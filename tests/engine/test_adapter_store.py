"""Sharing, counting and dropping adapters in host memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.domain.lora_config import LoraConfig
from lmoe_ray.domain.package import Expert
from lmoe_ray.engine import adapter_store, adapter_weights
from lmoe_ray.errors import NotReady, PackageError

pytestmark = pytest.mark.torch

CODE = Expert("code", Path("none"), "d1", LoraConfig(1, 1.0, ("q_proj",)))


class Reader:
    """Reads an expert when it is allowed to; fails as often as told."""

    def __init__(self, num_failures: int = 0) -> None:
        self.may_finish = threading.Event()
        self.num_reads = 0
        self._num_failures = num_failures

    def __call__(self, expert: Expert) -> Any:
        self.num_reads += 1
        assert self.may_finish.wait(10)
        if self.num_reads <= self._num_failures:
            raise PackageError(expert.name, "broken")
        return adapter_weights.AdapterWeights(expert.name, expert.digest, 1, {})


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def store(reader: Reader) -> Iterator[Any]:
    store = adapter_store.AdapterStore(reader)
    yield store
    reader.may_finish.set()
    store.close()


@pytest.fixture
def loaded(store: Any, reader: Reader) -> Any:
    reader.may_finish.set()
    store.load(CODE).result(10)
    return store


def test_all_who_want_an_adapter_share_one_read(store: Any, reader: Reader) -> None:
    first, second = store.load(CODE), store.load(CODE)
    assert first is second
    reader.may_finish.set()
    assert first.result(10).name == "code"
    assert store.load(CODE).result(10) is first.result(10)
    assert reader.num_reads == 1


def test_an_adapter_is_not_usable_while_it_is_read(store: Any, reader: Reader) -> None:
    future = store.load(CODE)
    with pytest.raises(NotReady):
        store.acquire("d1")
    assert store.digests == frozenset()
    reader.may_finish.set()
    future.result(10)
    store.acquire("d1")
    assert store.digests == {"d1"}
    assert store.weights("d1").digest == "d1"


def test_a_failed_read_is_forgotten_and_can_be_tried_again() -> None:
    reader = Reader(num_failures=1)
    reader.may_finish.set()
    store = adapter_store.AdapterStore(reader)
    with pytest.raises(PackageError, match="broken"):
        store.load(CODE).result(10)
    with pytest.raises(NotReady):
        store.acquire("d1")
    store.close()
    store = adapter_store.AdapterStore(reader)
    assert store.load(CODE).result(10).name == "code"
    store.close()


def test_a_retired_adapter_is_unused_once_its_last_user_has_left(loaded: Any) -> None:
    loaded.acquire("d1")
    loaded.acquire("d1")
    unused = loaded.retire("d1")
    loaded.release("d1")
    assert not unused.done()
    loaded.release("d1")
    assert unused.done()


def test_an_adapter_without_users_is_unused_at_once(loaded: Any) -> None:
    assert loaded.retire("d1").done()


def test_a_retired_adapter_takes_no_new_users_until_it_is_loaded_anew(loaded: Any) -> None:
    loaded.retire("d1")
    with pytest.raises(NotReady):
        loaded.acquire("d1")
    with pytest.raises(NotReady, match="being dropped"):
        loaded.load(CODE)
    loaded.remove("d1")
    loaded.load(CODE).result(10)
    loaded.acquire("d1")


def test_retiring_twice_waits_for_the_same_end(loaded: Any) -> None:
    loaded.acquire("d1")
    assert loaded.retire("d1") is loaded.retire("d1")


def test_retiring_a_stranger_is_done_at_once(store: Any) -> None:
    assert store.retire("unknown").done()


def test_releasing_more_often_than_acquiring_is_a_bug(loaded: Any) -> None:
    with pytest.raises(AssertionError, match="more often than acquired"):
        loaded.release("d1")
