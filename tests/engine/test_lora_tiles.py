"""Tables of tiles: who computes with which adapter, in pieces a kernel can hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmoe_ray.engine import lora_tiles
from lmoe_ray.engine.batch import Segment

pytestmark = pytest.mark.torch


def test_a_long_segment_is_cut_and_a_short_one_is_a_tile() -> None:
    table = lora_tiles.cut_tiles([Segment(0, 1, 3), Segment(4, 35, 2)], 16)
    assert table.tolist() == [[0, 1, 3], [4, 16, 2], [20, 16, 2], [36, 3, 2]]


def test_rows_beyond_the_tiles_have_no_adapter() -> None:
    assert lora_tiles.cut_tiles([Segment(2, 1, 1)], 16, num_rows=3).tolist() == [[2, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_no_segments_are_no_tiles() -> None:
    assert lora_tiles.cut_tiles([], 16).shape == (0, 3)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80).map(sorted))
def test_decoding_sequences_in_order_of_their_adapters_fit_the_table(slots: list[int]) -> None:
    starts = [row for row, slot in enumerate(slots) if slot and (row == 0 or slots[row - 1] != slot)]
    segments = [Segment(row, slots.count(slots[row]), slots[row]) for row in starts]
    tiles = lora_tiles.cut_tiles(segments, lora_tiles.DECODE_TILE)
    assert len(tiles) <= lora_tiles.most_decode_tiles(len(slots), num_slots=5)
