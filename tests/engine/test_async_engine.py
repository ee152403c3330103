"""The engine as a whole, against transformers and PEFT running each request alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.package import Expert, LMoEPackage, load_package
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.errors import InvalidField, NotReady, Overloaded, PromptTooLong
from tests.engine import oracles

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

answer, prompt_request = oracles.answer, oracles.prompt_request
#: Tokens that take long enough to look at a sequence while it runs.
LONG = 450
PROMPTS = (
    "the quick",
    "USER: hello",
    "0123456789 " * 5,
    "x",
    "how are you? " * 9,
    "{}[]()",
    "é🙂é",
    "over the lazy dog",
)


async def load_all(engine: Any, package: LMoEPackage) -> None:
    await asyncio.gather(*(engine.load_adapter(expert) for expert in package.experts))


def prompt_ids(engine: Any, request: GenerateRequest) -> list[int]:
    ids: list[int] = engine._tokenizer.encode_request(request)
    return ids


async def assert_all_as_alone(engine: Any, folder: Path, jobs: list[tuple[str, Expert | None]], **wishes: Any) -> None:
    """Every job's greedy tokens equal those of ``generate`` with that adapter alone."""
    wishes = {"ignore_eos": True, "max_tokens": 12, **wishes}
    requests = [prompt_request(prompt, f"r{i}", **wishes) for i, (prompt, _) in enumerate(jobs)]
    digests = [None if expert is None else expert.digest for _, expert in jobs]
    answers = await asyncio.gather(*(answer(engine, r, d) for r, d in zip(requests, digests, strict=True)))
    for request, (_, expert), answered in zip(requests, jobs, answers, strict=True):
        ids = prompt_ids(engine, request)
        expected = oracles.reference_greedy(folder, ids, wishes["max_tokens"], oracles.expert_folder(expert))
        assert answered.ids == expected, f"{request.prompt!r} with {expert and expert.name}"
        assert answered.whole.usage.prompt_tokens == len(ids)
        assert answered.whole.usage.completion_tokens == len(answered.ids)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
async def test_every_family_answers_as_transformers_does(
    family: str, model_folder: Callable[[str], Path], make_engine: Callable[..., Any]
) -> None:
    folder = model_folder(family)
    await assert_all_as_alone(make_engine(folder), folder, [(prompt, None) for prompt in PROMPTS])


async def test_rows_of_a_mixed_batch_answer_as_each_adapter_alone(
    llama: Path, package: LMoEPackage, make_engine: Callable[..., Any]
) -> None:
    engine = make_engine()
    await load_all(engine, package)
    experts = [*package.experts, None]
    await assert_all_as_alone(engine, llama, list(zip(PROMPTS, [*experts, experts[0]], strict=True)))
    assert engine.stats().num_steps < 40, "the rows did not run together"


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
async def test_adapters_mix_on_every_family(
    family: str, tiny: Any, model_folder: Callable[[str], Path], tmp_path: Path, make_engine: Callable[..., Any]
) -> None:
    folder = model_folder(family)
    package = load_package(tiny.make_tiny_package(tmp_path, folder))
    engine = make_engine(folder)
    await load_all(engine, package)
    await assert_all_as_alone(engine, folder, list(zip(PROMPTS, [*package.experts, None], strict=False)))


@pytest.mark.parametrize("budget", [8, 9, 13])
async def test_prompts_cut_into_tiny_chunks_answer_the_same(
    budget: int, llama: Path, package: LMoEPackage, make_engine: Callable[..., Any]
) -> None:
    engine = make_engine(max_batch_tokens=budget)
    await load_all(engine, package)
    experts = [None, *package.experts, None]
    await assert_all_as_alone(engine, llama, list(zip(PROMPTS, experts, strict=True)))


async def test_requests_that_arrive_while_others_run_answer_the_same(
    llama: Path, package: LMoEPackage, make_engine: Callable[..., Any]
) -> None:
    engine = make_engine(max_num_seqs=3, max_batch_tokens=16)
    await load_all(engine, package)
    chance = random.Random(0)

    async def later(number: int) -> None:
        await asyncio.sleep(chance.random() * 0.05)
        expert = chance.choice([None, *package.experts])
        num_tokens = chance.randint(1, 25)
        await assert_all_as_alone(engine, llama, [(chance.choice(PROMPTS), expert)], max_tokens=num_tokens)

    await asyncio.gather(*(later(number) for number in range(24)))
    assert engine.stats().num_free_rows == 3


async def test_adapters_that_outnumber_their_slots_take_turns(
    llama: Path, package: LMoEPackage, make_engine: Callable[..., Any]
) -> None:
    engine = make_engine(max_adapters=2)
    await load_all(engine, package)
    experts = [*package.experts, *package.experts]
    await assert_all_as_alone(engine, llama, [(PROMPTS[i % 8], expert) for i, expert in enumerate(experts)])
    stats = engine.stats()
    assert len(stats.adapters_on_device) == 2
    assert stats.num_pinned_adapters == 0


async def test_sliding_windows_hide_what_lies_before_them(
    tiny: Any, tmp_path: Path, make_engine: Callable[..., Any]
) -> None:
    mistral = tiny.make_tiny_model(tmp_path / "mistral", "mistral", sliding_window=7)
    mixed = tiny.make_tiny_model(
        tmp_path / "qwen2", "qwen2", use_sliding_window=True, sliding_window=7, max_window_layers=1
    )
    for folder in (mistral, mixed):
        jobs = [(prompt, None) for prompt in PROMPTS]
        await assert_all_as_alone(make_engine(folder, max_batch_tokens=9), folder, jobs)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen3", {"attention_bias": True}),
        ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
        ("mistral", {"head_dim": 32, "num_key_value_heads": 1}),
        ("llama", {"hidden_act": "gelu"}),
    ],
)
async def test_what_a_configuration_may_vary_is_computed(
    family: str, options: dict[str, Any], tiny: Any, tmp_path: Path, make_engine: Callable[..., Any]
) -> None:
    folder = tiny.make_tiny_model(tmp_path, family, **options)
    await assert_all_as_alone(make_engine(folder), folder, [(prompt, None) for prompt in PROMPTS[:4]])


async def test_a_seed_gives_the_same_text_alone_and_in_a_crowd(
    package: LMoEPackage, make_engine: Callable[..., Any]
) -> None:
    engine = make_engine()
    await load_all(engine, package)
    digest = package.experts[0].digest
    request = prompt_request("the quick", temperature=1.5, top_k=20, top_p=0.9, seed=7, max_tokens=30, ignore_eos=True)
    alone = await answer(engine, request, digest)
    others = [
        answer(engine, prompt_request(p, temperature=1.0, seed=i, max_tokens=40), e.digest)
        for i, (p, e) in enumerate(zip(PROMPTS, package.experts, strict=False))
    ]
    crowded, *_ = await asyncio.gather(answer(engine, request, digest), *others)
    assert crowded.ids == alone.ids
    other_seed = await answer(engine, replace(request, sampling=replace(request.sampling, seed=8)), digest)
    assert other_seed.ids != alone.ids


async def test_without_a_seed_answers_differ(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    request = prompt_request("the quick", temperature=2.0, top_k=0, max_tokens=30, ignore_eos=True)
    first, second = await asyncio.gather(answer(engine, request), answer(engine, request))
    assert first.ids != second.ids


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_stop_string_cuts_wherever_it_falls(data: st.DataObject, make_engine: Callable[..., Any]) -> None:
    engine = make_engine()

    async def run() -> None:
        request = prompt_request("how are", max_tokens=30, ignore_eos=True)
        free = await answer(engine, request)
        first = data.draw(st.integers(0, len(free.text) - 3))
        stop = free.text[first : first + data.draw(st.integers(1, 3))]
        cut = await answer(engine, replace(request, sampling=replace(request.sampling, stop=(stop,))))
        assert cut.text == free.text[: free.text.index(stop)]
        assert cut.whole.finish_reason == "stop"
        assert len(cut.ids) <= len(free.ids)

    asyncio.run(run())
    engine.close()


async def test_the_streamed_text_is_the_decoded_whole(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    requests = [prompt_request(p, temperature=2.0, top_k=0, seed=i, max_tokens=80) for i, p in enumerate(PROMPTS)]
    for answered in await asyncio.gather(*(answer(engine, request) for request in requests)):
        assert answered.text == engine._tokenizer.decode(answered.ids)
        assert [d.finish_reason is None for d in answered.deltas] == [True] * (len(answered.deltas) - 1) + [False]


async def test_the_answer_ends_at_the_models_end_token(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    [eos] = engine._tokenizer.eos_ids
    answered = await answer(engine, prompt_request("x", logit_bias=((eos, 100.0),)))
    assert (answered.text, answered.ids, answered.whole.finish_reason) == ("", [eos], "stop")


async def test_max_tokens_ends_the_answer_with_reason_length(make_engine: Callable[..., Any]) -> None:
    answered = await answer(make_engine(), prompt_request("x", max_tokens=5, ignore_eos=True))
    assert (len(answered.ids), answered.whole.finish_reason) == (5, "length")


@pytest.mark.parametrize("max_tokens", [None, 1000])
async def test_max_tokens_is_clamped_to_the_room_left(max_tokens: int | None, make_engine: Callable[..., Any]) -> None:
    engine = make_engine(max_model_len=32)
    request = prompt_request("0123456789", max_tokens=max_tokens, ignore_eos=True)
    answered = await answer(engine, request)
    assert len(answered.ids) == 32 - len((await engine.tokenize(request)).token_ids)
    assert answered.whole.finish_reason == "length"


@pytest.mark.parametrize("char", ["a", " ", "\N{FOX FACE}"])
async def test_a_prompt_that_no_tokenizer_could_make_fit_is_refused_unread(
    make_engine: Callable[..., Any], char: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    monkeypatch.setattr(engine._tokenizer, "encode_request", lambda request: pytest.fail("it was read"))
    most = engine.max_model_len * engine._tokenizer.longest_token

    with pytest.raises(PromptTooLong):
        await engine.tokenize(prompt_request(char * (most + 1)))


async def test_the_models_own_limit_caps_the_context(
    tiny: Any, tmp_path: Path, make_engine: Callable[..., Any]
) -> None:
    folder = tiny.make_tiny_model(tmp_path, "llama", max_position_embeddings=40)
    assert make_engine(folder, max_model_len=1000).max_model_len == 40


async def test_a_prompt_that_leaves_no_room_is_refused(make_engine: Callable[..., Any]) -> None:
    engine = make_engine(max_model_len=32)
    fits, too_long = prompt_request("x" * 31, ignore_eos=True), prompt_request("x" * 32)
    assert len((await engine.tokenize(fits)).token_ids) == 31
    assert len((await answer(engine, fits)).ids) == 1
    with pytest.raises(PromptTooLong, match=r"32 tokens\. However, your messages resulted in 32 tokens"):
        await answer(engine, too_long)
    assert engine.stats().num_free_rows == 8


async def test_a_very_long_prompt_is_refused_too(make_engine: Callable[..., Any]) -> None:
    with pytest.raises(PromptTooLong):
        await answer(make_engine(), prompt_request("ab " * 10_000))


async def test_a_reader_that_leaves_frees_row_slot_and_adapter_within_a_step(
    package: LMoEPackage, make_engine: Callable[..., Any]
) -> None:
    engine = make_engine()
    expert = package.experts[0]
    await engine.load_adapter(expert)
    request = prompt_request("x", max_tokens=LONG, ignore_eos=True)
    async with aclosing(engine.generate(request, expert.digest)) as deltas:
        await anext(deltas)
        assert (engine.stats().num_running, engine.stats().num_pinned_adapters) == (1, 1)
    num_steps = engine.stats().num_steps
    await until(lambda: engine.stats().num_running == 0)
    stats = engine.stats()
    assert (stats.num_free_rows, stats.num_pinned_adapters) == (8, 0)
    assert stats.num_steps <= num_steps + 1
    await asyncio.wait_for(engine.drop_adapter(expert.digest), 5)


async def test_a_reader_that_leaves_while_waiting_frees_its_place(make_engine: Callable[..., Any]) -> None:
    engine = make_engine(max_num_seqs=1)
    running = asyncio.create_task(answer(engine, prompt_request("x", max_tokens=LONG, ignore_eos=True)))
    await until(lambda: engine.stats().num_running == 1)
    waiting = asyncio.create_task(answer(engine, prompt_request("y")))
    await until(lambda: engine.stats().num_waiting == 1)
    waiting.cancel()
    await until(lambda: engine.stats().num_waiting == 0)
    assert len((await running).ids) == LONG


async def until(is_true: Callable[[], bool]) -> None:
    """Poll: what is waited for happens in the engine's thread, which signals nobody."""
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_more_requests_than_may_wait_are_refused(make_engine: Callable[..., Any]) -> None:
    engine = make_engine(max_num_seqs=1, max_waiting=1)
    request = prompt_request("x", max_tokens=LONG, ignore_eos=True)
    running = asyncio.create_task(answer(engine, request))
    await until(lambda: engine.stats().num_running == 1)
    waiting = asyncio.create_task(answer(engine, request))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="1 requests are waiting, the limit is 1"):
        await answer(engine, request)
    assert len((await running).ids) == len((await waiting).ids) == LONG


async def test_a_refused_request_gives_its_adapter_back(package: LMoEPackage, make_engine: Callable[..., Any]) -> None:
    engine = make_engine(max_num_seqs=1, max_waiting=1)
    expert = package.experts[0]
    await engine.load_adapter(expert)
    request = prompt_request("x", max_tokens=100, ignore_eos=True)
    tasks = [asyncio.create_task(answer(engine, request, expert.digest)) for _ in range(6)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(result, Overloaded) for result in results)
    await asyncio.wait_for(engine.drop_adapter(expert.digest), 5)


async def test_choices_confine_the_whole_answer(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    choices = ("code", "creative", "codex", "qa")
    seen = set()
    for seed in range(12):
        wishes = {"choices": choices, "temperature": 2.0, "top_k": 0, "seed": seed, "max_tokens": 50}
        answered = await answer(engine, prompt_request("which?", **wishes))
        assert answered.text in choices
        assert answered.whole.finish_reason == "stop"
        seen.add(answered.text)
    assert len(seen) > 1


async def test_choices_hold_even_if_end_tokens_and_stops_say_otherwise(make_engine: Callable[..., Any]) -> None:
    answered = await answer(
        make_engine(), prompt_request("?", choices=("code",), stop=("od",), ignore_eos=True, max_tokens=50)
    )
    assert (answered.text, answered.whole.finish_reason) == ("code", "stop")


async def test_log_probabilities_are_those_of_the_reference(llama: Path, make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    request = prompt_request("the quick", logprobs=True, ignore_eos=True, temperature=1.0, seed=3)
    answered = await answer(engine, request)
    ids = prompt_ids(engine, request)
    logits = oracles.reference_logits(llama, [*ids, *answered.ids])[len(ids) - 1 : -1]
    expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(answered.ids)[:, None])[:, 0]
    assert [token.logprob for token in answered.whole.logprobs] == pytest.approx(expected.tolist(), abs=1e-3)
    assert len(answered.whole.logprobs) == len(answered.ids)


async def test_a_bias_beyond_the_vocabulary_is_refused(make_engine: Callable[..., Any]) -> None:
    with pytest.raises(InvalidField, match="token 99999 is not in the vocabulary"):
        await answer(make_engine(), prompt_request("x", logit_bias=((99999, 1.0),)))


def chat(*texts: str, **wishes: Any) -> GenerateRequest:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], text) for i, text in enumerate(texts))
    return GenerateRequest("r", "tiny", messages=messages, sampling=SamplingParams(temperature=0, **wishes))


def shown(engine: Any, request: GenerateRequest, text: str) -> str:
    """What a reader would see if the model answered ``text``."""
    ids = engine._tokenizer.encode_plain(text)
    making, seen = engine._maker.make_answer(request, 1, len(ids)), ""
    for token_id in ids:
        if (delta := making.push(token_id)) is not None:
            seen += delta.text
            if delta.finish_reason is not None:
                break
    return seen


async def test_the_prompt_formats_own_stops_apply_to_chats_unless_switched_off(make_engine: Callable[..., Any]) -> None:
    engine = make_engine(options={"prompt_format": PromptFormat.AIROBOROS})
    for stop in ("USER:", "ASSISTANT:", "### Instruction", "### Response"):
        text = f"bye {stop} and so on"
        assert shown(engine, chat("hi"), text) == "bye "
        assert shown(engine, chat("hi", use_default_stops=False), text) == text
        assert shown(engine, prompt_request("hi", max_tokens=200), text) == text
    assert shown(make_engine(), chat("hi"), "bye USER: x") == "bye USER: x"


async def test_loading_the_same_adapter_at_once_reads_it_once(
    package: LMoEPackage, make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    reads = []
    original = engine._adapters._read
    monkeypatch.setattr(engine._adapters, "_read", lambda expert: (reads.append(expert), original(expert))[1])
    await asyncio.gather(*(engine.load_adapter(package.experts[0]) for _ in range(5)))
    await engine.load_adapter(package.experts[0])
    assert len(reads) == 1
    assert engine.loaded_adapters == {package.experts[0].digest}


async def test_an_adapter_that_was_never_loaded_is_not_ready(make_engine: Callable[..., Any]) -> None:
    with pytest.raises(NotReady, match="adapter 0123"):
        await answer(make_engine(), prompt_request("x"), "0123")


async def test_dropping_an_adapter_waits_for_its_last_user_and_refuses_new_ones(
    package: LMoEPackage, make_engine: Callable[..., Any]
) -> None:
    engine = make_engine()
    expert = package.experts[0]
    await engine.load_adapter(expert)
    request = prompt_request("x", max_tokens=LONG, ignore_eos=True)
    running = asyncio.create_task(answer(engine, request, expert.digest))
    await until(lambda: engine.stats().num_running == 1)
    drops = [asyncio.create_task(engine.drop_adapter(expert.digest)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(NotReady):
        await answer(engine, request, expert.digest)
    with pytest.raises(NotReady, match="being dropped"):
        await engine.load_adapter(expert)
    assert not any(drop.done() for drop in drops)
    assert len((await running).ids) == LONG
    await asyncio.wait_for(asyncio.gather(*drops), 5)
    assert engine.stats().adapters_on_device == ()
    assert engine.loaded_adapters == frozenset()
    await engine.load_adapter(expert)
    assert len((await answer(engine, prompt_request("x", ignore_eos=True), expert.digest)).ids) == 16


async def test_dropping_a_stranger_does_nothing(make_engine: Callable[..., Any]) -> None:
    await asyncio.wait_for(make_engine().drop_adapter("0123"), 5)


async def test_two_engines_live_in_one_process(
    llama: Path, model_folder: Callable[[str], Path], make_engine: Callable[..., Any]
) -> None:
    qwen = model_folder("qwen2")
    first, second = make_engine(), make_engine(qwen)
    jobs = [(prompt, None) for prompt in PROMPTS]
    await asyncio.gather(assert_all_as_alone(first, llama, jobs), assert_all_as_alone(second, qwen, jobs))


async def test_stats_count_tokens_and_steps(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    request = prompt_request("0123456789", max_tokens=5, ignore_eos=True)
    await answer(engine, request)
    await until(lambda: engine.stats().num_running == 0)
    stats = engine.stats()
    num_prompt_tokens = len((await engine.tokenize(request)).token_ids)
    assert (stats.prompt_tokens, stats.generated_tokens, stats.num_steps) == (num_prompt_tokens, 5, 5)
    assert (stats.num_rows, stats.num_free_rows, stats.num_waiting) == (8, 8, 0)


async def test_bfloat16_answers_as_well_as_float32(llama: Path, make_engine: Callable[..., Any]) -> None:
    engine = make_engine(dtype="bfloat16")
    request = prompt_request("the quick", ignore_eos=True, max_tokens=1, logprobs=True)
    answered = await answer(engine, request)
    logits = oracles.reference_logits(llama, prompt_ids(engine, request))[-1]
    assert answered.whole.logprobs[0].logprob == pytest.approx(
        torch.log_softmax(logits, -1)[answered.ids[0]].item(), abs=0.3
    )
