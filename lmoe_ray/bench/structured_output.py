"""``lmoe bench structured``: do answers satisfy the schema they were asked for, and what does that cost?

Validity: every prompt goes through the parser of the HTTP API as a client would send it, with a strict schema,
and its answer is checked by jsonschema, which knows nothing of how the answer was made. Cost: streams that
decode equally many tokens at once, free or confined to JSON, in turns; prompts are not counted.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jsonschema
from rich.console import Console
from rich.table import Table

from lmoe_ray.api.openai import parse_chat
from lmoe_ray.bench.structured_tasks import ENDLESS, tasks
from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.engine.async_engine import AsyncEngine
from lmoe_ray.settings import EngineSettings

MODEL_LEN = 2048
WARM_UP_TOKENS = 8
_COST_PROMPT = "Tell me about the sea, the wind and the people who live by them."


@dataclass(frozen=True, slots=True)
class Validity:
    """Answers in all, those that satisfy their schema, and those that ``max_tokens`` cut."""

    num_answers: int
    num_valid: int
    num_cut: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens per second of ``streams`` together while all of them decode."""

    streams: int
    free: float
    confined: float

    @property
    def loss(self) -> float:
        return 1 - self.confined / self.free


@dataclass(frozen=True, slots=True)
class StructuredReport:
    validity: Validity
    costs: tuple[Cost, ...]

    def as_dict(self) -> dict[str, Any]:
        answers = self.validity
        return {
            "name": "structured",
            "answers": answers.num_answers,
            "valid": answers.num_valid,
            "cut": answers.num_cut,
            "costs": [
                {
                    "streams": c.streams,
                    "free": round(c.free, 1),
                    "confined": round(c.confined, 1),
                    "loss": round(c.loss, 3),
                }
                for c in self.costs
            ],
        }


def run(
    model: Path,
    *,
    num_prompts: int,
    max_tokens: int,
    streams: Sequence[int],
    new_tokens: int,
    rounds: int,
    threads: int,
    progress: Callable[[str], None],
) -> StructuredReport:
    """Measure one model on this machine; ``rounds`` of each cost, of which the median counts."""
    settings = EngineSettings(max_model_len=MODEL_LEN, max_num_seqs=max(16, *streams))
    engine = AsyncEngine(model, settings, num_threads=threads)
    engine.start()
    try:
        with asyncio.Runner() as loop:
            progress(f"answering {num_prompts} prompts")
            validity = loop.run(_validity(engine, num_prompts, max_tokens))
            costs = []
            for number in streams:
                progress(f"decoding {number} streams")
                costs.append(loop.run(_cost(engine, number, new_tokens, rounds)))
    finally:
        engine.close()
    return StructuredReport(validity, tuple(costs))


async def _validity(engine: AsyncEngine, num_prompts: int, max_tokens: int) -> Validity:
    asked = tasks(num_prompts)
    requests = [
        _request(text, seed, max_tokens=max_tokens, response_format=_strict(schema))
        for seed, (text, schema) in enumerate(asked)
    ]
    answers = await asyncio.gather(*(_whole(engine, request) for request in requests))
    checked = zip(answers, asked, strict=True)
    num_valid = sum(satisfies(answer.text, schema) for answer, (_, schema) in checked)
    return Validity(len(answers), num_valid, sum(answer.finish_reason == "length" for answer in answers))


def satisfies(text: str, schema: dict[str, Any]) -> bool:
    """Whether a text is JSON that satisfies a schema, by jsonschema."""
    try:
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


async def _cost(engine: AsyncEngine, streams: int, new_tokens: int, rounds: int) -> Cost:
    free, confined = list[float](), list[float]()
    for number in range(-1, rounds):
        for rates, extra in ((free, {}), (confined, {"response_format": _strict(ENDLESS)})):
            num_tokens = new_tokens if number >= 0 else WARM_UP_TOKENS
            requests = [
                _request(_COST_PROMPT, seed, max_tokens=num_tokens, ignore_eos=True, **extra) for seed in range(streams)
            ]
            rate = await _decode_rate(engine, requests)
            if number >= 0:
                rates.append(rate)
    return Cost(streams, median(free), median(confined))


async def _decode_rate(engine: AsyncEngine, requests: Sequence[GenerateRequest]) -> float:
    """Tokens per second from the moment every stream has begun until the last one ends."""
    num_begun, num_before, begin_s, num_tokens = 0, 0, 0.0, 0

    async def read(request: GenerateRequest) -> None:
        nonlocal num_begun, num_before, begin_s, num_tokens
        is_first = True
        async with aclosing(engine.generate(request)) as deltas:
            async for delta in deltas:
                num_tokens += len(delta.token_ids)
                num_begun += is_first
                if is_first and num_begun == len(requests):
                    num_before, begin_s = num_tokens, time.perf_counter()
                is_first = False

    await asyncio.gather(*(read(request) for request in requests))
    return (num_tokens - num_before) / (time.perf_counter() - begin_s)


async def _whole(engine: AsyncEngine, request: GenerateRequest) -> TokenDelta:
    async with aclosing(engine.generate(request)) as deltas:
        whole = await anext(deltas)
        async for delta in deltas:
            whole += delta
    return whole


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _request(text: str, seed: int, **fields: Any) -> GenerateRequest:
    messages = [{"role": "user", "content": text}]
    body = {"model": "bench", "messages": messages, "seed": seed, **fields}
    return parse_chat(body, f"bench-{seed}", len(messages)).generate


def print_report(report: StructuredReport, console: Console) -> None:
    answers = report.validity
    console.print(
        f"{answers.num_valid} of {answers.num_answers} answers satisfy their strict schema; "
        f"{answers.num_cut} were cut by max_tokens",
        highlight=False,
    )
    table = Table("streams", "free, tokens/s", "JSON, tokens/s", "loss")
    for cost in report.costs:
        table.add_row(str(cost.streams), f"{cost.free:.1f}", f"{cost.confined:.1f}", f"{cost.loss:.1%}")
    console.print(table)
