"""Several answers, JSON and calls from the engine as a whole: valid whatever random weights would rather say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.domain.tools import Tool, ToolUse
from lmoe_ray.engine import grammars as grammars_module
from lmoe_ray.engine import sampler as sampler_module
from lmoe_ray.errors import ConstraintFailed, InvalidField, Overloaded
from tests.engine import oracles
from tests.engine.test_random_schedules import TIGHT

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

prompt_request = oracles.prompt_request
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1, "maxItems": 2},
        "point": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 0, "maximum": 99}]},
    },
    "required": ["name", "tags", "point"],
    "additionalProperties": False,
}
WILD = {"temperature": 1.5, "top_k": 0, "max_tokens": 120}
PAINT = {"type": "object", "properties": {"a": {"enum": ["red", 7]}}, "required": ["a"], "additionalProperties": False}
USE = ToolUse((Tool("paint", "", json.dumps(PAINT)), Tool("stop", "ends it")), must_call=True, max_calls=3)


async def answers_to(engine: Any, request: GenerateRequest) -> list[TokenDelta]:
    answers: dict[int, TokenDelta] = {}
    async for delta in engine.generate(request):
        answers[delta.index] = answers[delta.index] + delta if delta.index in answers else delta
    return [answers[index] for index in range(request.sampling.n)]


# ── several answers ──────────────────────────────────────────────────────────────────────────────


async def test_each_of_several_answers_is_the_one_its_own_seed_gives_alone(make_engine: Callable[..., Any]) -> None:
    engine, wishes = make_engine(), {**WILD, "max_tokens": 20, "ignore_eos": True}
    together = await answers_to(engine, prompt_request("the quick", seed=5, n=4, **wishes))
    seeds = [sampler_module.derive_seed(5, index) for index in range(4)]
    alone = [await oracles.answer(engine, prompt_request("the quick", seed=seed, **wishes)) for seed in seeds]
    assert [answer.token_ids for answer in together] == [tuple(answer.ids) for answer in alone]
    assert len({answer.text for answer in together}) == 4
    assert [answer.index for answer in together] == [0, 1, 2, 3]


async def test_several_answers_compute_their_prompt_once(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    prompt = "x y z q " * 12
    num_prompt_tokens = len(engine._tokenizer.encode_request(prompt_request(prompt)))
    await answers_to(engine, prompt_request(prompt, n=5, max_tokens=3, ignore_eos=True))
    stats = engine.stats()
    num_shared = (num_prompt_tokens - 1) // 16 * 16
    assert num_shared > 16
    assert stats.cached_tokens == 4 * num_shared
    assert stats.prompt_tokens == num_prompt_tokens + 4 * (num_prompt_tokens - num_shared)
    assert (stats.num_running, stats.num_waiting, stats.num_free_blocks) == (0, 0, stats.num_blocks)


@pytest.mark.parametrize("max_tokens", [1, 40])
async def test_leaving_frees_every_answer(make_engine: Callable[..., Any], max_tokens: int) -> None:
    engine = make_engine()
    deltas = engine.generate(prompt_request("x" * 100, n=8, max_tokens=max_tokens, ignore_eos=True))
    await anext(deltas)
    await deltas.aclose()
    for _ in range(200):
        stats = engine.stats()
        if not (stats.num_running or stats.num_waiting):
            break
        await asyncio.sleep(0.01)
    assert (stats.num_running, stats.num_waiting, stats.num_free_blocks) == (0, 0, stats.num_blocks)


async def test_an_overloaded_engine_takes_all_answers_of_a_request_or_none(make_engine: Callable[..., Any]) -> None:
    engine = make_engine(max_num_seqs=1, max_waiting=1)
    # One after the other, so the first delta comes long before the last.
    deltas = engine.generate(prompt_request("x", n=8, max_tokens=60, ignore_eos=True))
    first = await anext(deltas)
    with pytest.raises(Overloaded):
        await answers_to(engine, prompt_request("x", n=2))
    num_tokens = len(first.token_ids) + sum([len(delta.token_ids) async for delta in deltas])
    assert num_tokens == 8 * 60


# ── log-probabilities ────────────────────────────────────────────────────────────────────────────


async def test_the_likeliest_tokens_are_those_of_the_reference(llama: Path, make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    request = prompt_request("the quick", logprobs=True, top_logprobs=4, ignore_eos=True, temperature=1.0, seed=3)
    answered = await oracles.answer(engine, request)
    ids = engine._tokenizer.encode_request(request)
    logits = oracles.reference_logits(llama, [*ids, *answered.ids])[len(ids) - 1 : -1]
    expected = torch.log_softmax(logits, -1).topk(4)
    for position, token in enumerate(answered.whole.logprobs):
        assert token.token == engine._tokenizer.token_bytes(answered.ids[position])
        spelled = [engine._tokenizer.token_bytes(token_id) for token_id in expected.indices[position].tolist()]
        assert [top for top, _ in token.top] == spelled
        assert [value for _, value in token.top] == pytest.approx(expected.values[position].tolist(), abs=1e-3)


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("overlap", [False, True])
async def test_json_satisfies_its_schema_beside_free_answers_that_it_does_not_change(
    make_engine: Callable[..., Any], overlap: bool
) -> None:
    engine = make_engine(options={"overlap": overlap})
    free = prompt_request("the quick", ignore_eos=True, max_tokens=40, temperature=1.0, seed=7)
    expected = await oracles.answer(engine, free)
    wishes = {**WILD, "json_schema": json.dumps(SCHEMA)}
    asked = [prompt_request(f"{seed} is", seed=seed, n=2, **wishes) for seed in range(10)]
    [beside, *answered] = await asyncio.gather(
        oracles.answer(engine, free), *(answers_to(engine, request) for request in asked)
    )
    assert beside.ids == expected.ids
    for answer in (one for several in answered for one in several):
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.text), SCHEMA)


@pytest.mark.parametrize(
    "wishes",
    [
        {"logit_bias": tuple((token_id, -100.0) for token_id in range(3, 330, 2))},
        {"repetition_penalty": 5.0, "frequency_penalty": 2.0},
        {"top_p": 0.1, "top_k": 2, "min_p": 0.5},
        {"temperature": 0.0},
        {"ignore_eos": True},
    ],
    ids=["bias", "penalties", "filters", "greedy", "no end"],
)
async def test_no_other_wish_leads_out_of_the_schema(make_engine: Callable[..., Any], wishes: dict[str, Any]) -> None:
    request = prompt_request("x", json_schema=json.dumps(SCHEMA), seed=1, **{**WILD, **wishes})
    answered = await oracles.answer(make_engine(), request)
    jsonschema.validate(json.loads(answered.text), SCHEMA)
    assert answered.whole.finish_reason == "stop"


@pytest.mark.parametrize("overlap", [False, True])
async def test_json_outlives_preemption(make_engine: Callable[..., Any], overlap: bool) -> None:
    tight, roomy = make_engine(options={"overlap": overlap}, **TIGHT), make_engine()
    schema = {"type": "array", "items": {"type": "integer", "maximum": 9}, "minItems": 25, "maxItems": 25}
    wishes = {"json_schema": json.dumps(schema), "max_tokens": 130, "temperature": 1.0, "top_k": 0}
    asked = [prompt_request("0123456789 " * 6, seed=seed, **wishes) for seed in range(6)]
    answered = await asyncio.gather(*(oracles.answer(tight, request) for request in asked))
    assert tight.stats().num_preempted > 0
    for request, answer in zip(asked, answered, strict=True):
        assert answer.ids == (await oracles.answer(roomy, request)).ids
        jsonschema.validate(json.loads(answer.text), schema)


async def test_json_cut_by_max_tokens_says_so(make_engine: Callable[..., Any]) -> None:
    request = prompt_request("x", json_schema=json.dumps(SCHEMA), max_tokens=6)
    answered = await oracles.answer(make_engine(), request)
    assert (answered.whole.finish_reason, len(answered.ids)) == ("length", 6)
    with pytest.raises(ValueError, match=r"\w"):
        json.loads(answered.text)


async def test_a_schema_that_cannot_be_satisfied_is_refused_before_anything_is_computed(
    make_engine: Callable[..., Any],
) -> None:
    engine = make_engine()
    with pytest.raises(InvalidField, match="Unsatisfiable"):
        await oracles.answer(engine, prompt_request("x", json_schema='{"enum": [1], "type": "string"}'))
    assert engine.stats().prompt_tokens == 0


async def test_a_constraint_that_fails_on_the_way_ends_its_own_request_and_no_other(
    make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()

    def broken(matcher: Any) -> Any:
        constraint = constraint_of(matcher)
        if constraint is not None:
            constraint.matcher.consume_token(3)  # nothing in the schema begins with it
        return constraint

    constraint_of = grammars_module.constraint_of
    monkeypatch.setattr("lmoe_ray.engine.sequence_maker.constraint_of", broken)
    free = asyncio.create_task(oracles.answer(engine, prompt_request("x", ignore_eos=True, max_tokens=50)))
    with pytest.raises(ConstraintFailed, match="doesn't satisfy the grammar"):
        await answers_to(engine, prompt_request("x", json_schema=json.dumps(SCHEMA), n=2))
    assert len((await free).ids) == 50
    assert (engine.stats().num_running, engine.stats().num_waiting) == (0, 0)


# ── calls ────────────────────────────────────────────────────────────────────────────────────────


async def test_required_calls_name_a_function_and_keep_to_its_parameters(
    tiny: Any, tmp_path: Path, make_engine: Callable[..., Any]
) -> None:
    folder = tiny.make_tiny_model(tmp_path, max_position_embeddings=1024)
    engine = make_engine(folder, max_model_len=1024)
    messages = (Message("user", "paint it"),)
    sampling = SamplingParams(**{**WILD, "max_tokens": 300}, seed=2, n=8)
    answered = await answers_to(engine, GenerateRequest("r", "tiny", messages, sampling=sampling, tools=USE))
    names = [call.name for answer in answered for call in answer.calls]
    assert set(names) == {"paint", "stop"}
    for answer in answered:
        assert (answer.text, answer.finish_reason) == ("", "tool_calls")
        assert [call.call for call in answer.calls] == list(range(len(answer.calls)))
        for call in answer.calls:
            jsonschema.validate(json.loads(call.arguments), PAINT if call.name == "paint" else {"maxProperties": 0})
