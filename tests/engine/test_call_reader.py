"""Calls in an answer's text: however it is split, they come out as they went in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmoe_ray.domain.tool_dialect import PLAIN, ToolDialect
from lmoe_ray.domain.tools import CallPiece, ToolCall, join
from lmoe_ray.engine.call_reader import CallReader

MARKED = ToolDialect("<tool_call>\n", "\n</tool_call>", "\n", "name", "arguments", is_templated=True)
CALLS = (
    ToolCall("f", "{}"),
    ToolCall("get_weather", '{"city": "}{\\"]", "at": [1, {"x": "\\\\"}]}'),
    ToolCall("g-2", '{"params": ", \\"params\\": {"}'),
)


def read(text: str, dialect: ToolDialect, cuts: list[int]) -> tuple[str, tuple[CallPiece, ...], CallReader]:
    reader = CallReader(dialect)
    shown, pieces = "", tuple[CallPiece, ...]()
    for begin, end in pairwise([0, *sorted(cuts), len(text)]):
        more, added = reader.push(text[begin:end])
        shown, pieces = shown + more, join(pieces, added)
    return shown + reader.flush(), pieces, reader


@pytest.mark.parametrize("dialect", [PLAIN, MARKED], ids=["plain", "marked"])
@given(calls=st.lists(st.sampled_from(CALLS), min_size=1, max_size=3), cuts=st.lists(st.integers(0, 200)))
def test_calls_are_read_as_they_were_written(dialect: ToolDialect, calls: list[ToolCall], cuts: list[int]) -> None:
    text = dialect.write(calls)
    shown, pieces, reader = read(text, dialect, [min(cut, len(text)) for cut in cuts])
    assert shown == ""
    assert [(piece.call, piece.name, piece.arguments) for piece in pieces] == [
        (at, call.name, call.arguments) for at, call in enumerate(calls)
    ]
    assert (reader.num_whole, reader.num_passed) == (len(calls), len(text))


@given(st.text('{"functioparms: x}<', max_size=30), st.lists(st.integers(0, 30)))
def test_a_text_that_is_no_call_is_shown_as_it_is(text: str, cuts: list[int]) -> None:
    if text.startswith(PLAIN.trigger):
        return
    shown, pieces, reader = read(text, PLAIN, [min(cut, len(text)) for cut in cuts])
    assert (shown, pieces, reader.num_passed) == (text, (), 0)


@given(st.lists(st.integers(0, 80)))
def test_a_text_may_go_over_into_a_call_if_a_mark_tells_where(cuts: list[int]) -> None:
    text = "let me see <tool " + MARKED.write(CALLS[:1])
    shown, pieces, _ = read(text, MARKED, [min(cut, len(text)) for cut in cuts])
    assert (shown, pieces) == ("let me see <tool ", (CallPiece(0, "f", "{}"),))


def test_without_a_mark_a_call_is_the_whole_answer_or_none() -> None:
    text = "see " + PLAIN.write(CALLS[:1])
    assert read(text, PLAIN, [])[:2] == (text, ())


def test_a_text_is_shown_as_soon_as_it_cannot_be_a_call() -> None:
    reader = CallReader(PLAIN)
    assert reader.push('{"func')[0] == ""
    assert reader.push("y")[0] == '{"funcy'
    assert reader.push("!")[0] == "!"
