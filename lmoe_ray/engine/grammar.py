"""The grammar of a request's answer, in the Lark dialect of llguidance: choices, JSON, or text and calls.

JSON is written as ``json.dumps`` does, with one space after ``:`` and ``,``: a small model that may insert
white space goes on inserting it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.tool_dialect import ToolDialect
from lmoe_ray.domain.tools import Tool, ToolUse

_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_TEXT = r"/(.|\n)*/"


def answer_grammar(request: GenerateRequest, dialect: ToolDialect) -> str:
    """Empty if the answer is free."""
    if request.sampling.choices:
        return f"start: {_one_of(_literal(choice) for choice in request.sampling.choices)}\n"
    if request.sampling.json_schema:
        return f"start: {json_rule(request.sampling.json_schema)}\n"
    return "" if request.tools is None else calls_grammar(request.tools, dialect)


def json_rule(schema: str) -> str:
    """What matches JSON of a schema, which is JSON text of an object."""
    return f"%json {json.dumps(json.loads(schema) | {'x-guidance': _LAYOUT})}"


def calls_grammar(use: ToolUse, dialect: ToolDialect) -> str:
    """Calls of the functions that may be called; unless one must be, a text, too."""
    rules = [f"call: {_one_of(f'call_{at}' for at, _ in enumerate(use.callable))}"]
    rules += [rule for at, tool in enumerate(use.callable) for rule in _call_rules(at, tool, dialect)]
    first = _sequence(_literal(dialect.opening), "call", _literal(dialect.closing))
    further = _further(use, dialect)
    if use.must_call:
        return "\n".join((f"start: {first}{further}", *rules, ""))
    return "\n".join((*_text_or_calls(dialect, first, further), *rules, ""))


def _text_or_calls(dialect: ToolDialect, first: str, further: str) -> tuple[str, ...]:
    """A call begins where the trigger is complete, and from there nothing else is possible."""
    trigger = dialect.trigger
    if dialect.may_follow_text:
        rest = _sequence(_literal(dialect.opening.removeprefix(trigger)), "call", _literal(dialect.closing))
        return (
            f"start: TEXT | begun {rest}{further}",
            f"begun[lazy]: TEXT {_literal(trigger)}",
            f"TEXT: {_ANY_TEXT}",
        )
    return (f"start: TEXT | {first}{further}", f"TEXT: {_ANY_TEXT} & ~/{_regex(trigger)}(.|\\n)*/")


def _call_rules(at: int, tool: Tool, dialect: ToolDialect) -> tuple[str, str]:
    return (
        f'call_{at}: {_literal(dialect.head(tool.name))} arguments_{at} "}}"',
        f"arguments_{at}: {json_rule(tool.parameters)}",
    )


def _further(use: ToolUse, dialect: ToolDialect) -> str:
    if use.max_calls == 1:
        return ""
    next_call = _sequence(_literal(dialect.separator + dialect.opening), "call", _literal(dialect.closing))
    return f" ({next_call}){{0,{use.max_calls - 1}}}"


def _sequence(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _one_of(parts: Iterable[str]) -> str:
    return " | ".join(parts)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _regex(text: str) -> str:
    """A regular expression that matches just this text."""
    return "".join(char if char.isalnum() or char in ' "_' else f"\\{char}" for char in text)
