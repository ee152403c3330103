"""A base model's weights on one device: read once, never written.

Linears that read the same input are stored as one matrix. Each weight is handed over as the
checkpoint has it, because a linear may keep it in a narrower form than it computes in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lmoe_ray.engine.checkpoint import Checkpoint
from lmoe_ray.engine.linear import Linear, LinearFactory
from lmoe_ray.engine.model_shape import ATTENTION_LINEARS, GROUPS, ModelShape, model_shape, read_config
from lmoe_ray.engine.quantised_linear import QuantisedFactory

logger = logging.getLogger(__name__)

#: Layers read at once: one thread alone does not keep a disk, or the way to a GPU, busy.
NUM_READERS = 4


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer's weights; ``linears`` by the names in ``GROUPS``."""

    linears: dict[str, Linear]
    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    window: int | None


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Weights and tables on one device; read-only.

    Attributes:
        embedding: ``[vocab_size, hidden_size]`` in the checkpoint's dtype.
        cos, sin: rotation by position, ``[num_positions, head_dim]``.
        dtype: of activations, keys and values.
    """

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
        """Memory of linears and embeddings."""
        linears = [linear for layer in self.layers for linear in layer.linears.values()]
        return self.embedding.nbytes + sum(linear.num_bytes for linear in (self.lm_head, *linears))


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


def load_base_model(
    folder: Path, *, max_model_len: int, dtype: torch.dtype, device: torch.device, quantization: str = "none"
) -> BaseModel:
    """Read the weights, several layers at a time.

    Raises:
        ModelSourceError: a tensor is missing, left over or of the wrong shape.
        SettingsError: the quantisation needs a library that is not installed.
    """
    config = read_config(folder)
    shape = model_shape(config)
    tensors = Checkpoint(folder, device)
    embedding = tensors.take("model.embed_tokens.weight", (shape.vocab_size, shape.hidden_size))
    reader = _LayerReader(tensors, shape, dtype, quantization)
    with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="lmoe-layer-reader") as readers:
        layers = tuple(readers.map(reader.layer, range(shape.num_layers)))
    final_norm = reader.norm("model.norm.weight", shape.hidden_size)
    if shape.is_tied:
        tensors.ignore("lm_head.weight")
        head = embedding
    else:
        head = tensors.take("lm_head.weight", (shape.vocab_size, shape.hidden_size))
    tensors.close()
    rotary = LlamaRotaryEmbedding(config)
    num_positions = min(max_model_len, shape.max_positions)
    cos, sin = rotary(torch.empty(0, dtype=dtype), torch.arange(num_positions)[None])
    logger.info("base model loaded folder=%s type=%s dtype=%s device=%s", folder, config.model_type, dtype, device)
    return BaseModel(
        shape=shape,
        layers=layers,
        embedding=embedding,
        final_norm=final_norm,
        lm_head=reader.make_linear(head),
        cos=cos[0].to(device).contiguous(),
        sin=sin[0].to(device).contiguous(),
        activation=ACT2FN[shape.activation],
        dtype=dtype,
        device=device,
    )


class _LayerReader:
    """Takes a layer's tensors out of a checkpoint and joins those that are computed as one."""

    def __init__(self, tensors: Checkpoint, shape: ModelShape, dtype: torch.dtype, quantization: str) -> None:
        self._tensors, self._shape, self._dtype = tensors, shape, dtype
        sample = tensors.peek("model.layers.0.mlp.gate_proj.weight", shape.linear("gate_proj"))
        self.make_linear = LinearFactory(sample, dtype)
        is_quantised = quantization != "none"
        self._make_inner = QuantisedFactory(quantization, dtype) if is_quantised else self.make_linear

    def layer(self, index: int) -> Layer:
        prefix, shape = f"model.layers.{index}", self._shape
        return Layer(
            linears={group: self._group(prefix, names) for group, names in GROUPS.items()},
            attention_norm=self.norm(f"{prefix}.input_layernorm.weight", shape.hidden_size),
            mlp_norm=self.norm(f"{prefix}.post_attention_layernorm.weight", shape.hidden_size),
            q_norm=self.norm(f"{prefix}.self_attn.q_norm.weight", shape.head_dim) if shape.has_qk_norm else None,
            k_norm=self.norm(f"{prefix}.self_attn.k_norm.weight", shape.head_dim) if shape.has_qk_norm else None,
            window=shape.windows[index],
        )

    def norm(self, name: str, size: int) -> torch.Tensor:
        weight = self._tensors.take(name, (size,))
        return (
            (weight.float() + self._shape.norm_offset).to(self._dtype)
            if self._shape.norm_offset
            else weight.to(self._dtype)
        )

    def _group(self, prefix: str, names: tuple[str, ...]) -> Linear:
        weights, biases = [], []
        for name in names:
            place = f"{prefix}.{'self_attn' if name in ATTENTION_LINEARS else 'mlp'}.{name}"
            out_features, in_features = self._shape.linear(name)
            weights.append(self._tensors.take(f"{place}.weight", (out_features, in_features)))
            has_bias = name in self._shape.biased
            biases.append(self._tensors.take(f"{place}.bias", (out_features,)) if has_bias else None)
        return self._make_inner(_join(weights), _join_biases(biases, weights))


def _join(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _join_biases(biases: list[torch.Tensor | None], weights: list[torch.Tensor]) -> torch.Tensor | None:
    """Linears without a bias get zeros if others of their group have one."""
    if all(bias is None for bias in biases):
        return None
    return _join([w.new_zeros(len(w)) if bias is None else bias for bias, w in zip(biases, weights, strict=True)])
