"""A base model's weights on one device: read once, never written.

On a CPU the weights stay where they are on disk: memory-mapped, and so shared by all replicas of a
machine, unless the dtype must change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lmoe_ray.engine.checkpoint import Checkpoint
from lmoe_ray.engine.model_shape import ATTENTION_LINEARS, LINEARS, ModelShape, model_shape, read_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Linear:
    """``x @ weight.T + bias``, ``weight [out, in]``: the seam for faster implementations."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer's weights; ``linears`` by the names in ``LINEARS``."""

    linears: dict[str, Linear]
    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    window: int | None


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Weights and tables on one device; read-only. ``cos`` and ``sin`` are ``[max_model_len, head_dim]``."""

    shape: ModelShape
    layers: tuple[Layer, ...]
    embedding: torch.Tensor
    final_norm: torch.Tensor
    lm_head: Linear
    cos: torch.Tensor
    sin: torch.Tensor
    activation: Callable[[torch.Tensor], torch.Tensor]
    dtype: torch.dtype
    device: torch.device

    @property
    def weight_bytes(self) -> int:
        """Memory of the linears and embeddings."""
        linears = [linear for layer in self.layers for linear in layer.linears.values()]
        tensors = {id(t): t for t in (self.embedding, self.lm_head.weight, *(linear.weight for linear in linears))}
        return sum(t.nbytes for t in tensors.values())


def choose_device(setting: str) -> torch.device:
    """``auto``: the GPU this process was given, else the CPU."""
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(setting, 0) if setting == "cuda" else torch.device(setting)


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 where the device multiplies in it, else float16 on a GPU, float32 on a CPU."""
    if setting != "auto":
        dtype: torch.dtype = getattr(torch, setting)
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
    return torch.bfloat16 if has_bf16 else torch.float32


def load_base_model(folder: Path, *, max_model_len: int, dtype: torch.dtype, device: torch.device) -> BaseModel:
    """Read the weights; costs no copy on a CPU if the checkpoint has this dtype.

    Raises:
        ModelSourceError: a tensor is missing, left over or of the wrong shape.
    """
    config = read_config(folder)
    shape = model_shape(config)
    tensors = Checkpoint(folder, dtype, device)
    embedding = tensors.take("model.embed_tokens.weight", (shape.vocab_size, shape.hidden_size))
    layers = tuple(_take_layer(tensors, shape, index) for index in range(shape.num_layers))
    final_norm = tensors.take("model.norm.weight", (shape.hidden_size,))
    if shape.is_tied:
        tensors.ignore("lm_head.weight")
        lm_head = embedding
    else:
        lm_head = tensors.take("lm_head.weight", (shape.vocab_size, shape.hidden_size))
    tensors.close()
    rotary = LlamaRotaryEmbedding(config)
    cos, sin = rotary(torch.empty(0, dtype=dtype), torch.arange(max_model_len)[None])
    logger.info("base model loaded folder=%s type=%s dtype=%s device=%s", folder, config.model_type, dtype, device)
    return BaseModel(
        shape=shape,
        layers=layers,
        embedding=embedding,
        final_norm=final_norm,
        lm_head=Linear(lm_head),
        cos=cos[0].to(device),
        sin=sin[0].to(device),
        activation=ACT2FN[shape.activation],
        dtype=dtype,
        device=device,
    )


def _take_layer(tensors: Checkpoint, shape: ModelShape, index: int) -> Layer:
    prefix = f"model.layers.{index}"

    def norm(name: str, size: int) -> torch.Tensor:
        return tensors.take(f"{prefix}.{name}.weight", (size,))

    def linear(name: str) -> Linear:
        place = f"{prefix}.{'self_attn' if name in ATTENTION_LINEARS else 'mlp'}.{name}"
        out_features, in_features = shape.linear(name)
        bias = tensors.take(f"{place}.bias", (out_features,)) if name in shape.biased else None
        return Linear(tensors.take(f"{place}.weight", (out_features, in_features)), bias)

    return Layer(
        linears={name: linear(name) for name in LINEARS},
        attention_norm=norm("input_layernorm", shape.hidden_size),
        mlp_norm=norm("post_attention_layernorm", shape.hidden_size),
        q_norm=norm("self_attn.q_norm", shape.head_dim) if shape.has_qk_norm else None,
        k_norm=norm("self_attn.k_norm", shape.head_dim) if shape.has_qk_norm else None,
        window=shape.windows[index],
    )
