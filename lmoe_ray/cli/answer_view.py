"""Answers on the screen while they arrive: rendered Markdown on a terminal, the bare text anywhere else.

Blocks that are complete are printed and done with; only the last one is drawn again as it grows, cut to the
screen's height, so that a long answer neither flickers nor costs more the longer it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment, Segments
from rich.spinner import Spinner
from rich.text import Text

from lmoe_ray.cli.terminal_text import Visible, visible

_REFRESHES_PER_S = 8
_FENCES = ("```", "~~~")


class AnswerView(Protocol):
    """Where the pieces of answers go; ``index`` tells the answers apart."""

    def name(self, index: int, who: str) -> None:
        """Say who answers; before that answer's first piece."""

    def add(self, index: int, piece: str) -> None:
        """Show what is new."""


class PlainView:
    """The first answer as it comes, the others after it; names only if wished."""

    def __init__(self, console: Console, num_answers: int, has_names: bool) -> None:
        self._console, self._has_names = console, has_names
        self._names, self._waiting = [""] * num_answers, [""] * num_answers
        self._has_text = [False] * num_answers

    def name(self, index: int, who: str) -> None:
        self._names[index] = f"{visible(who)} › " if self._has_names else ""

    def add(self, index: int, piece: str) -> None:
        self._waiting[index] += piece
        if index == 0:
            self._print(0)

    def close(self) -> None:
        for index in range(len(self._waiting)):
            self._print(index)
            if self._has_text[index]:
                self._console.print()

    def _print(self, index: int) -> None:
        if not self._waiting[index]:
            return
        text = self._names[index] + visible(self._waiting[index])
        # A Text would turn tabs into spaces.
        self._console.print(Segments([Segment(text)]), end="", soft_wrap=True)
        self._names[index] = self._waiting[index] = ""
        self._has_text[index] = True


class MarkdownView:
    """Answers as Markdown: one grows in place, several grow under each other."""

    def __init__(self, console: Console, num_answers: int) -> None:
        self._console = console
        self._names, self._pending = [""] * num_answers, [""] * num_answers
        self._is_closed = self._has_blocks = False
        self.live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=_REFRESHES_PER_S,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def name(self, index: int, who: str) -> None:
        self._names[index] = visible(who)

    def add(self, index: int, piece: str) -> None:
        self._pending[index] += visible(piece)
        if len(self._pending) == 1:
            self._settle()

    def close(self) -> None:
        self._is_closed = True

    def _settle(self) -> None:
        end = settled(self._pending[0])
        if end:
            done, self._pending[0] = self._pending[0][:end], self._pending[0][end:]
            self._console.print(self._answer(0, done))
            self._has_blocks = True

    def _render(self) -> RenderableType:
        if not self._is_closed and not any(self._pending) and not self._has_blocks:
            return Spinner("dots", Text("waiting; Ctrl-C stops", style="dim"))
        answers = [self._answer(index, text) for index, text in enumerate(self._pending) if text]
        return Visible(Group(*answers), None if self._is_closed else max(1, self._console.height - 2))

    def _answer(self, index: int, text: str) -> RenderableType:
        gap = "\n" if index else ""
        head = Text("") if self._has_blocks else Text(f"{gap}{self._names[index]} ›", style="bold magenta")
        return Visible(Group(head, Markdown(text, hyperlinks=False)))


@contextmanager
def shown(console: Console, num_answers: int = 1, *, has_names: bool = True) -> Iterator[AnswerView]:
    """A view of ``num_answers`` answers until the block ends, also if it ends by an error."""
    if not console.is_terminal:
        plain = PlainView(console, num_answers, has_names)
        try:
            yield plain
        finally:
            plain.close()
        return
    view = MarkdownView(console, num_answers)
    with view.live:
        try:
            yield view
        finally:
            view.close()


def settled(text: str) -> int:
    """Length of the beginning of ``text`` that no later piece can change.

    It ends at a blank line outside a code fence, if what follows is not indented: that would belong to a list item.
    """
    position = end = 0
    fence, was_blank = "", False
    for line in text.splitlines(keepends=True):
        mark = line.lstrip()[:3]
        if was_blank and not fence and not line[0].isspace():
            end = position
        if mark in _FENCES and fence in ("", mark):
            fence = "" if fence else mark
        was_blank = not line.strip()
        position += len(line)
    return end
