"""The Router deployment: one router chain per base model, over one embedder they share."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import aclosing
from uuid import uuid4

from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.pretrained.model_source import resolve
from lmoe_ray.pretrained.package_source import DEMO_INDEX, load_package_from
from lmoe_ray.routing.agent import AgentRouter, Ask
from lmoe_ray.routing.choose_embedder import choose_embedder
from lmoe_ray.routing.router import TOOLS_EXPERT, RoutedModel, RouterChain
from lmoe_ray.routing.router import Router as ConfiguredRouter
from lmoe_ray.routing.similarity import SimilarityRouter
from lmoe_ray.serving.graph_backend import Handle, PoolMap, stream_from
from lmoe_ray.serving.serve_log import join_serve_log
from lmoe_ray.settings import Settings

logger = logging.getLogger(__name__)


class RouterReplica:
    """Unary: one request in, one decision out. Tokens never pass through here."""

    def __init__(self, settings: Settings, pool_maps: dict[str, PoolMap], pools: dict[str, Handle]) -> None:
        join_serve_log()
        models = routed_models(settings)
        configured = _configured_routers(settings, models, pool_maps, pools)
        self._chains = {model.name: RouterChain(model, configured.get(model.name)) for model in models}

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        decision = await self._chains[request.model].route(request)
        logger.info(
            "routed request_id=%s model=%s expert=%s routed_by=%s confidence=%.3f duration_ms=%.1f",
            request.request_id,
            decision.model,
            decision.expert,
            decision.routed_by,
            decision.confidence,
            decision.duration_s * 1000,
        )
        return decision

    async def ping(self) -> None:
        """Answers once the indexes stand, because Serve calls nothing before ``__init__`` returns."""


def routed_models(settings: Settings) -> tuple[RoutedModel, ...]:
    """What the router knows of each base model; the packages are read on this node."""
    models = []
    for model in settings.models:
        package = load_package_from(model)
        experts = package.experts if package else ()
        models.append(RoutedModel(model.name, experts, package.manifest.fallback if package else ""))
    return tuple(models)


def _configured_routers(
    settings: Settings,
    models: tuple[RoutedModel, ...],
    pool_maps: Mapping[str, PoolMap],
    pools: Mapping[str, Handle],
) -> dict[str, ConfiguredRouter]:
    """The router of the settings, for each model."""
    if settings.router.kind == "agent":
        return {
            model.name: AgentRouter(model, ask_through(model, pool_maps[model.name], pools), settings.router.threshold)
            for model in models
        }
    return _similarity_routers(settings, models)


def _similarity_routers(settings: Settings, models: tuple[RoutedModel, ...]) -> dict[str, ConfiguredRouter]:
    router = settings.router
    folder = resolve(router.embedder, router.embedder_revision, settings.cache_path)
    embedder = choose_embedder(folder, router, [model.experts for model in models], settings.cache_path)
    return {
        model.name: SimilarityRouter(model, embedder, router, settings.cache_path, shipped_dir=DEMO_INDEX)
        for model in models
    }


def ask_through(model: RoutedModel, pool_map: PoolMap, pools: Mapping[str, Handle]) -> Ask:
    """Ask this model's ``function`` expert, or its base, for one of the allowed names and nothing else.

    The answer is decoded under the constraint that it is one of the names, greedily, so no text in the
    question can make it another; its probability is the product of its tokens'.
    """
    expert = TOOLS_EXPERT if TOOLS_EXPERT in model.expert_names else None
    pool = pool_map.pool_of(expert)

    async def ask(messages: tuple[Message, ...], names: tuple[str, ...]) -> tuple[str, float]:
        sampling = SamplingParams(temperature=0.0, choices=names, use_default_stops=False, logprobs=True)
        request = GenerateRequest(f"ask-{uuid4().hex}", model.name, messages, sampling=sampling)
        text, logprob = "", 0.0
        async with aclosing(stream_from(pools[pool], f"pool {pool}", request, expert)) as deltas:
            async for delta in deltas:
                text += delta.text
                logprob += sum(token.logprob for token in delta.logprobs)
        return text, math.exp(logprob)

    return ask
