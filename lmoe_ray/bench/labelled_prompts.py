"""Files of prompts that say which expert should answer them, as routing samples or as a test."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.lora_config import LoraConfig
from lmoe_ray.domain.package import Expert
from lmoe_ray.errors import TrainingDataError
from lmoe_ray.routing.query import CHARS_PER_TOKEN, read_query

#: Labels, beside JSON's ``null``, of a prompt that no expert is meant for; so a test file cannot mean an expert of
#: such a name.
NO_EXPERT = ("(base)", "none")


@dataclass(frozen=True, slots=True)
class LabelledPrompt:
    """One labelled conversation.

    Attributes:
        expert: who should answer; ``None`` if the prompt lies outside every expert's domain.
        messages: the conversation.
        num_tools: how many tools the request declares.
        source: the data set it was taken from; empty if the row does not say.
        slice: the part of the test that it belongs to; empty if the row does not say.
    """

    expert: str | None
    messages: tuple[Message, ...]
    num_tools: int = 0
    source: str = ""
    slice: str = ""


def read_experts(path: Path, max_tokens: int) -> tuple[Expert, ...]:
    """The experts of a package folder or a file, with samples and nothing else: no weights are needed to route."""
    files = sorted((path / "routing_data").glob("expert_*.jsonl")) if path.is_dir() else [path]
    samples: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for file in files:
        default = file.stem.removeprefix("expert_") if path.is_dir() else ""
        for prompt in _read_rows(file, default):
            if prompt.expert is None:
                raise TrainingDataError(str(file), "has a sample of no expert; only a test may ask for none")
            query = read_query(GenerateRequest("", "", prompt.messages))
            samples[prompt.expert].append((query.within(max_tokens * CHARS_PER_TOKEN), prompt.source))
    if not samples:
        raise TrainingDataError(str(path), "holds no routing samples; name a package folder or a JSONL file")
    return tuple(_expert(name, path, found) for name, found in sorted(samples.items()))


def _expert(name: str, path: Path, samples: Iterable[tuple[str, str]]) -> Expert:
    """From samples and their sources."""
    texts, sources = zip(*samples, strict=True)
    return Expert(name, path, "", LoraConfig(rank=1, alpha=1.0, targets=()), samples=texts, sources=sources)


def read_prompts(file: Path) -> tuple[LabelledPrompt, ...]:
    """Labelled prompts of a test file."""
    prompts = tuple(_read_rows(file, ""))
    if not prompts:
        raise TrainingDataError(str(file), "holds no prompts")
    return prompts


def _read_rows(file: Path, default_expert: str) -> Iterator[LabelledPrompt]:
    for number, line in enumerate(_lines_of(file), 1):
        if not line.strip():
            continue
        try:
            yield _read_row(json.loads(line), default_expert)
        except (ValueError, TypeError, KeyError) as exc:
            problem = f'is not {{"expert": ..., "messages" or "instruction": ...}}: {exc!r}'
            raise TrainingDataError(f"{file}:{number}", problem) from exc


def _lines_of(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise TrainingDataError(str(file), f"cannot be read as UTF-8 text: {exc}") from exc


def _read_row(row: dict[str, Any], default_expert: str) -> LabelledPrompt:
    turns = row["messages"] if "messages" in row else [{"role": "user", "content": row["instruction"]}]
    messages = tuple(Message(turn["role"], _content(turn)) for turn in turns)
    num_tools = len(row.get("tools") or ()) + len(row.get("functions") or ())
    return LabelledPrompt(
        default_expert or _label(row["expert"]),
        messages,
        num_tools,
        source=_text(row.get("source") or "").strip(),
        slice=_text(row.get("slice") or "").strip(),
    )


def _label(value: object) -> str | None:
    return None if value is None or value in NO_EXPERT else _text(value)


def _content(turn: dict[str, Any]) -> str:
    """An assistant that calls tools says nothing else."""
    return "" if turn["role"] == "assistant" and turn["content"] is None else _text(turn["content"])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
