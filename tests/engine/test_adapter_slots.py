"""Pins, eviction and the order of slots."""

from __future__ import annotations

import pytest

from lmoe_ray.engine.adapter_slots import AcquiredSlot, AdapterSlots


def test_a_new_adapter_takes_the_lowest_free_slot_and_must_be_loaded() -> None:
    slots = AdapterSlots(2)
    assert slots.acquire("code") == AcquiredSlot(1, True)
    assert slots.acquire("math") == AcquiredSlot(2, True)


def test_an_adapter_already_there_need_not_be_loaded_again() -> None:
    slots = AdapterSlots(2)
    slots.acquire("code")
    assert slots.acquire("code") == AcquiredSlot(1, False)
    slots.release("code")
    slots.release("code")
    assert slots.acquire("code") == AcquiredSlot(1, False)


def test_a_pinned_adapter_is_never_evicted() -> None:
    slots = AdapterSlots(1)
    slots.acquire("code")
    assert slots.acquire("math") is None
    assert slots.resident == {"code"}


def test_an_adapter_acquired_twice_stays_pinned_after_one_release() -> None:
    slots = AdapterSlots(1)
    slots.acquire("code")
    slots.acquire("code")
    slots.release("code")
    assert slots.acquire("math") is None
    assert slots.num_pinned == 1


def test_the_idle_adapter_used_longest_ago_is_evicted() -> None:
    slots = AdapterSlots(2)
    for digest in ("a", "b"):
        slots.acquire(digest)
        slots.release(digest)
    slots.acquire("a")
    slots.release("a")
    assert slots.acquire("c") == AcquiredSlot(2, True)
    assert slots.resident == {"a", "c"}


def test_a_pinned_adapter_is_passed_over_when_looking_for_one_to_evict() -> None:
    slots = AdapterSlots(2)
    slots.acquire("a")
    slots.acquire("b")
    slots.release("b")
    assert slots.acquire("c") == AcquiredSlot(2, True)


def test_forgetting_an_adapter_frees_its_slot() -> None:
    slots = AdapterSlots(2)
    for digest in ("a", "b"):
        slots.acquire(digest)
        slots.release(digest)
    slots.forget("a")
    assert slots.resident == {"b"}
    assert slots.acquire("c") == AcquiredSlot(1, True)


def test_forgetting_a_stranger_does_nothing() -> None:
    slots = AdapterSlots(1)
    slots.forget("a")
    assert slots.acquire("b") == AcquiredSlot(1, True)


def test_releasing_what_nobody_holds_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="nobody holds"):
        AdapterSlots(1).release("a")


def test_forgetting_an_adapter_in_use_is_a_bug() -> None:
    slots = AdapterSlots(1)
    slots.acquire("a")
    with pytest.raises(AssertionError, match="in use"):
        slots.forget("a")
