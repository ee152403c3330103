"""Instruct data on disk: one JSON object a line, checked on reading, so that nobody behind checks again.

::

    {"category": "coding", "system": null, "instruction": "…", "response": "…", "source": "…", "licence": "…"}

``response`` may hold further turns, as airoboros' data does: ``first</s>USER: more\\nASSISTANT: second``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.prompt import DEFAULT_SYSTEM
from lmoe_ray.errors import TrainingDataError

_NEXT_TURN = re.compile(r"</s>\s*USER:(?P<user>.*?)ASSISTANT:", re.DOTALL)


@dataclass(frozen=True, slots=True)
class InstructRow:
    """One line. ``source`` and ``licence`` travel along so that a split file still says whose text it is."""

    category: str
    instruction: str
    response: str
    system: str | None = None
    source: str = ""
    licence: str = ""

    @property
    def query(self) -> str:
        """What the predecessor's routing index holds: system text, a blank, the instruction."""
        return f"{self.system or DEFAULT_SYSTEM} {self.instruction}"


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer to learn, after the conversation it answers."""

    messages: tuple[Message, ...] = field(repr=False)
    response: str = field(repr=False)


def turns_of(row: InstructRow) -> tuple[Turn, ...]:
    """Every assistant turn of a row, each with its whole history, so that training sees what serving renders."""
    history = [Message("system", row.system)] if row.system else []
    history.append(Message("user", row.instruction.strip()))
    turns: list[Turn] = []
    start = 0
    for border in _NEXT_TURN.finditer(row.response):
        answer = row.response[start : border.start()].strip()
        turns.append(Turn(tuple(history), answer))
        history += [Message("assistant", answer), Message("user", border["user"].strip())]
        start = border.end()
    turns.append(Turn(tuple(history), row.response[start:].removesuffix("</s>").strip()))
    return tuple(turns)


def read_rows(file: Path) -> tuple[InstructRow, ...]:
    """All rows of a file; blank lines are skipped, keys without a field here are left behind.

    Raises:
        TrainingDataError: naming file and line of the first row that cannot be used.
    """
    return tuple(_parse(f"{file}:{number}", line) for number, line in enumerate(_lines(file), 1) if line.strip())


def write_rows(file: Path, rows: Iterable[InstructRow]) -> None:
    """The inverse of :func:`read_rows`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_samples(file: Path, texts: Iterable[str]) -> None:
    """A routing file as an LMoE package holds it: ``{"instruction": text}`` a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"instruction": text}, ensure_ascii=False) + "\n" for text in texts)
    file.write_text("".join(lines), encoding="utf-8")


def read_samples(file: Path) -> tuple[str, ...]:
    """The inverse of :func:`write_samples`.

    Raises:
        TrainingDataError: naming file and line of the first row that cannot be used.
    """
    lines = _lines(file)
    return tuple(_sample(f"{file}:{number}", line) for number, line in enumerate(lines, 1) if line.strip())


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise TrainingDataError(str(file), f"cannot be read as UTF-8 text: {exc}") from exc


def _sample(place: str, line: str) -> str:
    return _text(place, _object(place, line), "instruction")


def _parse(place: str, line: str) -> InstructRow:
    data = _object(place, line)
    system = data.get("system")
    if system is not None and not isinstance(system, str):
        raise TrainingDataError(place, f"system must be text or null, it is {type(system).__name__}")
    return InstructRow(
        category=_text(place, data, "category"),
        instruction=_text(place, data, "instruction"),
        response=_text(place, data, "response"),
        system=system,
        source=str(data.get("source") or ""),
        licence=str(data.get("licence") or ""),
    )


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError as exc:
        raise TrainingDataError(place, f"is not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise TrainingDataError(place, f"must be a JSON object, it is {type(data).__name__}")
    return data


def _text(place: str, data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value.strip():
        raise TrainingDataError(place, f"{key} must be text that is not empty, it is {str(value)[:40]!r}")
    return value
