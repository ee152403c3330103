"""The Router deployment: one router chain per base model, over one embedder they share."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from uuid import uuid4

from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.embedding import Embeddings, EmbedRequest
from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.pretrained.model_source import resolve
from lmoe_ray.pretrained.package_source import DEMO, DEMO_INDEX, load_package_from, package_folder
from lmoe_ray.routing.agent import AgentRouter, Ask
from lmoe_ray.routing.choose_embedder import choose_embedder
from lmoe_ray.routing.embed_texts import LazyEmbedder, embed_texts, embedder_name
from lmoe_ray.routing.embedder import Embedder
from lmoe_ray.routing.hybrid import HybridRouter
from lmoe_ray.routing.router import TOOLS_EXPERT, RoutedModel, RouterChain
from lmoe_ray.routing.router import Router as ConfiguredRouter
from lmoe_ray.routing.similarity import SimilarityRouter
from lmoe_ray.routing.static_embedder import StaticEmbedder
from lmoe_ray.serving.graph_backend import Handle, PoolMap, stream_from
from lmoe_ray.serving.package_watch import PackageWatch
from lmoe_ray.serving.serve_log import join_serve_log
from lmoe_ray.settings import ModelSettings, RouterSettings, Settings

logger = logging.getLogger(__name__)


class RouterReplica:
    """Unary: one request in, one decision out. Tokens never pass through here."""

    def __init__(self, settings: Settings, pool_maps: dict[str, PoolMap], pools: dict[str, Handle]) -> None:
        join_serve_log()
        models = routed_models(settings)
        self._embedder = LazyEmbedder(lambda: _embedder(settings, models))
        self._embedder_name = embedder_name(settings.router)
        self._chains = {
            model.name: RouterChain(
                model,
                _configured_router(
                    settings.router,
                    model,
                    ask_through(model, pool_maps[model.name], pools),
                    partial(self._similarity, settings, model),
                ),
            )
            for model in models
        }
        self._watches = [
            PackageWatch(package_folder(model.package), settings.router.watch_s, partial(self._reload, model, pool_map))
            for model in settings.models
            if model.package and model.package != DEMO and settings.router.watch_s
            for pool_map in [pool_maps[model.name]]
        ]

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

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Vectors of texts. An agent routes without an embedder, so the first call makes one, which takes seconds."""
        return await embed_texts(request, await asyncio.to_thread(self._embedder.get), self._embedder_name)

    def _similarity(self, settings: Settings, model: RoutedModel) -> SimilarityRouter:
        return SimilarityRouter(
            model, self._embedder.get(), settings.router, settings.cache_path, shipped_dir=DEMO_INDEX
        )

    def _reload(self, settings: ModelSettings, pool_map: PoolMap) -> None:
        """Go by the package as it is now, among the experts that a pool serves."""
        model = _routed_model(settings)
        served = tuple(expert for expert in model.experts if expert.name in pool_map.experts)
        if strangers := sorted(set(model.expert_names) - pool_map.experts.keys()):
            logger.warning("new experts wait for a restart model=%s experts=%s", model.name, ",".join(strangers))
        asyncio.run(self._chains[model.name].update(dataclasses.replace(model, experts=served)))
        logger.info("package changed and is in use model=%s experts=%d", model.name, len(served))

    async def ping(self) -> None:
        """Answers once the indexes stand, because Serve calls nothing before ``__init__`` returns."""


def routed_models(settings: Settings) -> tuple[RoutedModel, ...]:
    """What the router knows of each base model; the packages are read on this node."""
    return tuple(map(_routed_model, settings.models))


def _routed_model(settings: ModelSettings) -> RoutedModel:
    package = load_package_from(settings)
    experts = package.experts if package else ()
    return RoutedModel(settings.name, experts, package.manifest.fallback if package else "")


def _configured_router(
    settings: RouterSettings, model: RoutedModel, ask: Ask, similarity: Callable[[], SimilarityRouter]
) -> ConfiguredRouter:
    """The router of the settings, for one model; ``similarity`` makes the one that goes by samples."""
    if settings.kind == "agent":
        return AgentRouter(model, ask, settings.threshold)
    if settings.kind == "hybrid":
        return HybridRouter(similarity(), AgentRouter(model, ask), settings.min_familiarity)
    return similarity()


def _embedder(settings: Settings, models: tuple[RoutedModel, ...]) -> Embedder | StaticEmbedder:
    router = settings.router
    folder = resolve(router.embedder, router.embedder_revision, settings.cache_path)
    return choose_embedder(folder, router, [model.experts for model in models], settings.cache_path)


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
