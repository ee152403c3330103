"""When torch's own attention over pages is used, and what it is told."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen

from lmoe_ray.engine import paged_attention

pytestmark = pytest.mark.torch

GOOD: dict[str, Any] = {"head_dim": 128, "block_size": 256, "dtype": torch.bfloat16, "capability": (9, 0)}


def newest(query: Any, *, window_size: Any, enable_gqa: Any, seqused_k: Any, block_table: Any) -> None:
    """A signature that has everything."""


def old(query: Any, *, window_size: Any) -> None:
    """A signature that knows no pages."""


def test_a_llama_on_a_hopper_gpu_has_all_it_needs() -> None:
    assert paged_attention.missing_for_pages(**GOOD, function=newest) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head_dim": 100}, "multiple of 8"),
        ({"head_dim": 512}, "up to 256"),
        ({"block_size": 16}, "blocks of 16"),
        ({"dtype": torch.float32}, "16 bits"),
        ({"capability": (7, 5)}, r"\(7, 5\)"),
        ({"function": old}, "no block_table in varlen_attn"),
    ],
)
def test_what_is_missing_is_said(change: dict[str, Any], reason: str) -> None:
    missing = paged_attention.missing_for_pages(**{**GOOD, "function": newest, **change})
    assert missing is not None
    assert re.search(reason, missing)


@pytest.mark.parametrize(
    ("pieces", "window", "span"),
    [
        (((0, 1, 9), (1, 1, 4)), None, (-1, -1)),
        (((0, 1, 9), (1, 5, 0)), None, (-1, 0)),
        (((0, 1, 9), (1, 1, 4)), 4, (3, 0)),
    ],
)
def test_the_kernel_is_told_lengths_pages_and_what_a_query_sees(
    pieces: tuple[tuple[int, int, int], ...], window: int | None, span: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    def attend(query: Any, keys: Any, values: Any, *positional: Any, **named: Any) -> Any:
        told.update(named, longest=positional[2:])
        return query

    monkeypatch.setattr(varlen, "varlen_attn", attend)
    cache: Any = SimpleNamespace(keys=[torch.zeros(2, 256, 2, 8)], values=[torch.zeros(2, 256, 2, 8)])
    batch: Any = SimpleNamespace(pieces=pieces, starts="starts", lengths="lengths", tables="tables")
    attention = paged_attention.PagedAttention(cache)
    attention.begin(batch)
    attention(0, window, torch.zeros(sum(count for _, count, _ in pieces), 4, 8))
    assert told["window_size"] == span
    assert told["longest"] == (max(count for _, count, _ in pieces), 10)
    assert (told["seqused_k"], told["block_table"], told["enable_gqa"]) == ("lengths", "tables", True)
