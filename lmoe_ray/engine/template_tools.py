"""The format of calls a model was trained on, found in its chat template by letting it write two.

A template is a program, so it is run, not read: what it writes around the names and arguments of known calls
is the format. Only what an answer can repeat counts: plain text, and an object with two keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError

from lmoe_ray.domain.prompt import Turns
from lmoe_ray.domain.tool_dialect import ToolDialect

#: Renders turns and tools with the model's template, without tokenising.
RenderText = Callable[[Turns, Turns | None], str]

_TOOLS: Turns = [
    {"type": "function", "function": {"name": name, "description": f"about {name}", "parameters": parameters}}
    for name in ("first_probe", "second_probe")
    for parameters in [{"type": "object", "properties": {"probed": {"type": "integer"}}}]
]
_QUESTION = {"role": "user", "content": "question"}
_OBJECT = r'\{{"(\w+)": "{}", "(\w+)": \{{"probed": {}\}}\}}'


def find_dialect(render: RenderText, is_plain: Callable[[str], bool]) -> ToolDialect | None:
    """``None`` if the template does not know of tools, or writes calls in a way that is not ours to read.

    Args:
        is_plain: whether a text survives being tokenised and shown.
    """
    try:
        told = render([_QUESTION], _TOOLS)
        written = render([_QUESTION, _turn(1, 2)], _TOOLS)
        result = render([_QUESTION, _turn(1), {"role": "tool", "name": "first_probe", "content": "outcome"}], _TOOLS)
        without = render([_QUESTION, {"role": "assistant", "content": "answer"}], _TOOLS)
    except (TemplateError, TypeError, ValueError, KeyError):
        return None
    knows = "first_probe" in told and "about second_probe" in told and "outcome" in result
    return _read(written, without.partition("answer")[0], without.partition("answer")[2], is_plain) if knows else None


def _turn(*numbers: int) -> dict[str, Any]:
    calls = [
        {"type": "function", "id": f"call0000{n}", "function": {"name": name, "arguments": {"probed": n}}}
        for n, name in zip(numbers, ("first_probe", "second_probe"), strict=False)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _read(written: str, before: str, after: str, is_plain: Callable[[str], bool]) -> ToolDialect | None:
    """The dialect of an answer with two calls; ``before`` and ``after`` stand around every answer."""
    if not (written.startswith(before) and written.endswith(after)):
        return None
    answer = written[len(before) : len(written) - len(after)]
    first = re.search(_OBJECT.format("first_probe", 1), answer)
    second = re.search(_OBJECT.format("second_probe", 2), answer)
    if first is None or second is None or first.groups() != second.groups():
        return None
    opening, middle, closing = answer[: first.start()], answer[first.end() : second.start()], answer[second.end() :]
    separator = middle.removeprefix(closing).removesuffix(opening)
    is_read = closing + separator + opening == middle and opening.strip() and is_plain(opening + closing)
    name_key, arguments_key = first.groups()
    return ToolDialect(opening, closing, separator, name_key, arguments_key, is_templated=True) if is_read else None
