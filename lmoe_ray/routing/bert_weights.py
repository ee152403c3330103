"""A BERT sentence encoder's folder, read into tensors; or the reason why it is not one that we compute ourselves.

Ours are those that are a plain BERT, then the mean of its token vectors or the first of them, then
unit length. Everything else is sentence-transformers' business.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lmoe_ray.routing.encoder_tuning import EncoderTuning

#: Widths must be multiples of this, the most that a register of any processor holds twice.
LANES = 32


class UnsupportedEncoder(Exception):
    """This folder is no encoder of ours; the message says what differs."""


@dataclass(frozen=True, slots=True)
class Affine:
    """``weight [out, in]`` and ``bias [out]`` of a linear, or ``[size]`` each of a layer norm; float32."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class BertLayer:
    """``qkv`` is queries, keys and values, one below the other."""

    qkv: Affine
    mix: Affine
    after_attention: Affine
    up: Affine
    down: Affine
    after_feed_forward: Affine


@dataclass(frozen=True, slots=True)
class BertWeights:
    """Everything between token ids and a unit vector.

    Attributes:
        words: ``[vocabulary, hidden]``.
        positions: ``[max tokens, hidden]``, with the vector of the only segment added.
        first_token_only: what stands for a text: its first token, or else the mean of its tokens.
        max_tokens: the model's own limit, special tokens included.
    """

    words: torch.Tensor
    positions: torch.Tensor
    embedded: Affine
    layers: tuple[BertLayer, ...]
    num_heads: int
    eps: float
    first_token_only: bool
    max_tokens: int

    @property
    def hidden(self) -> int:
        return self.words.shape[1]

    @property
    def inner(self) -> int:
        return self.layers[0].up.weight.shape[0]


def read_bert(folder: Path, tuning: EncoderTuning | None = None) -> BertWeights:
    """
    Args:
        folder: in the layout of sentence-transformers.
        tuning: added to its weights.

    Raises:
        UnsupportedEncoder: another architecture, pooling or file layout.
    """
    try:
        first_token_only, max_tokens = _read_modules(folder)
        config = _read_json(folder / "config.json")
        _check_config(config)
        return _read_weights(folder, config, first_token_only, max_tokens, tuning)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as exc:
        raise UnsupportedEncoder(f"its files are not those of a plain BERT: {exc!r}") from exc


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _read_modules(folder: Path) -> tuple[bool, int]:
    """Whether the first token stands for the text, and the model's limit."""
    modules = _read_json(folder / "modules.json")
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or modules[0]["path"]:
        raise UnsupportedEncoder(f"its modules are {', '.join(kinds)}, not Transformer and Pooling")
    transformer = _read_json(folder / "sentence_bert_config.json")
    if transformer.get("do_lower_case"):
        raise UnsupportedEncoder("it lowers the case of texts before its tokenizer")
    return _is_first_token(_read_json(folder / modules[1]["path"] / "config.json")), transformer["max_seq_length"]


def _is_first_token(pooling: dict[str, Any]) -> bool:
    modes = {name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True}
    if modes not in ({"pooling_mode_mean_tokens"}, {"pooling_mode_cls_token"}):
        raise UnsupportedEncoder(f"its pooling is {', '.join(sorted(modes)) or pooling}, not mean or first token")
    return "pooling_mode_cls_token" in modes


def _check_config(config: dict[str, Any]) -> None:
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for name, value in expected.items():
        if (found := config.get(name, value)) != value:
            raise UnsupportedEncoder(f"its {name} is {found}, not {value}")
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    for name, size in (("head size", head_dim), ("intermediate_size", config["intermediate_size"])):
        if size % LANES:
            raise UnsupportedEncoder(f"its {name} of {size} is no multiple of {LANES}")


def _read_weights(
    folder: Path, config: dict[str, Any], first_token_only: bool, max_tokens: int, tuning: EncoderTuning | None
) -> BertWeights:
    tensors = {name.removeprefix("bert."): x.float() for name, x in load_file(folder / "model.safetensors").items()}
    if tuning is not None:
        tensors = tuning.apply(tensors)

    def affine(name: str) -> Affine:
        return Affine(tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    positions = tensors["embeddings.position_embeddings.weight"]
    return BertWeights(
        words=tensors["embeddings.word_embeddings.weight"],
        positions=positions + tensors["embeddings.token_type_embeddings.weight"][0],
        embedded=affine("embeddings.LayerNorm"),
        layers=tuple(_layer(affine, f"encoder.layer.{i}") for i in range(config["num_hidden_layers"])),
        num_heads=config["num_attention_heads"],
        eps=config["layer_norm_eps"],
        first_token_only=first_token_only,
        max_tokens=min(max_tokens, len(positions)),
    )


def _layer(affine: Any, name: str) -> BertLayer:
    parts = [affine(f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
    return BertLayer(
        qkv=Affine(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])),
        mix=affine(f"{name}.attention.output.dense"),
        after_attention=affine(f"{name}.attention.output.LayerNorm"),
        up=affine(f"{name}.intermediate.dense"),
        down=affine(f"{name}.output.dense"),
        after_feed_forward=affine(f"{name}.output.LayerNorm"),
    )
