"""How often the router is right, how honest its confidence is, and what a decision costs.

Every prompt of a labelled file goes through the whole router chain, one after the other. The same
vectors are then scored by the predecessor's rule and by simple baselines, each in a chain of its own, so that the
difference between the columns is the rule's alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmoe_ray.bench.labelled_prompts import LabelledPrompt, read_prompts
from lmoe_ray.bench.remembering_embedder import RememberingEmbedder
from lmoe_ray.bench.routing_baselines import fit_baselines
from lmoe_ray.bench.routing_columns import OURS, Decisions, Measured, report_of
from lmoe_ray.bench.routing_report import PREDECESSOR, RoutingReport
from lmoe_ray.bench.routing_tables import print_report
from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.package import Expert
from lmoe_ray.errors import TrainingDataError
from lmoe_ray.pretrained.package_source import DEMO_INDEX
from lmoe_ray.routing.expert_index import Progress
from lmoe_ray.routing.index_cache import load_or_build
from lmoe_ray.routing.router import RoutedModel, RouterChain
from lmoe_ray.routing.sample_set import choose_samples
from lmoe_ray.routing.similarity import QueryEmbedder, SimilarityRouter
from lmoe_ray.settings import RouterSettings

__all__ = ["RoutingReport", "print_report", "run"]

FALLBACK_EXPERT = "general"

#: Settings of a router that never abstains.
_NEVER: dict[str, Any] = {"threshold": 0.0, "precision": None, "calibration": None, "min_familiarity": 0.0}


def run(
    experts: tuple[Expert, ...],
    test: Path,
    settings: RouterSettings,
    embedder: QueryEmbedder,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    *,
    fallback_expert: str = FALLBACK_EXPERT,
    routed: Progress | None = None,
) -> RoutingReport:
    """Measure, prompt by prompt; the embedding of the samples is not timed.

    Args:
        experts: with samples, as :func:`~lmoe_ray.bench.labelled_prompts.read_experts` reads them.
        test: a file of ``{"expert", "messages"}`` or ``{"expert", "instruction"}`` rows; ``tools``, ``source`` and
            ``slice`` count. Rows whose expert is null lie outside every domain and count in one figure only.
        settings: of the router; ``kind`` is not looked at.
        embedder: in the settings' words, ``Embedder(folder, max_tokens=..., num_threads=...)``.
        cache_dir: where indexes are kept; ``None`` keeps none.
        progress: called while samples are embedded.
        fallback_expert: an out-of-domain prompt is caught if it is left to the fallback or sent to this expert.
        routed: called with prompts routed and prompts in all; the other columns follow after the last.

    Raises:
        TrainingDataError: a row of either file cannot be read, or there is none that can be measured.
    """
    prompts = read_prompts(test)
    if all(prompt.expert is None for prompt in prompts):
        raise TrainingDataError(str(test), "holds no prompt that has an expert; accuracy needs at least one")
    samples = choose_samples(experts, settings.max_samples, settings.seed)
    if not samples.rows:
        raise TrainingDataError(str(experts[0].weights), "holds empty routing samples only")
    remembering = RememberingEmbedder(embedder)
    chains = _chains(RoutedModel("bench", experts), settings, remembering, cache_dir, progress)
    decisions, encoder_s = asyncio.run(_decide_all(chains, prompts, remembering, routed))
    return report_of(Measured(prompts, decisions, encoder_s, settings.scoring, len(samples.rows), fallback_expert))


def _chains(
    model: RoutedModel,
    settings: RouterSettings,
    embedder: RememberingEmbedder,
    cache_dir: Path | None,
    progress: Progress | None,
) -> dict[str, RouterChain]:
    """The router of the settings, the predecessor's rule and the baselines, by the names of their columns.

    Ours alone abstains: the threshold means nothing on the scale of other rules' probabilities.
    """
    samples = choose_samples(model.experts, settings.max_samples, settings.seed)
    ours = SimilarityRouter(model, embedder, settings, cache_dir, progress, DEMO_INDEX)
    index = load_or_build(samples, embedder, cache_dir, shipped_dir=DEMO_INDEX).index

    def by(scoring: str) -> SimilarityRouter:
        never = settings.model_copy(update={"scoring": scoring, **_NEVER})
        return SimilarityRouter(model, embedder, never, cache_dir, shipped_dir=DEMO_INDEX)

    density = {} if settings.scoring == "density" else {"density": by("density")}
    routers = {OURS: ours, PREDECESSOR: by("airoboros"), **fit_baselines(model, index, embedder), **density}
    return {name: RouterChain(model, router) for name, router in routers.items()}


async def _decide_all(
    chains: Mapping[str, RouterChain],
    prompts: Sequence[LabelledPrompt],
    embedder: RememberingEmbedder,
    routed: Progress | None,
) -> tuple[dict[str, Decisions], list[float]]:
    """Decisions by column, and the seconds that ours waited for the encoder. The first prompt is not timed cold: a
    warm-up of its own goes before."""
    await chains[OURS].route(GenerateRequest("warm-up", "bench", (Message("user", "warm up, please, little router"),)))
    requests = [
        GenerateRequest(f"bench-{i}", "bench", prompt.messages, num_tools=prompt.num_tools)
        for i, prompt in enumerate(prompts)
    ]
    decisions, encoder_s = await _decide_ours(chains[OURS], requests, embedder, routed)
    others = {name: await _decide(chain, requests) for name, chain in chains.items() if name != OURS}
    return {OURS: decisions, **others}, encoder_s


async def _decide_ours(
    chain: RouterChain, requests: Sequence[GenerateRequest], embedder: RememberingEmbedder, routed: Progress | None
) -> tuple[Decisions, list[float]]:
    decisions, encoder_s = [], []
    for request in requests:
        before_s = embedder.waited_s
        decisions.append(await chain.route(request))
        encoder_s.append(embedder.waited_s - before_s)
        if routed is not None:
            routed(len(decisions), len(requests))
    return decisions, encoder_s


async def _decide(chain: RouterChain, requests: Sequence[GenerateRequest]) -> Decisions:
    return [await chain.route(request) for request in requests]
