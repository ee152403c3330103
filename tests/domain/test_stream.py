"""Deltas add up."""

from __future__ import annotations

import pytest

from lmoe_ray.domain.stream import TokenDelta, TokenLogprob, Unread, Usage, total_usage
from lmoe_ray.domain.tools import CallPiece


def test_usage_totals_prompt_and_completion() -> None:
    assert Usage(3, 2).total_tokens == 5


def test_a_sum_of_deltas_loses_nothing() -> None:
    likely, rare = TokenLogprob(b"a", -0.5), TokenLogprob(b"b", -9.0, ((b"c", -0.1),))
    first = TokenDelta("a", (1,), Usage(3, 1), None, (likely,), (CallPiece(0, "f", "{"),), 1)
    last = TokenDelta("bc", (2, 3), Usage(3, 3), "stop", (rare,), (CallPiece(0, arguments="}"), CallPiece(1, "g")), 1)
    calls = (CallPiece(0, "f", "{}"), CallPiece(1, "g"))
    assert first + last == TokenDelta("abc", (1, 2, 3), Usage(3, 3), "stop", (likely, rare), calls, 1)


def test_nothing_follows_the_last_delta() -> None:
    last = TokenDelta("a", (1,), Usage(3, 1), "length")
    with pytest.raises(AssertionError, match="a delta after the last one"):
        last + last


def test_deltas_of_two_answers_do_not_add_up() -> None:
    with pytest.raises(AssertionError, match="two answers"):
        TokenDelta("a", (1,), Usage(3, 1)) + TokenDelta("b", (2,), Usage(3, 1), index=1)


def test_unread_deltas_add_up_for_each_answer_and_the_one_that_waits_longest_is_read_first() -> None:
    unread = Unread()
    for text, index in (("a", 1), ("x", 0), ("b", 1)):
        unread.add(TokenDelta(text, (), Usage(3, 1), index=index))
    assert [(delta.index, delta.text) for delta in (unread.take(), unread.take())] == [(1, "ab"), (0, "x")]
    assert not unread


def test_the_prompt_of_several_answers_is_counted_once() -> None:
    assert total_usage([Usage(3, 2), Usage(3, 5)]) == Usage(3, 7)
