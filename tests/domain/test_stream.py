"""Deltas add up."""

from __future__ import annotations

import pytest

from lmoe_ray.domain.stream import TokenDelta, Usage


def test_usage_totals_prompt_and_completion() -> None:
    assert Usage(3, 2).total_tokens == 5


def test_a_sum_of_deltas_loses_nothing() -> None:
    first = TokenDelta("a", (1,), Usage(3, 1), None, (-0.5,))
    last = TokenDelta("bc", (2, 3), Usage(3, 3), "stop", (-1.0, -2.0))
    assert first + last == TokenDelta("abc", (1, 2, 3), Usage(3, 3), "stop", (-0.5, -1.0, -2.0))


def test_nothing_follows_the_last_delta() -> None:
    last = TokenDelta("a", (1,), Usage(3, 1), "length")
    with pytest.raises(AssertionError, match="a delta after the last one"):
        last + last
