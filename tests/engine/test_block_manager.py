"""Blocks have one writer, are found again by those who may read them, and none is lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmoe_ray.engine.block_manager import BlockManager
from lmoe_ray.engine.sequence import Sequence
from tests.engine.test_sequence import make_sequence


def admitted(blocks: BlockManager, *prompt_ids: int, adapter: str | None = None) -> Sequence:
    sequence = make_sequence(prompt_ids=prompt_ids, adapter=adapter)
    assert blocks.can_admit(sequence, num_kept=0)
    blocks.admit(sequence)
    return sequence


def computed(blocks: BlockManager, *prompt_ids: int, adapter: str | None = None) -> Sequence:
    """A sequence whose prompt is in the cache, for others to find."""
    sequence = admitted(blocks, *prompt_ids, adapter=adapter)
    sequence.num_cached = len(prompt_ids)
    blocks.publish(sequence)
    return sequence


def test_a_sequence_gets_as_many_blocks_as_its_tokens_fill() -> None:
    blocks = BlockManager(4, block_size=2)
    sequence = admitted(blocks, 1, 2, 3)
    assert (sequence.block_table, blocks.num_free) == ([0, 1], 2)
    assert blocks.grow(sequence, 4)
    assert len(sequence.block_table) == 2
    assert blocks.grow(sequence, 5)
    assert (sequence.block_table, blocks.num_free) == ([0, 1, 2], 1)


def test_growth_beyond_what_is_free_changes_nothing() -> None:
    blocks = BlockManager(3, block_size=2)
    sequence = admitted(blocks, 1, 2)
    assert not blocks.grow(sequence, 8)
    assert (len(sequence.block_table), blocks.num_free) == (1, 2)


def test_an_equal_beginning_is_shared() -> None:
    blocks = BlockManager(8, block_size=2)
    first = computed(blocks, 1, 2, 3, 4, 5)
    second = admitted(blocks, 1, 2, 3, 4, 6)
    assert second.block_table[:2] == first.block_table[:2]
    assert second.block_table[2] != first.block_table[2]
    assert second.num_cached == 4
    assert (blocks.num_seen_tokens, blocks.num_hit_tokens) == (10, 4)


def test_prefixes_of_two_adapters_never_share_blocks() -> None:
    blocks = BlockManager(8, block_size=2)
    computed(blocks, 1, 2, 3, adapter="a")
    for other in ("b", None):
        assert blocks.match(make_sequence(prompt_ids=(1, 2, 3), adapter=other)) == []


def test_equal_tokens_after_different_ones_are_not_shared() -> None:
    blocks = BlockManager(8, block_size=2)
    computed(blocks, 1, 2, 3, 4)
    assert blocks.match(make_sequence(prompt_ids=(9, 2, 3, 4, 5))) == []


def test_the_last_token_is_always_left_to_compute() -> None:
    blocks = BlockManager(8, block_size=2)
    first = computed(blocks, 1, 2, 3, 4)
    assert blocks.match(make_sequence(prompt_ids=(1, 2, 3, 4))) == first.block_table[:1]


@pytest.mark.parametrize(("num_cached", "num_found"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_only_full_and_computed_blocks_are_found(num_cached: int, num_found: int) -> None:
    blocks = BlockManager(8, block_size=2)
    first = admitted(blocks, 1, 2, 3, 4)
    first.num_cached = num_cached
    blocks.publish(first)
    assert len(blocks.match(make_sequence(prompt_ids=(1, 2, 3, 4, 5)))) == num_found


def test_a_block_is_found_only_once_its_last_token_is_known() -> None:
    blocks = BlockManager(8, block_size=2)
    first = computed(blocks, 1, 2, 3)
    first.num_in_flight, first.num_cached = 1, 4
    blocks.publish(first)
    longer = make_sequence(prompt_ids=(1, 2, 3, 4, 5))
    assert len(blocks.match(longer)) == 1
    first.output_ids.append(4)
    blocks.publish(first)
    assert len(blocks.match(longer)) == 2


def test_released_blocks_are_found_until_they_are_needed() -> None:
    blocks = BlockManager(3, block_size=2)
    first = computed(blocks, 1, 2, 3)
    table = first.block_table
    blocks.release(first)
    assert blocks.num_free == 3
    again = admitted(blocks, 1, 2, 4)
    assert again.block_table[0] == table[0]
    blocks.release(again)
    admitted(blocks, 5, 6, 7, 8, 9, 10)
    assert blocks.match(make_sequence(prompt_ids=(1, 2, 4))) == []


def test_the_longest_unused_is_given_away_first_and_ends_before_beginnings() -> None:
    blocks = BlockManager(4, block_size=1)
    old, young = computed(blocks, 1, 2), computed(blocks, 3, 4)
    blocks.release(old)
    blocks.release(young)
    admitted(blocks, 9)
    assert len(blocks.match(make_sequence(prompt_ids=(1, 2, 0)))) == 1
    assert len(blocks.match(make_sequence(prompt_ids=(3, 4, 0)))) == 2


def test_blocks_nobody_can_find_are_used_again_before_others() -> None:
    blocks = BlockManager(8, block_size=2)
    first = admitted(blocks, 1, 2, 3)
    table = first.block_table
    blocks.release(first)
    assert admitted(blocks, 4, 5, 6).block_table == table


def test_a_shared_block_is_kept_while_one_still_uses_it() -> None:
    blocks = BlockManager(4, block_size=2)
    first = computed(blocks, 1, 2, 3)
    second = admitted(blocks, 1, 2, 4)
    blocks.release(first)
    assert blocks.num_free == 2
    blocks.release(second)
    assert blocks.num_free == 4


def test_two_who_compute_the_same_at_once_keep_a_block_each() -> None:
    blocks = BlockManager(4, block_size=2)
    twins = [admitted(blocks, 1, 2, 3) for _ in range(2)]
    for twin in twins:
        twin.num_cached = 3
        blocks.publish(twin)
    assert not set(twins[0].block_table) & set(twins[1].block_table)
    assert blocks.match(make_sequence(prompt_ids=(1, 2, 5))) == twins[0].block_table[:1]
    for twin in twins:
        blocks.release(twin)
    assert blocks.num_free == 4


def test_found_blocks_that_nobody_uses_do_not_count_twice_as_free() -> None:
    blocks = BlockManager(3, block_size=2)
    blocks.release(computed(blocks, 1, 2, 3, 4))
    assert blocks.num_free == 3
    follower = make_sequence(prompt_ids=(1, 2, 3, 4, 5))
    assert blocks.can_admit(follower, num_kept=0)
    assert not blocks.can_admit(follower, num_kept=1)
    blocks.admit(follower)
    assert blocks.num_free == 0


def test_an_answer_is_found_like_a_prompt() -> None:
    blocks = BlockManager(8, block_size=2)
    first = computed(blocks, 1, 2, 3)
    first.output_ids += [4, 5]
    first.num_cached = 4
    blocks.publish(first)
    assert blocks.match(make_sequence(prompt_ids=(1, 2, 3, 4, 5))) == first.block_table[:2]


class Cache:
    """What the device holds: at each place the adapter and all tokens its contents depend on."""

    def __init__(self, blocks: BlockManager) -> None:
        self.blocks = blocks
        self.alive: list[Sequence] = []
        self._contents: dict[tuple[int, int], tuple[str | None, tuple[int, ...]]] = {}

    def compute(self, sequence: Sequence, num_tokens: int) -> None:
        for position in range(sequence.num_cached, sequence.num_cached + num_tokens):
            self._contents[self._place(sequence, position)] = self._meaning(sequence, position)
        sequence.num_cached += num_tokens

    def check(self) -> None:
        """All sequences read what they would have computed themselves, and the counts add up."""
        for sequence in self.alive:
            for position in range(sequence.num_cached):
                assert self._contents[self._place(sequence, position)] == self._meaning(sequence, position)
        used = {block for sequence in self.alive for block in sequence.block_table}
        assert len(used) + self.blocks.num_free == self.blocks.num_blocks

    def _place(self, sequence: Sequence, position: int) -> tuple[int, int]:
        index, offset = divmod(position, self.blocks.block_size)
        return sequence.block_table[index], offset

    def _meaning(self, sequence: Sequence, position: int) -> tuple[str | None, tuple[int, ...]]:
        return sequence.adapter_digest, sequence.token_ids(0, position + 1)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000))
def test_whatever_happens_nobody_reads_what_another_has_written(seed: int) -> None:
    chance = random.Random(seed)
    blocks = BlockManager(num_blocks=chance.randint(2, 10), block_size=chance.randint(1, 3))
    cache = Cache(blocks)
    for _ in range(60):
        if chance.random() < 0.4:
            prompt = tuple(chance.choices((0, 1), k=chance.randint(1, 8)))
            newcomer = make_sequence(prompt_ids=prompt, adapter=chance.choice(["a", "b", None]))
            if blocks.can_admit(newcomer, num_kept=0):
                blocks.admit(newcomer)
                cache.alive.append(newcomer)
                assert newcomer.num_left > 0
        for sequence in chance.sample(cache.alive, k=len(cache.alive) // 2):
            if not sequence.num_left:
                sequence.output_ids.append(chance.randint(0, 1))
            if blocks.grow(sequence, sequence.num_tokens):
                cache.compute(sequence, chance.randint(1, sequence.num_left))
                blocks.publish(sequence)
        if cache.alive and chance.random() < 0.3:
            blocks.release(cache.alive.pop(chance.randrange(len(cache.alive))))
        cache.check()
    for sequence in cache.alive:
        blocks.release(sequence)
    assert blocks.num_free == blocks.num_blocks
    assert blocks.num_hit_tokens <= blocks.num_seen_tokens
