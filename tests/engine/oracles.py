"""What the engine is compared with: transformers and PEFT, one request at a time; and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.package import Expert
from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.engine.async_engine import AsyncEngine


@cache
def reference_model(folder: Path, adapter: Path | None = None) -> Any:
    """transformers' model in float32, with PEFT's adapter on it if there is one."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model if adapter is None else PeftModel.from_pretrained(model, adapter)


def reference_logits(folder: Path, ids: Sequence[int], adapter: Path | None = None) -> torch.Tensor:
    """``[len(ids), vocab_size]``."""
    with torch.inference_mode():
        logits: torch.Tensor = reference_model(folder, adapter)(torch.tensor([list(ids)])).logits[0]
    return logits


def reference_greedy(folder: Path, ids: Sequence[int], num_tokens: int, adapter: Path | None = None) -> list[int]:
    """Greedy tokens of ``generate``; end tokens do not end it."""
    prompt = torch.tensor([list(ids)])
    output = reference_model(folder, adapter).generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    tokens: list[int] = output[0, len(ids) :].tolist()
    return tokens


def expert_folder(expert: Expert | None) -> Path | None:
    return None if expert is None else expert.weights.parent


@dataclass
class Answered:
    """A whole answer: its last state, and all deltas it came in."""

    whole: TokenDelta
    deltas: list[TokenDelta]

    @property
    def ids(self) -> list[int]:
        return list(self.whole.token_ids)

    @property
    def text(self) -> str:
        return self.whole.text


def prompt_request(prompt: str, request_id: str = "r", **wishes: Any) -> GenerateRequest:
    """A bare prompt, greedy unless told otherwise."""
    sampling = SamplingParams(**{"temperature": 0.0, "max_tokens": 16, **wishes})
    return GenerateRequest(request_id, "tiny", prompt=prompt, sampling=sampling)


async def answer(engine: AsyncEngine, request: GenerateRequest, digest: str | None = None) -> Answered:
    """Read a stream to its end."""
    deltas = [delta async for delta in engine.generate(request, digest)]
    whole = deltas[0]
    for delta in deltas[1:]:
        whole = whole + delta
    return Answered(whole, deltas)
