"""The Ingress deployment: the HTTP app of ``lmoe_ray.api`` over deployment handles, and nothing else."""

from __future__ import annotations

from starlette.applications import Starlette

from lmoe_ray.api.http_app import build_app
from lmoe_ray.domain.served import ServedModel
from lmoe_ray.serving.graph_backend import GraphBackend, Handle, PoolMap
from lmoe_ray.settings import ApiSettings


class IngressReplica:
    """Stateless: any number of replicas may run."""

    def __init__(
        self,
        models: tuple[ServedModel, ...],
        settings: ApiSettings,
        pool_maps: dict[str, PoolMap],
        router: Handle,
        pools: dict[str, Handle],
    ) -> None:
        self._backend = GraphBackend(models, pool_maps, router, pools)
        self._settings = settings

    def __serve_build_asgi_app__(self) -> Starlette:
        """Serve asks for the app once, after ``__init__``."""
        return build_app(self._backend, self._settings)
