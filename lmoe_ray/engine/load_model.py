"""From a model folder to a model ready to compute: the device, the dtype, and who does the arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmoe_ray.engine.base_model import choose_device, choose_dtype, load_base_model
from lmoe_ray.engine.loaded_model import FlatModel, LoadedModel
from lmoe_ray.engine.model_shape import FAMILIES, ROPE_TYPES
from lmoe_ray.engine.transformers_model import load_transformers_model, read_any_config
from lmoe_ray.errors import SettingsError
from lmoe_ray.settings import EngineSettings


def load_model(folder: Path, settings: EngineSettings, kernel_dir: Path) -> LoadedModel:
    """
    Raises:
        ModelSourceError: the folder holds no model that can be computed.
        SettingsError: this model, or what is installed, does not allow the quantisation asked for.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    config = read_any_config(folder)
    if not is_of_the_family(config):
        if settings.quantization != "none":
            raise SettingsError(
                "engine.quantization",
                f"{settings.quantization} is for {', '.join(FAMILIES)}, not for {config.model_type}; set it to none",
            )
        return load_transformers_model(folder, dtype=dtype, device=device)
    model = load_base_model(
        folder,
        max_model_len=settings.max_model_len,
        dtype=dtype,
        device=device,
        quantization=settings.quantization,
    )
    return FlatModel(model, kernel_dir=kernel_dir if settings.use_kernels else None)


def is_of_the_family(config: Any) -> bool:
    """Whether our own forward pass computes a model: a type, a rotation and a form of weights it knows."""
    if config.model_type not in FAMILIES or getattr(config, "quantization_config", None):
        return False
    return config.rope_parameters["rope_type"] in ROPE_TYPES
