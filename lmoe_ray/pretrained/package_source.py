"""Where an LMoE package comes from: shipped with this project, a folder, or a hub repository."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from lmoe_ray.domain.package import LMoEPackage, load_package
from lmoe_ray.errors import BaseMismatch
from lmoe_ray.pretrained.model_source import download, is_folder
from lmoe_ray.settings import ModelSettings

DEMO = "builtin:demo"

DEMO_FOLDER = Path(str(files("lmoe_ray"))) / "demo" / "package"

#: Its routing index, under the name the router looks for.
DEMO_INDEX = DEMO_FOLDER / "routing_index"

#: Pickles come too: they are refused later, with a way out.
PACKAGE_FILES = ("adapters/*", "routing_data/*", "lmoe.yaml")


def load_package_from(model: ModelSettings) -> LMoEPackage | None:
    """The model's package, checked; ``None`` if the model has none.

    Raises:
        PackageError: the package is broken, see :func:`lmoe_ray.domain.package.load_package`.
        BaseMismatch: its manifest names another base model.
        ModelSourceError: it is nowhere to be found.
    """
    if model.package is None:
        return None
    package = load_package(package_folder(model.package), allow_pickle=model.allow_pickle)
    base = package.manifest.base
    if base and base not in (model.name, model.source):
        raise BaseMismatch(
            str(package.path),
            f"is made for {base!r}, but model {model.name!r} is {model.source!r}; "
            "point the model at that base, or correct 'base' in lmoe.yaml",
        )
    return package


def package_folder(source: str) -> Path:
    """The folder of a package.

    Raises:
        ModelSourceError: it is none of ours, no folder, and cannot be had from the hub.
    """
    if source == DEMO:
        return DEMO_FOLDER
    if is_folder(source):
        return Path(source).expanduser().resolve()
    return download(source, None, PACKAGE_FILES)
