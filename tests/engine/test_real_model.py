"""The built-in model with the demo package: what tiny random models cannot show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.package import LMoEPackage, load_package
from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine.async_engine import AsyncEngine
from lmoe_ray.pretrained.model_source import resolve
from lmoe_ray.pretrained.package_source import DEMO_FOLDER
from lmoe_ray.settings import EngineSettings

pytestmark = [pytest.mark.model, pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

NUM_STREAMS = 32
NUM_TOKENS = 12
GREEDY = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS)


@pytest.fixture(scope="module")
def folder(cache_dir: Path) -> Path:
    return resolve("builtin:smollm2-135m-instruct", None, cache_dir)


@pytest.fixture(scope="module")
def package() -> LMoEPackage:
    return load_package(DEMO_FOLDER)


@pytest.fixture
async def engine(folder: Path, package: LMoEPackage) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(folder, EngineSettings(dtype="float32", max_model_len=256), num_threads=2)
    engine.start()
    for expert in package.experts:
        await engine.load_adapter(expert)
    yield engine
    engine.close()


def request(number: int) -> GenerateRequest:
    question = Message("user", f"Tell me something about the number {number}.")
    return GenerateRequest(f"r{number}", "base", (question,), sampling=GREEDY)


async def answer(engine: AsyncEngine, package: LMoEPackage, number: int) -> tuple[int, ...]:
    digest = package.experts[number % len(package.experts)].digest
    return sum([delta.token_ids async for delta in engine.generate(request(number), digest)], ())


async def test_thirty_two_streams_over_six_experts_equal_their_solo_runs(
    engine: AsyncEngine, package: LMoEPackage
) -> None:
    together = await asyncio.gather(*(answer(engine, package, number) for number in range(NUM_STREAMS)))
    alone = [await answer(engine, package, number) for number in range(NUM_STREAMS)]

    assert together == alone


async def test_each_expert_answers_as_peft_does(engine: AsyncEngine, package: LMoEPackage, folder: Path) -> None:
    ours = await asyncio.gather(*(answer(engine, package, number) for number in range(6)))

    assert list(ours) == [by_peft(folder, package, number) for number in range(6)]


def by_peft(folder: Path, package: LMoEPackage, number: int) -> tuple[int, ...]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, package.experts[number].weights.parent).eval()
    turn = [{"role": "user", "content": request(number).messages[0].content}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=NUM_TOKENS, do_sample=False)
    return tuple(output[0, prompt["input_ids"].shape[1] :].tolist())
