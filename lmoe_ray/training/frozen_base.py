"""The base model as training and evaluation use it: read only, at one dtype, on one device."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def load_base(model_folder: Path, dtype: str, device: torch.device) -> Any:
    """The frozen base model in evaluation mode.

    On a CPU attention is computed as plain matrix products: the fused kernel's backward pass in
    bfloat16 took a fifth of a step, more than twice what they take.
    """
    attention = "eager" if device.type == "cpu" else "sdpa"
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=getattr(torch, dtype), attn_implementation=attention
    )
    return model.to(device).eval().requires_grad_(False)


def arithmetic(dtype: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Autocast for bfloat16, nothing for float32.

    Its cache is off: it would keep the adapter's first bfloat16 copy for as long as the context is open.
    """
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, getattr(torch, dtype), cache_enabled=False)
