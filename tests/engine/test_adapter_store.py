"""Sharing, counting, evicting and dropping adapters in host memory."""

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


def expert(digest: str) -> Expert:
    return Expert("code", Path("none"), digest, LoraConfig(1, 1.0, ("q_proj",)))


CODE = expert("d1")


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
    store = adapter_store.AdapterStore(reader, capacity=2)
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
    store = adapter_store.AdapterStore(reader, capacity=2)
    with pytest.raises(PackageError, match="broken"):
        store.load(CODE).result(10)
    with pytest.raises(NotReady):
        store.acquire("d1")
    store.close()
    store = adapter_store.AdapterStore(reader, capacity=2)
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


# ── capacity ─────────────────────────────────────────────────────────────────────────────────────


def use(store: Any, digest: str) -> None:
    """Hold an adapter until it is read, and let it go."""
    store.hold(expert(digest)).result(10)
    store.release(digest)


def test_an_adapter_more_than_fit_evicts_the_one_used_longest_ago(loaded: Any, reader: Reader) -> None:
    use(loaded, "d2")
    use(loaded, "d3")
    assert loaded.digests == {"d2", "d3"}
    with pytest.raises(NotReady):
        loaded.acquire("d1")
    use(loaded, "d1")
    assert reader.num_reads == 4


def test_holding_an_adapter_that_is_there_counts_as_use(loaded: Any, reader: Reader) -> None:
    use(loaded, "d2")
    use(loaded, "d1")
    use(loaded, "d3")
    assert loaded.digests == {"d1", "d3"}
    assert reader.num_reads == 3


def test_as_many_as_fit_are_kept_without_users(reader: Reader) -> None:
    reader.may_finish.set()
    store = adapter_store.AdapterStore(reader, capacity=4)
    for digest in ("d1", "d2", "d3"):
        use(store, digest)
    assert store.digests == {"d1", "d2", "d3"}
    store.close()


def test_loading_without_holding_evicts_as_well(loaded: Any) -> None:
    loaded.load(expert("d2")).result(10)
    loaded.load(expert("d3")).result(10)
    assert loaded.digests == {"d2", "d3"}


def test_what_somebody_holds_stays_and_one_more_than_fit_goes_when_it_is_let_go(loaded: Any) -> None:
    for digest in ("d1", "d2", "d3"):
        loaded.hold(expert(digest)).result(10)
    assert loaded.digests == {"d1", "d2", "d3"}
    loaded.release("d3")
    assert loaded.digests == {"d1", "d2"}


def test_an_adapter_held_twice_stays_until_both_have_let_go(loaded: Any) -> None:
    for digest in ("d1", "d1", "d2"):
        loaded.hold(expert(digest)).result(10)
    loaded.release("d1")
    loaded.hold(expert("d3")).result(10)
    assert loaded.digests == {"d1", "d2", "d3"}
    loaded.release("d1")
    assert loaded.digests == {"d2", "d3"}


def test_an_adapter_still_being_read_is_not_evicted(store: Any, reader: Reader) -> None:
    futures = [store.load(expert(digest)) for digest in ("d1", "d2", "d3")]
    reader.may_finish.set()
    assert [future.result(10).digest for future in futures] == ["d1", "d2", "d3"]
    assert store.digests == {"d1", "d2", "d3"}


def test_an_adapter_being_dropped_is_left_to_whoever_drops_it(loaded: Any) -> None:
    assert loaded.retire("d1").done()
    use(loaded, "d2")
    use(loaded, "d3")
    with pytest.raises(NotReady, match="being dropped"):
        loaded.load(CODE)


# ── holding ──────────────────────────────────────────────────────────────────────────────────────


def test_whoever_holds_an_adapter_before_it_is_read_is_its_user(store: Any, reader: Reader) -> None:
    weights = store.hold(CODE)
    unused = store.retire("d1")
    reader.may_finish.set()
    assert weights.result(10).digest == "d1"
    assert not unused.done()
    store.release("d1")
    assert unused.done()


def test_holding_what_is_being_dropped_is_refused_and_counts_nobody(loaded: Any) -> None:
    loaded.acquire("d1")
    unused = loaded.retire("d1")
    with pytest.raises(NotReady, match="being dropped"):
        loaded.hold(CODE)
    loaded.release("d1")
    assert unused.done()


def test_whoever_held_an_adapter_whose_read_fails_lets_go_as_always() -> None:
    reader = Reader(num_failures=1)
    reader.may_finish.set()
    store = adapter_store.AdapterStore(reader, capacity=1)
    with pytest.raises(PackageError, match="broken"):
        store.hold(CODE).result(10)
    store.release("d1")
    use(store, "d1")
    assert store.digests == {"d1"}
    store.close()


def test_whoever_tries_again_keeps_the_adapter_when_the_one_whose_read_failed_lets_go() -> None:
    reader = Reader(num_failures=1)
    reader.may_finish.set()
    store = adapter_store.AdapterStore(reader, capacity=1)
    with pytest.raises(PackageError, match="broken"):
        store.hold(CODE).result(10)
    store.hold(CODE).result(10)
    store.release("d1")
    assert not store.retire("d1").done()
    store.release("d1")
    assert store.retire("d1").done()
    store.close()


def test_dropping_an_adapter_ends_even_if_its_read_fails_meanwhile() -> None:
    reader = Reader(num_failures=1)
    store = adapter_store.AdapterStore(reader, capacity=1)
    weights = store.hold(CODE)
    unused = store.retire("d1")
    reader.may_finish.set()
    with pytest.raises(PackageError, match="broken"):
        weights.result(10)
    store.release("d1")
    assert unused.done()
    store.close()
