"""The Ingress deployment: the HTTP app of ``lmoe_ray.api`` over deployment handles, and nothing else.

Before it opens the door it looks where the door is: an address others can reach needs keys.
"""

from __future__ import annotations

from ipaddress import ip_address

import ray
from ray.serve.context import _get_global_client
from starlette.applications import Starlette

from lmoe_ray.api.api_keys import ENVIRONMENT_VARIABLE, KeyRing
from lmoe_ray.api.http_app import build_app
from lmoe_ray.domain.served import ServedModel
from lmoe_ray.errors import SettingsError
from lmoe_ray.serving.graph_backend import GraphBackend, Handle, PoolMap
from lmoe_ray.serving.serve_log import join_serve_log
from lmoe_ray.settings import ApiSettings


def require_keys(host: str | None, settings: ApiSettings, key_hashes: tuple[str, ...]) -> None:
    """Refuse an API without keys on an address that others can reach; ``None`` serves no HTTP.

    Raises:
        SettingsError: it is one, and ``api.insecure`` does not say that this is meant.
    """
    if settings.keys_file is not None or key_hashes or settings.insecure or host is None or _is_loopback(host):
        return
    raise SettingsError(
        "args.api.keys_file",
        f"others can reach {host}, and nobody would be asked for an API key; make one with `lmoe keys create` and name "
        f"its file here, set {ENVIRONMENT_VARIABLE}, listen on 127.0.0.1, or set insecure: true",
    )


def serve_host() -> str | None:
    """The address Serve's HTTP listens on, ``None`` if Serve does not run or serves no HTTP."""
    client = _get_global_client(raise_if_no_controller_running=False) if ray.is_initialized() else None
    return None if client is None else client.http_config.host


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class IngressReplica:
    """Any number of replicas may run; each counts quotas for itself unless ``api.quota_storage`` is shared."""

    def __init__(
        self,
        models: tuple[ServedModel, ...],
        settings: ApiSettings,
        key_hashes: tuple[str, ...],
        pool_maps: dict[str, PoolMap],
        router: Handle,
        pools: dict[str, Handle],
    ) -> None:
        """``key_hashes`` are of the keys given beside ``settings.keys_file``.

        Raises:
            SettingsError: the address needs keys and there are none, or the file of keys cannot be read.
        """
        join_serve_log()
        require_keys(serve_host(), settings, key_hashes)
        has_keys = settings.keys_path is not None or key_hashes
        self._keys = KeyRing(settings.keys_path, key_hashes) if has_keys else None
        self._backend = GraphBackend(models, pool_maps, router, pools)
        self._settings = settings

    def __serve_build_asgi_app__(self) -> Starlette:
        """Serve asks for the app once, after ``__init__``."""
        return build_app(self._backend, self._settings, keys=self._keys)
