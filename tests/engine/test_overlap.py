"""A GPU's loop, on a CPU: each step is launched before the last one's tokens are read, and no answer shows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from lmoe_ray.domain.package import LMoEPackage
from tests.engine import oracles

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

PROMPTS = ("the quick", "USER: hello", "0123456789 " * 5, "how are you? " * 9)
SCHEMA = json.dumps(
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "yy"]}}, "required": ["a", "b"]}
)
#: What depends on the tokens before, and so on a token that is still being computed.
WISHES: dict[str, dict[str, Any]] = {
    "greedy": {"ignore_eos": True},
    "drawn with a seed": {"temperature": 1.2, "top_p": 0.9, "seed": 5, "ignore_eos": True},
    "never the same word twice": {"repetition_penalty": 1.5, "ignore_eos": True},
    "seldom the same word": {"frequency_penalty": 1.5, "presence_penalty": 1.0, "ignore_eos": True},
    "out of a list": {"choices": ("code", "creative", "codex"), "temperature": 2.0, "top_k": 0, "seed": 3},
    "JSON": {"json_schema": SCHEMA, "temperature": 1.5, "top_k": 0, "seed": 4, "max_tokens": 60},
    "with log-probabilities": {"logprobs": True, "temperature": 1.0, "seed": 9},
    "one token": {"max_tokens": 1, "ignore_eos": True},
}


@pytest.fixture
def in_turns(make_engine: Callable[..., Any]) -> Any:
    return make_engine(options={"overlap": False})


@pytest.fixture
def overlapped(make_engine: Callable[..., Any]) -> Any:
    return make_engine(options={"overlap": True})


async def answer_all(engine: Any, package: LMoEPackage, **wishes: Any) -> list[Any]:
    """Whole answers to all prompts at once, each with another adapter."""
    digests = [None, *(expert.digest for expert in package.experts)]
    await asyncio.gather(*(engine.load_adapter(expert) for expert in package.experts))
    wishes = {"max_tokens": 30, **wishes}
    requests = [oracles.prompt_request(prompt, f"r{n}", **wishes) for n, prompt in enumerate(PROMPTS)]
    jobs = zip(requests, digests, strict=False)
    return [answered.whole for answered in await asyncio.gather(*(oracles.answer(engine, *job) for job in jobs))]


def values(answer: Any) -> list[float]:
    return [token.logprob for token in answer.logprobs]


@pytest.mark.parametrize("wishes", WISHES.values(), ids=WISHES)
async def test_answers_are_those_of_a_loop_that_takes_turns(
    wishes: dict[str, Any], in_turns: Any, overlapped: Any, package: LMoEPackage
) -> None:
    ours, theirs = [await answer_all(engine, package, **wishes) for engine in (overlapped, in_turns)]
    assert [(a.text, a.token_ids, a.finish_reason, a.usage) for a in ours] == [
        (a.text, a.token_ids, a.finish_reason, a.usage) for a in theirs
    ]
    for our, their in zip(ours, theirs, strict=True):
        assert values(our) == pytest.approx(values(their), abs=1e-4)


async def test_the_token_computed_after_a_stop_string_is_never_seen(
    in_turns: Any, overlapped: Any, package: LMoEPackage
) -> None:
    whole, *_ = await answer_all(in_turns, package, ignore_eos=True)
    stop = whole.text[5:7]
    ours, theirs = [
        await answer_all(engine, package, ignore_eos=True, stop=(stop,)) for engine in (overlapped, in_turns)
    ]
    assert ours[0].text == whole.text[: whole.text.index(stop)]
    assert [(a.text, a.token_ids, a.finish_reason) for a in ours] == [
        (a.text, a.token_ids, a.finish_reason) for a in theirs
    ]


async def test_the_token_computed_after_the_end_token_is_never_seen(overlapped: Any) -> None:
    [eos] = overlapped._tokenizer.eos_ids
    answered = await oracles.answer(overlapped, oracles.prompt_request("x", logit_bias=((eos, 100.0),)))
    assert (answered.text, answered.ids, answered.whole.finish_reason) == ("", [eos], "stop")


async def test_a_reader_that_leaves_with_a_step_under_way_frees_everything(
    overlapped: Any, package: LMoEPackage
) -> None:
    expert = package.experts[0]
    await overlapped.load_adapter(expert)
    staying = asyncio.create_task(
        oracles.answer(overlapped, oracles.prompt_request("x", ignore_eos=True, max_tokens=90))
    )
    request = oracles.prompt_request("the quick", "leaving", ignore_eos=True, max_tokens=400)
    async with aclosing(overlapped.generate(request, expert.digest)) as deltas:
        await anext(deltas)
    await asyncio.wait_for(overlapped.drop_adapter(expert.digest), 5)
    assert len((await staying).ids) == 90
    stats = overlapped.stats()
    assert (stats.num_running, stats.num_pinned_adapters, stats.num_free_rows) == (0, 0, stats.num_rows)
    assert stats.num_free_blocks == stats.num_blocks
