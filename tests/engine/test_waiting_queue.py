"""Who is served next when several adapters have sequences waiting."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmoe_ray.engine.sequence import Sequence
from lmoe_ray.engine.waiting_queue import WaitingQueue
from tests.engine.test_sequence import make_sequence


def make_queue(*adapters: str | None) -> WaitingQueue:
    queue = WaitingQueue()
    for adapter in adapters:
        queue.add(make_sequence(adapter=adapter))
    return queue


def serve(queue: WaitingQueue, num_tokens: int = 10) -> Sequence:
    first = next(iter(queue))
    queue.pop(first)
    queue.charge(first.adapter_digest, num_tokens)
    return first


def served(queue: WaitingQueue, num_sequences: int) -> list[str | None]:
    return [serve(queue).adapter_digest for _ in range(num_sequences)]


@pytest.mark.parametrize("adapter", ["a", None])
def test_one_adapter_alone_is_first_come_first_served(adapter: str | None) -> None:
    queue, sequences = WaitingQueue(), [make_sequence(adapter=adapter) for _ in range(4)]
    for sequence in sequences:
        queue.add(sequence)
    assert [serve(queue, num_tokens) for num_tokens in (5, 1, 9, 2)] == sequences
    assert len(queue) == 0


def test_a_crowd_for_one_adapter_delays_another_by_one_admission() -> None:
    queue = make_queue(*["hot"] * 100)
    served(queue, 10)
    queue.add(make_sequence(adapter="cold"))
    assert "cold" in served(queue, 2)


def test_adapters_share_by_tokens_and_not_by_requests() -> None:
    queue = make_queue(*["long"] * 10, *["short"] * 10)
    cost = {"long": 30, "short": 10}
    order = []
    for _ in range(8):
        first = next(iter(queue))
        order.append(serve(queue, cost[str(first.adapter_digest)]).adapter_digest)
    assert Counter(order) == {"long": 2, "short": 6}


def test_tokens_generated_count_as_service() -> None:
    queue = make_queue("a", "b", "a", "b")
    assert served(queue, 2) == ["a", "b"]
    queue.charge("a", 1)
    assert served(queue, 2) == ["b", "a"]


def test_an_adapter_that_was_away_has_no_credit_for_it() -> None:
    queue = make_queue(*["busy"] * 20, "away")
    served(queue, 12)
    for _ in range(10):
        queue.add(make_sequence(adapter="away"))
    assert Counter(served(queue, 6)) == {"busy": 3, "away": 3}


def test_who_joins_an_empty_queue_has_no_credit_over_the_one_that_left_it() -> None:
    queue = make_queue("busy")
    serve(queue)
    queue.charge("busy", 1000)
    for adapter in ["new"] * 4 + ["busy"] * 4:
        queue.add(make_sequence(adapter=adapter))
    assert Counter(served(queue, 4)) == {"new": 2, "busy": 2}


def test_an_adapter_that_comes_back_still_owes_what_it_has_had() -> None:
    queue = make_queue("a", "b", "b", "b")
    serve(queue, 25)
    queue.add(make_sequence(adapter="a"))
    assert served(queue, 4) == ["b", "b", "b", "a"]


def test_a_preempted_sequence_goes_before_the_others_of_its_adapter() -> None:
    queue, preempted = make_queue("a", "a"), make_sequence(adapter="a")
    queue.add_first(preempted)
    assert serve(queue) is preempted


def test_the_heads_of_all_adapters_are_listed_in_serving_order() -> None:
    queue = make_queue("a", "a", None, "b")
    queue.charge("a", 2)
    queue.charge(None, 1)
    assert [sequence.adapter_digest for sequence in queue] == ["b", None, "a"]


def test_a_sequence_is_removed_from_the_middle() -> None:
    queue = make_queue("a", "b")
    middle = make_sequence(adapter="a")
    queue.add(middle)
    queue.add(make_sequence(adapter="a"))
    queue.remove(middle)
    assert len(queue) == 3
    assert middle not in [serve(queue) for _ in range(3)]


def test_an_emptied_adapter_is_not_listed() -> None:
    queue, only = make_queue("b"), make_sequence(adapter="a")
    queue.add(only)
    queue.remove(only)
    assert [sequence.adapter_digest for sequence in queue] == ["b"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_adapters_that_always_wait_are_served_alike_to_within_two_requests(seed: int) -> None:
    chance = random.Random(seed)
    adapters, tokens = ("a", "b", "c"), Counter[str | None]()
    queue = make_queue(*adapters)
    for _ in range(200):
        adapter = serve(queue, num_tokens := chance.randint(1, 50)).adapter_digest
        tokens[adapter] += num_tokens
        queue.add(make_sequence(adapter=adapter))
        queue.add(make_sequence(adapter=chance.choice(adapters)))
    assert max(tokens.values()) - min(tokens[adapter] for adapter in adapters) <= 2 * 50
