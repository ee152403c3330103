"""The router of a configuration, in this process: for verbs that look into it and need no server.

Imported by verbs when they run, so it may import what is heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmoe_ray.cli.serve_command import default_config
from lmoe_ray.errors import SettingsError
from lmoe_ray.pretrained.model_source import resolve
from lmoe_ray.pretrained.package_source import DEMO_INDEX, load_package_from
from lmoe_ray.routing.choose_embedder import choose_embedder
from lmoe_ray.routing.fitted_index import FittedIndex
from lmoe_ray.routing.router import RoutedModel
from lmoe_ray.routing.similarity import SimilarityRouter
from lmoe_ray.serving.config_check import check_config
from lmoe_ray.settings import ModelSettings, Settings

_NEVER: dict[str, Any] = {"threshold": 0.0, "precision": None, "calibration": None, "min_familiarity": 0.0}


def local_router(config: Path | None, model: str | None, *, abstains: bool) -> tuple[SimilarityRouter, FittedIndex]:
    """
    Args:
        config: serve configuration; ``None``: the default one.
        model: name of a base model; ``None``: the first with a package.
        abstains: whether the settings' threshold and familiarity count.

    Raises:
        SettingsError: there is no such model, or no sample to route by.
    """
    path = config or default_config()
    settings = check_config(path).settings
    chosen = _model(settings, model, path)
    router = settings.router.model_copy(update={"kind": "similarity", **({} if abstains else _NEVER)})
    package = load_package_from(chosen)
    assert package is not None, f"{chosen.name} has a package. This is a bug."
    folder = resolve(router.embedder, router.embedder_revision, settings.cache_path)
    embedder = choose_embedder(folder, router, [package.experts], settings.cache_path)
    routed = RoutedModel(chosen.name, package.experts, package.manifest.fallback)
    made = SimilarityRouter(routed, embedder, router, settings.cache_path, shipped_dir=DEMO_INDEX)
    if made.fitted is None:
        raise SettingsError(str(path), f"the package of model {chosen.name} has no routing samples")
    return made, made.fitted


def _model(settings: Settings, name: str | None, path: Path) -> ModelSettings:
    for model in settings.models:
        if model.package and name in (None, model.name):
            return model
    raise SettingsError(
        str(path), f"has no model {name or ''} with a package; there is nothing to route by".replace("  ", " ")
    )
