"""Strict reading of ``serve_config.yaml``: what Ray Serve would ignore silently is an error here.

Serve's own schema drops unknown keys, so ``max_ongoing_request: 5`` changes nothing and says nothing.
Here every key is compared with the schema's fields, the ``args`` with :class:`Settings`, and the names
under ``deployments`` with the deployments that ``build`` will make.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from lmoe_ray.errors import SettingsError
from lmoe_ray.settings import Settings, parse_settings

IMPORT_PATH = "lmoe_ray.serving.app:build"


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """A checked configuration file: the YAML as it stands, and our part of it as settings."""

    path: Path
    data: dict[str, Any]
    settings: Settings
    host: str
    port: int

    def listening_on(self, host: str | None, port: int | None) -> ServeConfig:
        """The same with another address; ``None`` keeps the file's."""
        host, port = host or self.host, port or self.port
        options = {**(self.data.get("http_options") or {}), "host": host, "port": port}
        return replace(self, data={**self.data, "http_options": options}, host=host, port=port)


def check_config(path: Path) -> ServeConfig:
    """Read and check a configuration file.

    Raises:
        SettingsError: naming the first wrong place, the problem there, and what is known instead.
    """
    data = _read_yaml(path)
    _check_keys(str(path), data)
    try:
        schema = ServeDeploySchema.model_validate(data)
    except (ValidationError, ValueError, TypeError) as exc:
        raise SettingsError(str(path), _first_problem(exc)) from exc
    settings = _check_application(str(path), data["applications"])
    return ServeConfig(path, data, settings, schema.http_options.host, schema.http_options.port)


def deployment_names(settings: Settings) -> tuple[str, ...]:
    """Every deployment that ``build`` makes of these settings."""
    return ("Ingress", "Router", *(f"Expert-{pool.name}" for model in settings.models for pool in model.pools))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(str(path), f"cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise SettingsError(str(path), f"is not YAML: {exc}") from exc
    if not isinstance(data, dict) or not isinstance(data.get("applications"), list) or not data["applications"]:
        raise SettingsError(
            str(path), "must hold a list 'applications' with one entry; see serve_config.yaml of lmoe_ray"
        )
    return data


def _check_keys(place: str, data: Mapping[str, Any]) -> None:
    for where, keys, schema in _levels(place, data):
        if not isinstance(keys, Mapping):
            raise SettingsError(where, f"must hold keys and values, not {type(keys).__name__}")
        known = schema.model_fields
        if unknown := sorted(str(key) for key in keys if key not in known):
            raise SettingsError(f"{where}.{unknown[0]}", f"no such key; known: {', '.join(sorted(known))}")


def _levels(place: str, data: Mapping[str, Any]) -> Iterator[tuple[str, Any, type[BaseModel]]]:
    """Every mapping of the file whose keys a schema of Serve knows, outermost first."""
    yield place, data, ServeDeploySchema
    yield f"{place}: http_options", data.get("http_options") or {}, HTTPOptionsSchema
    for number, application in enumerate(data["applications"]):
        where = f"{place}: applications[{number}]"
        yield where, application, ServeApplicationSchema
        for index, deployment in enumerate(application.get("deployments") or []):
            here = f"{where}.deployments[{index}]"
            yield here, deployment, DeploymentSchema
            yield f"{here}.ray_actor_options", deployment.get("ray_actor_options") or {}, RayActorOptionsSchema
            yield f"{here}.autoscaling_config", deployment.get("autoscaling_config") or {}, AutoscalingConfig


def _check_application(place: str, applications: list[dict[str, Any]]) -> Settings:
    ours = [(n, a) for n, a in enumerate(applications) if a.get("import_path") == IMPORT_PATH]
    if len(ours) != 1:
        raise SettingsError(
            f"{place}: applications", f"exactly one must have import_path {IMPORT_PATH}, {len(ours)} do"
        )
    number, application = ours[0]
    where = f"{place}: applications[{number}]"
    settings = parse_settings(application.get("args") or {}, f"{where}.args")
    known = deployment_names(settings)
    for index, deployment in enumerate(application.get("deployments") or []):
        if deployment.get("name") not in known:
            raise SettingsError(
                f"{where}.deployments[{index}].name",
                f"{deployment.get('name')!r} is not made by these args; they make: {', '.join(known)}",
            )
    return settings


def _first_problem(exc: Exception) -> str:
    if not isinstance(exc, ValidationError):
        return str(exc)
    first = exc.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
