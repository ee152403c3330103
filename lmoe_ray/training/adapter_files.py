"""An adapter from its random start to its files, which are bfloat16, byte-reproducible, and complete or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from lmoe_ray.errors import TrainingDataError, one_line
from lmoe_ray.pretrained.whole_folder import whole_folder


def add_adapter(model: Any, config: LoraConfig, seed: int) -> Any:
    """The model wrapped by PEFT, with a fresh adapter that does nothing yet: A is random, B is zero.

    Raises:
        TrainingDataError: the model has none of the target modules.
    """
    torch.manual_seed(seed)
    try:
        return get_peft_model(model, config).train()
    except ValueError as exc:
        raise TrainingDataError("targets", f"{one_line(exc, 160)}; name linear modules of this model") from exc


@torch.no_grad()
def round_adapter(peft_model: Any) -> None:
    """Give the trained weights the values their file will hold."""
    for weight in peft_model.parameters():
        if weight.requires_grad:
            weight.copy_(weight.to(torch.bfloat16))


def write_adapter(peft_model: Any, folder: Path, base_name: str) -> None:
    """Put ``adapter_config.json`` and ``adapter_model.safetensors`` into a folder, replacing what is there."""
    tensors = {
        name: tensor.to("cpu", torch.bfloat16).contiguous()
        for name, tensor in get_peft_model_state_dict(peft_model).items()
    }
    with whole_folder(folder) as unfinished:
        save_file(tensors, unfinished / "adapter_model.safetensors", metadata={"format": "pt"})
        config = json.dumps(_config(peft_model, base_name), indent=2, sort_keys=True)
        (unfinished / "adapter_config.json").write_text(config + "\n", encoding="utf-8")


def _config(peft_model: Any, base_name: str) -> dict[str, Any]:
    """PEFT's own fields. It keeps targets in a set, whose order changes from run to run: sorted here."""
    config: dict[str, Any] = peft_model.peft_config["default"].to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = base_name
    config["inference_mode"] = True
    return {key: getattr(value, "value", value) for key, value in config.items()}
