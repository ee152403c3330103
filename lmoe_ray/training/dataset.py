"""Rows → token ids with the prompt masked → batches of like length.

A prompt and its answer are encoded apart and joined as ids, because serving, too, encodes the prompt
alone and appends what the model says. Every answer ends with the end-of-sequence token, unless it was
cut. A row with several turns gives one example per turn: each then looks as it will be served.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmoe_ray.domain.prompt import PromptFormat, render, render_airoboros
from lmoe_ray.errors import TrainingDataError
from lmoe_ray.training.instruct_rows import InstructRow, Turn, turns_of


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one prompt and its answer; only ids from ``num_prompt`` on carry loss."""

    ids: tuple[int, ...]
    num_prompt: int

    @property
    def num_targets(self) -> int:
        return len(self.ids) - self.num_prompt


@dataclass(frozen=True, slots=True)
class Dataset:
    """Encoded examples, and what encoding had to leave out.

    Attributes:
        num_cut: answers cut at ``max_tokens``; they teach no end of sequence.
        num_dropped: turns whose prompt alone fills ``max_tokens``.
    """

    examples: tuple[Example, ...]
    num_cut: int
    num_dropped: int

    @property
    def num_tokens(self) -> int:
        return sum(len(example.ids) for example in self.examples)

    @property
    def num_targets(self) -> int:
        return sum(example.num_targets for example in self.examples)


def encode_rows(rows: Sequence[InstructRow], tokenizer: Any, prompt_format: PromptFormat, max_tokens: int) -> Dataset:
    """Encode every turn of every row.

    Args:
        rows: see :mod:`lmoe_ray.training.instruct_rows`.
        tokenizer: a transformers tokenizer with an end-of-sequence token, and for ``chat`` a template.
        prompt_format: how prompts are laid out; must be the one of the package the adapter goes into.
        max_tokens: longest prompt plus answer.

    Raises:
        TrainingDataError: if the tokenizer lacks the token or template, or nothing is left to learn.
    """
    if tokenizer.eos_token_id is None:
        raise TrainingDataError("tokenizer", "has no end-of-sequence token; set eos_token in tokenizer_config.json")
    if prompt_format is PromptFormat.CHAT and not tokenizer.chat_template:
        raise TrainingDataError("tokenizer", "has no chat template; use prompt format 'airoboros' or add one")
    encoded = [_encode(turn, tokenizer, prompt_format) for row in rows for turn in turns_of(row)]
    kept = [example for example in encoded if example.num_prompt < max_tokens]
    if not kept:
        raise TrainingDataError(
            "data", f"none of {len(encoded)} prompts is shorter than max_tokens={max_tokens}; raise it or add rows"
        )
    return Dataset(
        examples=tuple(Example(example.ids[:max_tokens], example.num_prompt) for example in kept),
        num_cut=sum(len(example.ids) > max_tokens for example in kept),
        num_dropped=len(encoded) - len(kept),
    )


def _encode(turn: Turn, tokenizer: Any, prompt_format: PromptFormat) -> Example:
    prompt = _encode_prompt(turn, tokenizer, prompt_format)
    answer = tokenizer.encode(turn.response, add_special_tokens=False, split_special_tokens=True)
    return Example((*prompt, *answer, tokenizer.eos_token_id), len(prompt))


def _encode_prompt(turn: Turn, tokenizer: Any, prompt_format: PromptFormat) -> list[int]:
    """As the engine encodes requests: control tokens spelled in a row's text stay plain characters."""
    if prompt_format is PromptFormat.AIROBOROS:
        return list(tokenizer.encode(render_airoboros(turn.messages), split_special_tokens=True))
    encoded: list[int] = []

    def apply_template(messages: list[dict[str, str]]) -> str:
        encoded.extend(
            tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False
            )
        )
        return ""

    render(turn.messages, prompt_format, apply_template)
    return encoded


def make_batches(examples: Sequence[Example], batch_tokens: int, seed: int) -> list[list[Example]]:
    """Batches of at most ``batch_tokens`` cells (rows × longest row), in seeded random order.

    Examples of like length share a batch, so little is padding; which of them meet, and the order
    of batches, differ from seed to seed. An example longer than ``batch_tokens`` is a batch alone.
    """
    rng = random.Random(seed)
    order = sorted(examples, key=lambda example: len(example.ids) * rng.uniform(0.95, 1.05))
    batches: list[list[Example]] = []
    longest = 0
    for example in order:
        longest = max(longest, len(example.ids))
        if not batches or longest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            longest = len(example.ids)
        batches[-1].append(example)
    rng.shuffle(batches)
    return batches


def make_epochs(
    examples: Sequence[Example], batch_tokens: int, seed: int, num_epochs: int, max_tokens_seen: int
) -> list[list[Example]]:
    """The batches of all epochs, each in its own order; ends once ``max_tokens_seen`` is reached, if that is not 0."""
    batches: list[list[Example]] = []
    num_tokens = 0
    for epoch in range(num_epochs):
        for batch in make_batches(examples, batch_tokens, seed + epoch):
            if max_tokens_seen and num_tokens >= max_tokens_seen:
                return batches
            batches.append(batch)
            num_tokens += sum(len(example.ids) for example in batch)
    return batches
