"""Answers on a terminal: Markdown while they arrive, and nothing a model says reaches the terminal as a command."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from lmoe_ray.cli.answer_view import MarkdownView, settled, shown
from lmoe_ray.cli.terminal_text import visible
from tests.cli import chat_room
from tests.cli.chat_room import screen

#: What rich itself writes: colours, and the moves by which an answer that grows is drawn again.
OURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HOSTILE = (
    "\x1b]0;owned\x07 \x1b[2J\x1b[31mred \x9b31m \x08\x08\x00\r \u202eevil\u202c "
    "&#27;[5m &#x202e;turned [bold]markup[/] [a](https://evil.test/\x1b[5m) "
)


def drawn(*pieces: str, console: Console) -> str:
    """Everything written to ``console``, which draws after each piece as if it came late."""
    with shown(console) as view:
        view.name(0, "code")
        for piece in pieces:
            view.add(0, piece)
            if isinstance(view, MarkdownView):
                view.live.refresh()
    return chat_room.shown(console)


def lines_of(text: str) -> list[str]:
    """What the reader of an endless terminal sees at the end: rich goes up and erases what it draws again."""
    lines, row = [""], 0
    for move, count, kind, printed in re.findall(r"(\x1b\[([0-9;?]*)([A-Za-z])|\n)|([^\x1b\n]+)", text):
        if kind == "A":
            row -= int(count)
        elif kind == "K":
            lines[row] = ""
        elif move == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] += printed.strip("\r")
    return [line.rstrip() for line in lines]


def test_an_answer_is_rendered_as_markdown() -> None:
    text = drawn(
        "# Title\n\nSome **bold** words.\n", "\n```python\nx = 1\n```\n", console=screen(is_terminal=True, width=60)
    )

    assert "**" not in text
    assert "```" not in text
    assert "\x1b[1mbold\x1b[0m" in text


def test_each_block_of_a_long_answer_is_shown_once_and_whole() -> None:
    paragraphs = [f"Paragraph {number} of many." for number in range(40)]
    text = drawn(*(f"{p}\n\n" for p in paragraphs), console=screen(is_terminal=True, width=60, height=10))

    assert [line for line in lines_of(text) if line] == ["code ›", *paragraphs]


def test_a_block_taller_than_the_screen_ends_up_whole() -> None:
    code = "\n".join(f"line_{number}" for number in range(40))
    text = drawn("```\n", code, "\n```", console=screen(is_terminal=True, width=60, height=10))

    assert [line.strip() for line in lines_of(text) if line] == ["code ›", *code.splitlines()]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_control_characters_of_an_answer_never_reach_the_terminal(is_terminal: bool) -> None:
    text = drawn(*HOSTILE, "\n\n```\n\x1b[31m\n```\n\n", HOSTILE, console=screen(is_terminal=is_terminal))
    rest = OURS.sub("", text) if is_terminal else text

    assert visible(rest.replace("\r", "")) == rest.replace("\r", "")
    assert "\x1b[5m" not in text
    assert "\x1b[2J" not in text
    assert "[bold]markup[/]" in text


def test_a_link_shows_where_it_goes() -> None:
    text = drawn("[your bank](https://evil.test)", console=screen(is_terminal=True))

    assert "https://evil.test" in OURS.sub("", text)
    assert "\x1b]8" not in text


def test_elsewhere_an_answer_is_the_bare_text() -> None:
    assert drawn("# Ti", "tle\n\t**bold**", console=screen()) == "code › # Title\n\t**bold**\n"


def test_several_answers_follow_each_other() -> None:
    plain, terminal = screen(), screen(is_terminal=True)
    for console in (plain, terminal):
        with shown(console, 2) as view:
            for index, name in enumerate(("code", "math")):
                view.name(index, name)
            for index, piece in ((1, "two"), (0, "one"), (1, "!")):
                view.add(index, piece)

    assert chat_room.shown(plain) == "code › one\nmath › two!\n"
    assert [line for line in lines_of(chat_room.shown(terminal)) if line] == ["code ›", "one", "math ›", "two!"]


def test_an_answer_that_never_came_leaves_nothing() -> None:
    assert drawn(console=screen()) == ""
    assert "".join(lines_of(drawn(console=screen(is_terminal=True)))) == ""


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("one", "one"),
        ("one\n\n", "one\n\n"),
        ("one\n\ntwo", "two"),
        ("one\n\ntwo\n\nthree", "three"),
        ("- one\n\n  still one", "- one\n\n  still one"),
        ("one\n\n```\n\nx\n\ny", "```\n\nx\n\ny"),
        ("```\nx\n\ny\n```\n\nend", "end"),
        ("~~~\n```\n\ny", "~~~\n```\n\ny"),
    ],
)
def test_only_what_no_later_piece_can_change_is_settled(text: str, rest: str) -> None:
    assert text[settled(text) :] == rest
