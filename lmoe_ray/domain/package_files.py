"""Reading a package's files: nothing outside the package, nothing that is not what its name says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmoe_ray.errors import PackageError


def inside(root: Path, path: Path) -> Path:
    """The real path, refused if links lead out of the package."""
    real = path.resolve()
    if not real.is_relative_to(root):
        raise PackageError(str(path), f"leads out of the package to {real}; copy the file into the package")
    return real


def read_json_object(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(file))
    except ValueError as exc:
        raise PackageError(str(file), f"is not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise PackageError(str(file), "must hold a JSON object")
    return data


def read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise PackageError(str(file), f"cannot be read as UTF-8 text: {exc}") from exc
