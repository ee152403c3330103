"""The numbers of an architecture, read from a configuration; no weights, no tensors.

One description covers Llama, Mistral, Qwen2, Qwen3 and Gemma, because they differ only in which biases,
norms and windows exist, and in two factors. Whatever else a configuration may ask for is refused here, so that nothing
is computed differently from what the model was trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from lmoe_ray.errors import ModelSourceError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma")
ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")
LINEARS = ATTENTION_LINEARS + MLP_LINEARS
#: Linears that read the same input are computed as one.
GROUPS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What a token's keys and values measure."""

    num_layers: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers of an architecture.

    Attributes:
        windows: sliding attention window of each layer in tokens; ``None`` sees everything.
        biased: linears that have a bias.
        has_qk_norm: whether queries and keys are normalised per head before rotation.
        embedding_scale: what embeddings are multiplied with.
        norm_offset: what is added to a norm's stored weight.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    activation: str
    windows: tuple[int | None, ...]
    biased: frozenset[str]
    has_qk_norm: bool
    is_tied: bool
    embedding_scale: float = 1.0
    norm_offset: float = 0.0

    @property
    def cache_shape(self) -> CacheShape:
        return CacheShape(self.num_layers, self.num_kv_heads, self.head_dim)

    def linear(self, name: str) -> tuple[int, int]:
        """``(out_features, in_features)`` of a linear."""
        query, key_value = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (query, self.hidden_size),
            "k_proj": (key_value, self.hidden_size),
            "v_proj": (key_value, self.hidden_size),
            "o_proj": (self.hidden_size, query),
            "gate_proj": (self.intermediate_size, self.hidden_size),
            "up_proj": (self.intermediate_size, self.hidden_size),
            "down_proj": (self.hidden_size, self.intermediate_size),
        }[name]

    def group(self, name: str) -> tuple[int, int]:
        """``(out_features, in_features)`` of a group of linears computed as one."""
        sizes = [self.linear(linear) for linear in GROUPS[name]]
        return sum(out_features for out_features, _ in sizes), sizes[0][1]


def read_config(folder: Path) -> Any:
    """The folder's transformers configuration, refused unless this engine computes that architecture.

    Raises:
        ModelSourceError: unreadable, another architecture, quantised, or an unknown rotary scaling.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as exc:
        raise ModelSourceError(str(folder), f"config.json cannot be read: {exc}") from exc
    if config.model_type not in FAMILIES:
        raise ModelSourceError(
            str(folder), f"model type {config.model_type!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    if getattr(config, "quantization_config", None):
        raise ModelSourceError(str(folder), "quantised checkpoints are not supported; use the original weights")
    if config.rope_parameters["rope_type"] not in ROPE_TYPES:
        raise ModelSourceError(
            str(folder),
            f"rope type {config.rope_parameters['rope_type']!r} is not supported; supported: {', '.join(ROPE_TYPES)}",
        )
    return config


def model_shape(config: Any) -> ModelShape:
    """The part of a configuration that decides the arithmetic."""
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        norm_eps=config.rms_norm_eps,
        activation=config.hidden_act,
        windows=_windows(config),
        biased=_biased(config),
        has_qk_norm=config.model_type == "qwen3",
        is_tied=config.tie_word_embeddings,
        embedding_scale=config.hidden_size**0.5 if config.model_type == "gemma" else 1.0,
        norm_offset=1.0 if config.model_type == "gemma" else 0.0,
    )


def _windows(config: Any) -> tuple[int | None, ...]:
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _biased(config: Any) -> frozenset[str]:
    if config.model_type == "qwen2":
        return frozenset({"q_proj", "k_proj", "v_proj"})
    attention = ATTENTION_LINEARS if getattr(config, "attention_bias", False) else ()
    mlp = MLP_LINEARS if getattr(config, "mlp_bias", False) else ()
    return frozenset((*attention, *mlp))
