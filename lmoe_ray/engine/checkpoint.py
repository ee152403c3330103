"""The safetensors files of a model folder, memory-mapped or read straight to a GPU. Every tensor must find its place.

A bias dropped in silence would only show as worse answers, so tensors left over are refused as
well as tensors missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lmoe_ray.errors import ModelSourceError


class Checkpoint:
    """Each tensor is taken once, then :meth:`close`."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._files: dict[str, Any] = {}
        for path in _weight_files(folder):
            try:
                file: Any = safe_open(path, framework="pt", device=str(device))
            except (OSError, SafetensorError) as exc:
                raise ModelSourceError(str(folder), f"{path.name} cannot be read: {exc}") from exc
            self._files |= dict.fromkeys(file.keys(), file)

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor in the file's own dtype, on the device; safe to call from several threads."""
        tensor = self.peek(name, shape)
        del self._files[name]
        return tensor

    def peek(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor that will be taken later."""
        file = self._files.get(name)
        if file is None:
            raise ModelSourceError(str(self._folder), f"has no tensor {name!r}; the checkpoint is incomplete")
        tensor: torch.Tensor = file.get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise ModelSourceError(
                str(self._folder), f"tensor {name!r} has shape {tuple(tensor.shape)}, config.json asks for {shape}"
            )
        return tensor

    def ignore(self, name: str) -> None:
        self._files.pop(name, None)

    def close(self) -> None:
        """Refuse what was not taken, but for tables that old checkpoints carry and nobody reads."""
        left = sorted(name for name in self._files if not name.endswith("rotary_emb.inv_freq"))
        if left:
            raise ModelSourceError(
                str(self._folder), f"holds {len(left)} tensors its architecture does not have, such as {left[0]!r}"
            )


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ModelSourceError(str(folder), f"{index.name} is not a weight index: {exc!r}") from exc
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    raise ModelSourceError(str(folder), "has no model.safetensors; convert the weights to safetensors")
