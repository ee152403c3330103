"""Text of strangers on a terminal: what a model says may move the cursor, retitle the window or hide words, so
nothing but visible characters, tabs and line ends goes through."""

from __future__ import annotations

import re

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment

#: C0 without tab and line feed, DEL, C1, and the marks that turn the direction of what follows, with which text can be
#: made to read differently from what it is (Boucher and Anderson 2021, arXiv:2111.00169).
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """``text`` without its control characters."""
    return _UNSAFE.sub("", text)


class Visible:
    """A renderable whose every line is :func:`visible`, or the last ``max_lines`` of them.

    Filters what was rendered, not only what was said: Markdown's ``&#...;`` makes characters of its own.
    """

    def __init__(self, renderable: RenderableType, max_lines: int | None = None) -> None:
        self._renderable, self._max_lines = renderable, max_lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._renderable, options, pad=False)
        for line in lines[-self._max_lines :] if self._max_lines else lines:
            for segment in line:
                if not segment.control:
                    yield Segment(visible(segment.text), segment.style)
            yield Segment.line()
