"""An Expert deployment's replica: one engine, one base model, the pool's adapters.

Serve sees adapters through ``@serve.multiplexed``, which it uses to send a request to a replica that
holds its adapter already. It is only that affinity: Serve forgets the least recently used id without
asking whether it is in use, so what is loaded, pinned and evicted is decided by the engine's own
reference-counted store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from ray import serve

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.package import Expert, LMoEPackage
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.domain.tokenized import TokenizedPrompt
from lmoe_ray.engine.async_engine import AsyncEngine
from lmoe_ray.engine.engine_stats import EngineStats
from lmoe_ray.pretrained.model_source import resolve, round_through_nf4
from lmoe_ray.pretrained.package_source import load_package_from
from lmoe_ray.serving.serve_log import join_serve_log
from lmoe_ray.settings import ModelSettings, PoolSettings, Settings

logger = logging.getLogger(__name__)

#: Deltas of one stream are sent at most this often: an item between replicas costs more than a token.
SEND_INTERVAL_S = 0.03


class ExpertReplica:
    """One replica of a pool."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it; the engine's futures need its loop
        self, settings: Settings, model: ModelSettings, pool: PoolSettings
    ) -> None:
        join_serve_log()
        started_s = time.monotonic()
        package = await asyncio.to_thread(load_package_from, model)
        folder = await asyncio.to_thread(_base_folder, model, settings.cache_path)
        self._adapters = _adapters_of(pool, package)
        self._engine = AsyncEngine(
            folder,
            pool.engine,
            prompt_format=package.manifest.prompt_format if package else PromptFormat.CHAT,
            memory_fraction=pool.gpu_fraction if 0 < pool.gpu_fraction < 1 else 1.0,
            num_threads=pool.engine.num_threads or max(1, round(pool.num_cpus)),
            cache_dir=settings.cache_path,
        )
        self._engine.start()
        await self._prove_adapters(pool.engine.max_adapters)
        self._hold = self._affinity(pool.engine.max_adapters)
        logger.info(
            "pool ready pool=%s model=%s adapters=%d seconds=%.1f",
            pool.name,
            model.name,
            len(self._adapters),
            time.monotonic() - started_s,
        )

    async def generate(self, request: GenerateRequest, expert: str | None) -> AsyncGenerator[TokenDelta, None]:
        """Stream one completion. Leaving early, by closing or cancellation, frees the sequence."""
        async with AsyncExitStack() as held:
            digest = None
            if expert is not None:
                digest = await self._hold(expert)
                await held.enter_async_context(self._engine.hold_adapter(self._adapters[expert]))
            deltas = await held.enter_async_context(aclosing(self._engine.generate(request, digest)))
            async for delta in deltas:
                yield delta
                if delta.finish_reason is None:
                    await asyncio.sleep(SEND_INTERVAL_S / request.sampling.n)

    async def tokenize(self, request: GenerateRequest) -> TokenizedPrompt:
        return await self._engine.tokenize(request)

    async def detokenize(self, token_ids: tuple[int, ...]) -> str:
        return await self._engine.detokenize(token_ids)

    async def ping(self) -> None:
        """Answers once every adapter has proved itself, because ``__init__`` waits for that."""

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def check_health(self) -> None:
        """Raises :class:`~lmoe_ray.errors.EngineFailed` if the engine's thread is gone; Serve then restarts us."""
        self._engine.check_health()

    async def _prove_adapters(self, max_adapters: int) -> None:
        """Load as many as the bank holds, so that a broken adapter is refused now; others on first use."""
        for adapter in list(self._adapters.values())[:max_adapters]:
            await self._engine.load_adapter(adapter)

    def _affinity(self, max_adapters: int) -> Callable[[str], Awaitable[str]]:
        """Holds an expert by name, as the caller's ``multiplexed_model_id`` names it; answers its digest.

        Made per replica, because the decorator wants the number of adapters when it is applied.
        """

        async def hold(expert: str) -> str:
            adapter = self._adapters[expert]
            await self._engine.load_adapter(adapter)
            return adapter.digest

        affine: Callable[[str], Awaitable[str]] = serve.multiplexed(max_num_models_per_replica=max_adapters)(hold)
        return affine


def _base_folder(model: ModelSettings, cache_path: Path) -> Path:
    folder = resolve(model.source, model.revision, cache_path)
    return round_through_nf4(folder, cache_path) if model.base_precision == "nf4-dequant" else folder


def _adapters_of(pool: PoolSettings, package: LMoEPackage | None) -> dict[str, Expert]:
    experts = package.experts if package else ()
    served = pool.experts_of(tuple(expert.name for expert in experts))
    return {expert.name: expert for expert in experts if expert.name in served}
