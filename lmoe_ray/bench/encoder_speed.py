"""What a text's vector costs: sentence-transformers as it comes, our own arithmetic, and the static table.

All encode the same texts in turn, round by round, so that what disturbs the machine disturbs all of them. Texts
are random words of an exact number of tokens; ``list`` is 64 of mixed lengths in one call, with
sentence-transformers' own batches of 32.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lmoe_ray.bench.engine_report import cpu_name
from lmoe_ray.routing.embedder import TextEncoder, choose_encoder
from lmoe_ray.routing.reference_encoder import ReferenceEncoder
from lmoe_ray.routing.static_embedder import StaticEmbedder
from lmoe_ray.routing.text_tokens import TextTokens

LENGTHS = (24, 100, 256)
LIST_LENGTHS = (16, 24, 48, 100)
LIST_SIZE = 64
MAX_TOKENS = 256
WARM_UP_ROUNDS = 2

REFERENCE, OURS, STATIC = "sentence-transformers", "lmoe", "static"


@dataclass(frozen=True, slots=True)
class EncoderCost:
    """One encoder on texts of one length; times per text.

    Attributes:
        least_cosine: between its vectors and those of sentence-transformers; none of the static table, whose
            vectors live in a space of their own.
    """

    encoder: str
    tokens: str
    p50_ms: float
    p95_ms: float
    least_cosine: float | None

    def as_dict(self) -> dict[str, Any]:
        """Flat, for one line of JSON."""
        machine = {"device": cpu_name(), "num_cpus": os.cpu_count()}
        return {"name": "encoder", **dataclasses.asdict(self), **machine}


def run(folder: Path, cache_dir: Path, rounds: int, warn: Callable[[str], None], threads: int = 1) -> list[EncoderCost]:
    """Measure.

    Args:
        folder: a BERT sentence encoder.
        cache_dir: of compiled libraries and the static table, which is made first if it is not there.
        rounds: texts of each length.
        warn: told what is left out.
        threads: of the processor.

    Raises:
        ModelSourceError: the folder holds no usable model.
    """
    static = StaticEmbedder(folder, num_threads=threads, cache_dir=cache_dir)
    encoders: dict[str, TextEncoder] = {
        REFERENCE: ReferenceEncoder(folder, MAX_TOKENS, batch_size=32),
        OURS: choose_encoder(folder, MAX_TOKENS, "cpu", cache_dir),
        STATIC: static,
    }
    if isinstance(encoders[OURS], ReferenceEncoder):
        warn("this model is not computed by our own arithmetic: both rows show sentence-transformers")
    words = single_token_words(folder)
    generator = np.random.default_rng(0)
    workloads = {str(n): [[text_of(words, n, generator)] for _ in range(rounds)] for n in LENGTHS}
    lists = (rounds + 9) // 10
    workloads["list"] = [mixed_list(words, generator) for _ in range(lists)]
    return [cost for tokens, batches in workloads.items() for cost in _compare(encoders, tokens, batches)]


def print_table(costs: Sequence[EncoderCost], console: Console) -> None:
    """A row per encoder and length."""
    table = Table("tokens", "encoder", title="one text at a time; list: per text", title_justify="left")
    for heading in ("p50 ms", "p95 ms", "times faster", "least cosine"):
        table.add_column(heading, justify="right")
    plain = {cost.tokens: cost.p50_ms for cost in costs if cost.encoder == REFERENCE}
    for cost in costs:
        cosine = "" if cost.least_cosine is None else f"{cost.least_cosine:.5f}"
        ratio = f"{plain[cost.tokens] / cost.p50_ms:.2f}"
        table.add_row(cost.tokens, cost.encoder, f"{cost.p50_ms:.2f}", f"{cost.p95_ms:.2f}", ratio, cosine)
    console.print(table)


def single_token_words(folder: Path) -> list[str]:
    """Words that the tokenizer keeps whole, most frequent first."""
    vocabulary = TextTokens(folder, MAX_TOKENS, num_ids=2**31).vocabulary
    words = [token for token in sorted(vocabulary, key=vocabulary.__getitem__) if token.isascii() and token.isalpha()]
    return [word for word in words if len(word) > 1][:5000]


def text_of(words: Sequence[str], num_tokens: int, generator: np.random.Generator) -> str:
    """A text of so many tokens, the model's two marks included."""
    return " ".join(generator.choice(words, num_tokens - 2))


def mixed_list(words: Sequence[str], generator: np.random.Generator) -> list[str]:
    """Texts of all lengths in turn."""
    return [text_of(words, LIST_LENGTHS[i % len(LIST_LENGTHS)], generator) for i in range(LIST_SIZE)]


def _compare(encoders: Mapping[str, TextEncoder], tokens: str, batches: Sequence[Sequence[str]]) -> list[EncoderCost]:
    vectors: dict[str, list[NDArray[np.float32]]] = {name: [] for name in encoders}
    durations_ms: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(WARM_UP_ROUNDS):
        for encoder in encoders.values():
            encoder.encode(batches[0])
    for batch in batches:
        for name, encoder in encoders.items():
            began_s = time.perf_counter()
            vectors[name].append(encoder.encode(batch))
            durations_ms[name].append(1000 * (time.perf_counter() - began_s) / len(batch))
    return [_cost(name, tokens, durations_ms[name], vectors[name], vectors[REFERENCE]) for name in encoders]


def _cost(
    encoder: str,
    tokens: str,
    durations_ms: Sequence[float],
    vectors: Sequence[NDArray[np.float32]],
    expected: Sequence[NDArray[np.float32]],
) -> EncoderCost:
    p50_ms, p95_ms = np.percentile(durations_ms, [50, 95]).tolist()
    least = None
    if encoder != STATIC:
        least = float((np.concatenate(vectors) * np.concatenate(expected)).sum(axis=1).min())
    return EncoderCost(encoder, tokens, p50_ms, p95_ms, least)
