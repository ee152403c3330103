"""What the shipped LoRA adapter adds to the shipped encoder: an eye for tasks.

Sentence encoders are trained to bring texts of one topic together, and a router must tell a story about ducks from a
riddle about them. So the top layers of the built-in encoder are tuned on prompts that name their task, by
``lmoe_ray/training/tune_encoder.py``, and the difference is shipped in PEFT's format. It is added to the weights as
they are read, costs nothing afterwards, and fits the one encoder it was made for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).with_name("encoder_adapter")
WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"

_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class EncoderTuning:
    """``additions`` by the name of the weight they are added to, float32; ``digest`` names the adapter."""

    additions: Mapping[str, torch.Tensor]
    digest: str

    def apply(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The encoder's tensors with the additions.

        Raises:
            KeyError: the encoder has no such weight.
        """
        tuned = {name: tensors[name] + addition for name, addition in self.additions.items()}
        return {**tensors, **tuned}


@cache
def tuning_for(encoder: str) -> EncoderTuning | None:
    """The shipped tuning, if the encoder of this digest is the one it was made for."""
    config = json.loads((FOLDER / CONFIG_NAME).read_text(encoding="utf-8"))
    return read_tuning(FOLDER) if config["base_model_name_or_path"] == encoder else None


def read_tuning(folder: Path) -> EncoderTuning:
    """A LoRA adapter in PEFT's format, as additions ``alpha / r * B A``."""
    config_file, weights = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    config = json.loads(config_file.read_text(encoding="utf-8"))
    scale = config["lora_alpha"] / config["r"]
    tensors = {name.removeprefix(_PREFIX): tensor.float() for name, tensor in load_file(weights).items()}
    additions = {
        f"{stem}.weight": scale * tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
        for stem in sorted({name.partition(".lora_")[0] for name in tensors})
    }
    return EncoderTuning(additions, hashlib.sha256(config_file.read_bytes() + weights.read_bytes()).hexdigest()[:16])
