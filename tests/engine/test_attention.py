"""Attention over the cache against one softmax at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmoe_ray.engine import attention

pytestmark = pytest.mark.torch

NUM_ROWS, KV_HEADS, GROUP, LENGTH, DIM = 4, 2, 3, 128, 8


@pytest.fixture
def cache() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return torch.randn(NUM_ROWS, KV_HEADS, LENGTH, DIM), torch.randn(NUM_ROWS, KV_HEADS, LENGTH, DIM)


def by_hand(query: Any, keys: Any, values: Any, end: int, window: int | None) -> Any:
    """One query ``[num_heads, head_dim]`` over positions ``end - window … end - 1`` of one row."""
    first = 0 if window is None else max(0, end - window)
    heads = []
    for head, q in enumerate(query):
        k, v = (t[head // GROUP, first:end] for t in (keys, values))
        heads.append(torch.softmax(k @ q / DIM**0.5, 0) @ v)
    return torch.stack(heads)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 2, 3], [3]])
def test_decoding_rows_see_their_own_tokens(cache: tuple[Any, Any], rows: list[int], window: int | None) -> None:
    keys, values = cache
    lengths = [70, 1, 3, 17]
    query = torch.randn(len(rows), KV_HEADS * GROUP, DIM)
    num_rows = rows[-1] + 1
    biases = attention.decode_biases(torch.tensor(lengths[:num_rows]), 128, frozenset({window}), torch.float32)
    packed = None if len(rows) == num_rows else torch.tensor(rows)
    span = attention.DecodeSpan(num_rows, 128, packed, biases)
    output = attention.decode_attention(query, keys, values, span, window)
    for got, q, row in zip(output, query, rows, strict=True):
        assert torch.allclose(got, by_hand(q, keys[row], values[row], lengths[row], window), atol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("start", [0, 9])
def test_a_chunk_sees_what_came_before_it(cache: tuple[Any, Any], start: int, window: int | None) -> None:
    keys, values = cache
    query = torch.randn(6, KV_HEADS * GROUP, DIM)
    masks = attention.prefill_masks(start, 6, frozenset({window}), torch.device("cpu"))
    span = attention.PrefillSpan(row=2, first=0, num_tokens=6, start=start, masks=masks)
    output = attention.prefill_attention(query, keys, values, span, window)
    for offset, (got, q) in enumerate(zip(output, query, strict=True)):
        assert torch.allclose(got, by_hand(q, keys[2], values[2], start + offset + 1, window), atol=1e-5)
