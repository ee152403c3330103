"""What asking a language model who shall answer gains and costs, beside the index, on the same prompts.

A question takes as long as many looks into the index, so only a choice of the test's prompts is asked about. Index
and model decide once about each; the hybrid's decisions are put together from theirs, by its own rule and with
the time of each that it wanted, because a model that reads a question again finds it in its cache.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Protocol

import numpy as np

from lmoe_ray.bench.agent_report import AgentReport, RouterFigures
from lmoe_ray.bench.labelled_prompts import LabelledPrompt, read_prompts
from lmoe_ray.bench.routing_intervals import draw_resamples, intervals_of, resampled_figures
from lmoe_ray.bench.routing_quality import outcomes_of, quality
from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.errors import TrainingDataError
from lmoe_ray.routing.agent import AgentRouter
from lmoe_ray.routing.expert_index import Progress
from lmoe_ray.routing.hybrid import HybridRouter
from lmoe_ray.routing.router import RoutedModel, Router, RouterChain
from lmoe_ray.settings import RouterSettings

_WARM_UP = GenerateRequest("warm-up", "bench", (Message("user", "warm up, please, little router"),))

#: By the request's id, in the order of the requests.
Decisions = Mapping[str, RoutingDecision]


class CountedAsk(Protocol):
    """An :data:`~lmoe_ray.routing.agent.Ask` that can be told from others.

    Attributes:
        name: who is asked, for people.
        num_prompt_tokens: of each question so far.
    """

    name: str
    num_prompt_tokens: list[int]

    async def __call__(self, messages: tuple[Message, ...], names: tuple[str, ...]) -> tuple[str, float]: ...


def run(
    prompts: Sequence[LabelledPrompt],
    model: RoutedModel,
    ask: CountedAsk,
    similarity: Router,
    settings: RouterSettings,
    progress: Progress | None = None,
) -> AgentReport:
    """Measure, prompt by prompt.

    Args:
        prompts: that have an expert, see :func:`choose_prompts`.
        model: whose experts can be answered. The agent never abstains by its own confidence.
        ask: the language model. One question more goes first, uncounted: it brings the list of experts into the cache.
        similarity: the index. It must not remember texts, for its time counts.
        settings: of the index; the hybrid asks below the same threshold.
        progress: called with prompts asked about and prompts in all.
    """
    return asyncio.run(_measure(prompts, model, ask, similarity, settings, progress))


def choose_prompts(test: Path, num_prompts: int, seed: int) -> tuple[LabelledPrompt, ...]:
    """Of every expert the same share of its prompts, drawn by ``seed``; a smaller choice begins a larger one.

    Prompts without an expert are left out; all others come if they are fewer than ``num_prompts``.

    Raises:
        TrainingDataError: the file cannot be read, or no prompt in it has an expert.
    """
    by_expert: dict[str, list[LabelledPrompt]] = defaultdict(list)
    for prompt in read_prompts(test):
        if prompt.expert is not None:
            by_expert[prompt.expert].append(prompt)
    if not by_expert:
        raise TrainingDataError(str(test), "holds no prompt that has an expert; accuracy needs at least one")
    placed = list[tuple[float, str, LabelledPrompt]]()
    for expert, prompts in by_expert.items():
        random.Random(f"{seed} {expert}").shuffle(prompts)
        placed += [((i + 0.5) / len(prompts), expert, prompt) for i, prompt in enumerate(prompts)]
    placed.sort(key=lambda item: item[:2])
    return tuple(prompt for _, _, prompt in placed[:num_prompts])


async def _measure(
    prompts: Sequence[LabelledPrompt],
    model: RoutedModel,
    ask: CountedAsk,
    similarity: Router,
    settings: RouterSettings,
    progress: Progress | None,
) -> AgentReport:
    requests = [
        GenerateRequest(f"bench-{i}", "bench", prompt.messages, num_tools=prompt.num_tools)
        for i, prompt in enumerate(prompts)
    ]
    labels = [str(prompt.expert) for prompt in prompts]
    agent = AgentRouter(model, ask)
    for router in (similarity, agent):
        await router.route(_WARM_UP)
    by_index = await _decide(RouterChain(model, similarity), requests)
    num_before = len(ask.num_prompt_tokens)
    by_model = await _decide(RouterChain(model, agent), requests, progress)
    num_tokens = ask.num_prompt_tokens[num_before:]
    has_threshold = any((settings.threshold, settings.precision, settings.calibration))
    return AgentReport(
        asked=ask.name,
        similarity=_figures(labels, by_index, 0),
        agent=_figures(labels, by_model, len(num_tokens)),
        hybrid=await _hybrid(labels, requests, model, by_index, by_model, settings) if has_threshold else None,
        prompt_tokens=median(num_tokens) if num_tokens else None,
    )


async def _hybrid(
    labels: Sequence[str],
    requests: Sequence[GenerateRequest],
    model: RoutedModel,
    by_index: Decisions,
    by_model: Decisions,
    settings: RouterSettings,
) -> RouterFigures:
    first, second = _Replay(by_index), _Replay(by_model)
    chain = RouterChain(model, HybridRouter(first, second, settings.min_familiarity))
    decisions = await _decide(chain, requests)
    whole = {
        key: replace(decision, duration_s=decision.duration_s + first.spent_s(key) + second.spent_s(key))
        for key, decision in decisions.items()
    }
    return _figures(labels, whole, len(second.wanted))


async def _decide(
    chain: RouterChain, requests: Collection[GenerateRequest], progress: Progress | None = None
) -> Decisions:
    decisions: dict[str, RoutingDecision] = {}
    for request in requests:
        decisions[request.request_id] = await chain.route(request)
        if progress is not None:
            progress(len(decisions), len(requests))
    return decisions


class _Replay:
    """A router that has decided already. ``wanted`` are the requests whose decision was asked for."""

    def __init__(self, decisions: Decisions) -> None:
        self.wanted: set[str] = set()
        self._decisions = decisions

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        self.wanted.add(request.request_id)
        return self._decisions[request.request_id]

    async def update(self, model: RoutedModel) -> None:
        raise AssertionError("its decisions are made. This is a bug.")

    def spent_s(self, request_id: str) -> float:
        """What the decision took if it was wanted, else nothing."""
        return self._decisions[request_id].duration_s if request_id in self.wanted else 0.0


def _figures(labels: Sequence[str], decisions: Decisions, num_asked: int) -> RouterFigures:
    outcomes = outcomes_of(labels, list(decisions.values()))
    resamples = draw_resamples([""] * len(labels))
    durations_ms = [1000 * decision.duration_s for decision in decisions.values()]
    return RouterFigures(
        num_prompts=len(labels),
        quality=quality(outcomes),
        accuracy=intervals_of(resampled_figures(outcomes, resamples))["accuracy"],
        asked_share=num_asked / len(labels),
        p50_ms=float(np.percentile(durations_ms, 50)),
        p95_ms=float(np.percentile(durations_ms, 95)),
    )
