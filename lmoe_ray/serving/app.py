"""The whole graph on one screen. A star: the ingress asks the router once, then streams from an expert.

::

                     ┌─────────┐  route (one answer)   ┌────────┐
    client ── HTTP ──│ Ingress │──────────────────────▶│ Router │
                     └────┬────┘                       └───┬────┘
                          │ generate (a stream)            │ ask (agent router only)
                          ▼                                ▼
                     ┌──────────────────────────────────────────┐
                     │ Expert-<pool>: one engine, one base,     │  one deployment per pool,
                     │ many adapters mixed in every step        │  autoscaled by Serve
                     └──────────────────────────────────────────┘

``serve_config.yaml`` names :func:`build`. Annotations stay evaluated in this module: Serve reads the
builder's, and a postponed one would be a string to it.
"""

import os
import time
from typing import Any

from ray import serve
from ray.serve import Application, Deployment

from lmoe_ray.api.api_keys import hashed_keys
from lmoe_ray.domain.package import LMoEPackage
from lmoe_ray.domain.served import ServedExpert, ServedModel
from lmoe_ray.pretrained.package_source import load_package_from
from lmoe_ray.serving.expert_deployment import ExpertReplica
from lmoe_ray.serving.graph_backend import PoolMap
from lmoe_ray.serving.ingress import IngressReplica, require_keys, serve_host
from lmoe_ray.serving.router_deployment import RouterReplica
from lmoe_ray.settings import ApiSettings, ModelSettings, PoolSettings, RouterSettings, parse_settings

#: An OpenMP team that spins while it waits is ten times slower as soon as anything else wants a core,
#: and torch reads this when it is loaded. Ray itself caps OMP_NUM_THREADS at the actor's CPUs.
_PASSIVE_WAIT = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "1"}

#: Requests beyond the engine's queue that still reach a replica, so that the engine refuses them with a
#: 429; without it they would wait in the ingress, unbounded and unseen.
_HEADROOM = 64

#: Seconds a replica that is told to stop may spend on the streams it still has.
_DRAIN_S = 30.0

#: Seconds between health checks: how long a dead replica may go unnoticed.
_HEALTH_CHECK_S = 2.0


def build(args: dict[str, Any]) -> Application:
    """The application for checked settings.

    Raises:
        SettingsError, PackageError, ModelSourceError: what is wrong, where, and the way out.
    """
    settings = parse_settings(args)
    key_hashes = hashed_keys(os.environ)
    require_keys(serve_host(), settings.api, key_hashes)
    packages = {model.name: load_package_from(model) for model in settings.models}
    served = tuple(_served(model, packages[model.name]) for model in settings.models)
    pool_maps = {
        model.name: PoolMap.build(model, shown.expert_names)
        for model, shown in zip(settings.models, served, strict=True)
    }
    pools = {pool.name: _expert(pool).bind(settings, model, pool) for model in settings.models for pool in model.pools}
    router = _router(settings.router).bind(settings, pool_maps, pools)
    return _ingress(settings.api).bind(served, settings.api, key_hashes, pool_maps, router, pools)


def _served(model: ModelSettings, package: LMoEPackage | None) -> ServedModel:
    experts = package.experts if package else ()
    licence = package.manifest.licence if package else ""
    return ServedModel(
        name=model.name,
        experts=tuple(ServedExpert(e.name, e.digest, e.description, licence) for e in experts),
        aliases=model.aliases,
        fallback=package.manifest.fallback if package else "",
        max_model_len=min(pool.engine.max_model_len for pool in model.pools),
        created=int(time.time()),
    )


def _expert(pool: PoolSettings) -> Deployment:
    """The engine queues what it cannot run at once, so Serve admits its queue as well."""
    return serve.deployment(
        name=f"Expert-{pool.name}",
        max_ongoing_requests=pool.engine.max_num_seqs + pool.engine.max_waiting + _HEADROOM,
        autoscaling_config={
            "min_replicas": pool.min_replicas,
            "max_replicas": pool.max_replicas,
            "target_ongoing_requests": pool.target_ongoing_requests,
        },
        health_check_period_s=_HEALTH_CHECK_S,
        graceful_shutdown_timeout_s=_DRAIN_S,
        ray_actor_options={
            "num_cpus": pool.num_cpus,
            "num_gpus": pool.gpu_fraction,
            "runtime_env": {"env_vars": _PASSIVE_WAIT},
        },
    )(ExpertReplica)


def _router(settings: RouterSettings) -> Deployment:
    return serve.deployment(
        name="Router",
        num_replicas=settings.num_replicas,
        max_ongoing_requests=256,
        health_check_period_s=_HEALTH_CHECK_S,
        graceful_shutdown_timeout_s=5,
        ray_actor_options={"num_cpus": settings.num_cpus, "runtime_env": {"env_vars": _PASSIVE_WAIT}},
    )(RouterReplica)


def _ingress(settings: ApiSettings) -> Deployment:
    return serve.deployment(
        name="Ingress",
        num_replicas=settings.num_replicas,
        max_ongoing_requests=settings.max_ongoing_requests,
        health_check_period_s=_HEALTH_CHECK_S,
        graceful_shutdown_timeout_s=_DRAIN_S,
        ray_actor_options={"num_cpus": settings.num_cpus},
    )(serve.ingress()(IngressReplica))
