"""The API's backend over deployment handles: where an HTTP request becomes calls to other replicas.

Ray wraps what a replica raises; here our own errors are unwrapped again and Ray's become ours, so
that nothing above this module knows Ray's exceptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.embedding import Embeddings, EmbedRequest
from lmoe_ray.domain.served import ServedModel
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.domain.tokenized import TokenizedPrompt
from lmoe_ray.errors import LMoEError, NotReady, Overloaded, ReplicaLost, SettingsError
from lmoe_ray.settings import ModelSettings

#: Calls to one deployment; what they answer is named where they are made.
Handle: TypeAlias = DeploymentHandle[Any]

_READY_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class PoolMap:
    """Which pool serves which expert of one base model, and which the base model itself."""

    experts: Mapping[str, str]
    base: str
    always_on: tuple[str, ...]

    @classmethod
    def build(cls, model: ModelSettings, expert_names: tuple[str, ...]) -> PoolMap:
        """The first pool that claims an expert has it; a pool that names none claims all.

        Raises:
            SettingsError: a pool names an expert the package lacks, or no pool claims an expert.
        """
        experts: dict[str, str] = {}
        for pool in model.pools:
            for name in pool.experts_of(expert_names):
                experts.setdefault(name, pool.name)
        if homeless := sorted(set(expert_names) - experts.keys()):
            raise SettingsError(f"model {model.name}", f"no pool serves {', '.join(homeless)}; add them to a pool")
        always_on = tuple(pool.name for pool in model.pools if pool.min_replicas > 0)
        return cls(experts, model.pools[0].name, always_on)

    def pool_of(self, expert: str | None) -> str:
        return self.base if expert is None else self.experts[expert]


@contextmanager
def our_errors(part: str) -> Generator[None, None, None]:
    """Turn what Ray raises about a call to ``part`` into this project's errors."""
    try:
        yield
    except RayTaskError as exc:
        if isinstance(exc, RayActorError):
            raise ReplicaLost(part) from exc
        if isinstance(exc.cause, LMoEError):
            raise exc.cause from None
        raise
    except RayActorError as exc:
        raise ReplicaLost(part) from exc
    except BackPressureError as exc:
        num_queued, max_queued = exc.args[:2]
        raise Overloaded(num_queued, max_queued) from exc
    except (DeploymentUnavailableError, ReplicaUnavailableError) as exc:
        raise ReplicaLost(part) from exc


async def stream_from(
    pool: Handle, part: str, request: GenerateRequest, expert: str | None
) -> AsyncGenerator[TokenDelta, None]:
    """Stream one completion from a pool's replica; closing this generator cancels it there."""
    handle: Any = pool.options(stream=True, multiplexed_model_id=expert or "")
    with our_errors(part):
        response = handle.generate.remote(request, expert)
        num_unfinished = request.sampling.n
        try:
            async for delta in response:
                num_unfinished -= delta.finish_reason is not None
                yield delta
        finally:
            if num_unfinished:
                response.cancel()


class GraphBackend:
    """Implements :class:`lmoe_ray.api.backend.Backend`."""

    def __init__(
        self,
        models: tuple[ServedModel, ...],
        pool_maps: Mapping[str, PoolMap],
        router: Handle,
        pools: Mapping[str, Handle],
    ) -> None:
        self._models, self._pool_maps = models, pool_maps
        self._router, self._pools = router, pools
        self._pending = {"the router": router}
        self._pending |= {f"pool {name}": pools[name] for m in pool_maps.values() for name in m.always_on}

    def models(self) -> tuple[ServedModel, ...]:
        return self._models

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        with our_errors("the router"):
            decision: RoutingDecision = await self._router.route.remote(request)
        return decision

    def generate(self, request: GenerateRequest, decision: RoutingDecision) -> AsyncGenerator[TokenDelta, None]:
        pool = self._pool_maps[decision.model].pool_of(decision.expert)
        return stream_from(self._pools[pool], f"pool {pool}", request, decision.expert)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        with our_errors("the router"):
            embeddings: Embeddings = await self._router.embed.remote(request)
        return embeddings

    async def tokenize(self, request: GenerateRequest) -> TokenizedPrompt:
        pool = self._pool_maps[request.model].base
        with our_errors(f"pool {pool}"):
            tokenized: TokenizedPrompt = await self._pools[pool].tokenize.remote(request)
        return tokenized

    async def detokenize(self, model: str, token_ids: tuple[int, ...]) -> str:
        pool = self._pool_maps[model].base
        with our_errors(f"pool {pool}"):
            text: str = await self._pools[pool].detokenize.remote(token_ids)
        return text

    async def check_ready(self) -> None:
        """Every part must have answered once; a pool that may scale to zero is not woken for it."""
        for part, handle in list(self._pending.items()):
            await _ping(part, handle)
            self._pending.pop(part, None)


async def _ping(part: str, handle: Any) -> None:
    try:
        with our_errors(part):
            await asyncio.wait_for(handle.ping.remote(), _READY_TIMEOUT_S)
    except (TimeoutError, LMoEError) as exc:
        raise NotReady(part) from exc
