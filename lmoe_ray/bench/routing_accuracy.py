"""How often the router is right, how honest its confidence is, and what a decision costs.

Every prompt of a labelled file goes through the whole router chain, one after the other. The same
vectors are then scored by the predecessor's rule, so that the difference between the columns is the rule's alone.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lmoe_ray.bench.labelled_prompts import LabelledPrompt, read_prompts
from lmoe_ray.bench.routing_quality import BASE, Quality, quality_of
from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.package import Expert
from lmoe_ray.routing.expert_index import Progress, Vectors
from lmoe_ray.routing.router import RoutedModel, RouterChain
from lmoe_ray.routing.sample_set import choose_samples
from lmoe_ray.routing.similarity import QueryEmbedder, SimilarityRouter
from lmoe_ray.settings import RouterSettings


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """``confusion[label][answer]`` counts prompts; ``baseline`` is the predecessor's rule on the same vectors."""

    scoring: str
    num_samples: int
    num_prompts: int
    quality: Quality
    baseline: Quality
    p50_ms: float
    p95_ms: float
    confusion: dict[str, dict[str, int]]

    def as_dict(self) -> dict[str, Any]:
        """Flat, for one line of JSON; the baseline's keys begin with ``baseline_``."""
        return {
            "scoring": self.scoring,
            "num_samples": self.num_samples,
            "n": self.num_prompts,
            **dataclasses.asdict(self.quality),
            **{f"baseline_{key}": value for key, value in dataclasses.asdict(self.baseline).items()},
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
            "confusion": self.confusion,
        }


def run(
    experts: tuple[Expert, ...],
    test: Path,
    settings: RouterSettings,
    embedder: QueryEmbedder,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> RoutingReport:
    """Measure, prompt by prompt; the embedding of the samples is not timed.

    Args:
        experts: with samples, as :func:`~lmoe_ray.bench.labelled_prompts.read_experts` reads them.
        test: a file of ``{"expert", "messages"}`` or ``{"expert", "instruction"}`` rows; ``tools`` count.
        settings: of the router; ``kind`` is not looked at.
        embedder: in the settings' words, ``Embedder(folder, max_tokens=..., num_threads=...)``.
        cache_dir: where indexes are kept; ``None`` keeps none.
        progress: called while samples are embedded.

    Raises:
        TrainingDataError: a row of either file cannot be read, or there is none.
    """
    prompts = read_prompts(test)
    chains = _chains(RoutedModel("bench", experts), settings, embedder, cache_dir, progress)
    decisions, baseline_decisions = asyncio.run(_decide_all(chains, prompts))
    labels = [prompt.expert for prompt in prompts]
    durations_ms = [1000 * decision.duration_s for decision in decisions]
    return RoutingReport(
        scoring=settings.scoring,
        num_samples=len(choose_samples(experts, settings.max_samples, settings.seed).rows),
        num_prompts=len(prompts),
        quality=quality_of(labels, decisions),
        baseline=quality_of(labels, baseline_decisions),
        p50_ms=float(np.percentile(durations_ms, 50)),
        p95_ms=float(np.percentile(durations_ms, 95)),
        confusion=_confusion(labels, decisions),
    )


def print_report(report: RoutingReport, console: Console | None = None) -> None:
    """Two tables for people: the figures, and who was taken for whom."""
    console = console or Console()
    figures = Table(title=f"routing of {report.num_prompts} prompts by {report.num_samples} samples")
    for heading in ("", report.scoring, "airoboros"):
        figures.add_column(heading, justify="right" if heading else "left")
    baseline = dataclasses.asdict(report.baseline)
    for key, value in dataclasses.asdict(report.quality).items():
        figures.add_row(key, f"{value:.3f}", f"{baseline[key]:.3f}")
    figures.add_row("p50 / p95 ms", f"{report.p50_ms:.1f} / {report.p95_ms:.1f}", "")
    console.print(figures)
    answers = sorted({answer for row in report.confusion.values() for answer in row})
    confusion = Table("label \\ answer", *answers)
    for label, row in report.confusion.items():
        confusion.add_row(label, *(str(row.get(answer, 0)) for answer in answers))
    console.print(confusion)


def _chains(
    model: RoutedModel,
    settings: RouterSettings,
    embedder: QueryEmbedder,
    cache_dir: Path | None,
    progress: Progress | None,
) -> tuple[RouterChain, RouterChain]:
    """The router of the settings, and the same with the predecessor's rule."""
    memory = _Remembering(embedder)
    router = SimilarityRouter(model, memory, settings, cache_dir, progress)
    baseline = SimilarityRouter(model, memory, settings.model_copy(update={"scoring": "airoboros"}), cache_dir)
    return RouterChain(model, router), RouterChain(model, baseline)


class _Remembering:
    """Embeds every text once, so that the second rule costs no second pass through the model."""

    def __init__(self, embedder: QueryEmbedder) -> None:
        self.identity, self.max_tokens = embedder.identity, embedder.max_tokens
        self._embedder = embedder
        self._queries: dict[str, Vectors] = {}
        self._samples: dict[tuple[str, ...], Vectors] = {}

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        if tuple(texts) not in self._samples:
            self._samples[tuple(texts)] = self._embedder.embed(texts, progress)
        return self._samples[tuple(texts)]

    async def embed_one(self, text: str) -> Vectors:
        if text not in self._queries:
            self._queries[text] = await self._embedder.embed_one(text)
        return self._queries[text]


async def _decide_all(chains: Sequence[RouterChain], prompts: Sequence[LabelledPrompt]) -> list[list[RoutingDecision]]:
    """One list of decisions per chain. The first prompt is not timed cold: a warm-up of its own goes before."""
    await chains[0].route(GenerateRequest("warm-up", "bench", (Message("user", "warm up, please, little router"),)))
    requests = [
        GenerateRequest(f"bench-{i}", "bench", prompt.messages, num_tools=prompt.num_tools)
        for i, prompt in enumerate(prompts)
    ]
    return [[await chain.route(request) for request in requests] for chain in chains]


def _confusion(labels: Sequence[str], decisions: Sequence[RoutingDecision]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {label: defaultdict(int) for label in sorted(set(labels))}
    for label, decision in zip(labels, decisions, strict=True):
        counts[label][decision.expert or BASE] += 1
    return {label: dict(sorted(row.items())) for label, row in counts.items()}
