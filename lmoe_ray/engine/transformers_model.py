"""Every decoder-only architecture that is not of the Llama family: transformers' own class does the arithmetic.

Slower than :class:`FlatModel`, for it knows neither our kernels nor our layout of the weights, but the
same to the engine. What a class does inside is not ours to know, so whether it fits is found out by
running it, see ``transformers_probe.py``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM

from lmoe_ray.domain.package import Expert
from lmoe_ray.engine.adaptable_linears import AdaptableLinears
from lmoe_ray.engine.adapter_weights import AdapterWeights, read_weights
from lmoe_ray.engine.kv_cache import KVCache
from lmoe_ray.engine.module_bank import ModuleBank, module_bank_bytes
from lmoe_ray.engine.transformers_probe import check_paged, probe
from lmoe_ray.engine.transformers_runner import TransformersRunner, adopt
from lmoe_ray.errors import ModelSourceError, one_line

logger = logging.getLogger(__name__)

#: Typed in part.
_AUTO: Any = AutoModelForCausalLM

_OTHER_BASE = "choose a base model with a decoder of attention layers only"
#: Kinds of layers whose keys and values are all a layer remembers.
_ATTENTION_KINDS = frozenset({"full_attention", "sliding_attention"})


class TransformersModel:
    """A model class of transformers, adapted to the engine's cache and adapters."""

    def __init__(self, folder: Path, model: Any, max_positions: int) -> None:
        """
        Raises:
            ModelSourceError: the class does not do what the engine asks of it.
        """
        probed = probe(folder, model)
        self._model, self._adaptable = model, probed.adaptable
        self.cache_shape, self.vocab_size = probed.cache_shape, probed.logits.shape[-1]
        self.max_positions = max_positions
        self.weight_bytes: int = model.get_memory_footprint()
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        adopt(model, probed.adaptable.linears)
        check_paged(folder, self, probed)

    def read_adapter(self, expert: Expert, max_rank: int) -> AdapterWeights:
        return read_weights(expert, self._adaptable, max_rank=max_rank, dtype=self.dtype)

    @property
    def adaptable(self) -> AdaptableLinears:
        return self._adaptable

    def bank_bytes(self, num_slots: int, rank: int) -> int:
        return module_bank_bytes(self._adaptable.linears, num_slots, rank, self.dtype)

    def make_bank(self, num_slots: int, rank: int) -> ModuleBank:
        return ModuleBank(self._adaptable.linears, num_slots, rank, dtype=self.dtype, device=self.device)

    def make_runner(self, cache: KVCache, bank: Any) -> TransformersRunner:
        """``bank``: of :meth:`make_bank`."""
        return TransformersRunner(self._model, cache, bank)


def load_transformers_model(folder: Path, *, dtype: torch.dtype, device: torch.device) -> TransformersModel:
    """Read a model with transformers, and make sure that the engine can compute it.

    Raises:
        ModelSourceError: no decoder of attention layers only, incomplete, or computed in another way than asked.
    """
    config = read_any_config(folder)
    _check_config(folder, config)
    model = _read_model(folder, config, dtype, device)
    loaded = TransformersModel(folder, model, _max_positions(folder, config))
    logger.warning(
        "architecture %s is computed by transformers' own class: right, but without compiled kernels and merged "
        "linears, and therefore several times slower; folder=%s dtype=%s device=%s",
        type(model).__name__,
        folder,
        loaded.dtype,
        loaded.device,
    )
    return loaded


def read_any_config(folder: Path) -> Any:
    """The folder's transformers configuration, of whatever architecture.

    Raises:
        ModelSourceError: unreadable.
    """
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as exc:
        raise ModelSourceError(str(folder), f"config.json cannot be read: {exc}") from exc


def _check_config(folder: Path, config: Any) -> None:
    """Refuse what can be known to fail before the weights are read."""
    name, text = config.model_type, config.get_text_config()
    if config.is_encoder_decoder:
        raise ModelSourceError(str(folder), f"{name} is an encoder with a decoder; {_OTHER_BASE}")
    if strange := sorted(set(getattr(text, "layer_types", None) or ()) - _ATTENTION_KINDS):
        raise ModelSourceError(str(folder), f"{name} has layers of kind {', '.join(strange)}; {_OTHER_BASE}")
    try:
        with torch.device("meta"):
            skeleton = _AUTO.from_config(config)
    except (ValueError, ImportError) as exc:
        raise ModelSourceError(str(folder), f"transformers has no {name} that generates: {one_line(exc, 200)}") from exc
    if skeleton._is_stateful:
        raise ModelSourceError(str(folder), f"{name} keeps a state beside keys and values; {_OTHER_BASE}")
    if not skeleton._supports_attention_backend:
        raise ModelSourceError(
            str(folder),
            f"transformers' {type(skeleton).__name__} lets nobody else compute attention; choose a base model of a "
            "class that supports transformers' attention interface",
        )


def _read_model(folder: Path, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """With transformers' plainest attention, which the probe takes as the truth."""
    try:
        model, found = _AUTO.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map={"": device},
            attn_implementation="eager",
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as exc:
        raise ModelSourceError(str(folder), f"transformers cannot load it: {one_line(exc, 300)}") from exc
    for kind, what in (("missing_keys", "missing"), ("mismatched_keys", "misshapen"), ("unexpected_keys", "left over")):
        if names := sorted(map(str, found[kind])):
            raise ModelSourceError(
                str(folder), f"tensors of its architecture are {what}, such as {names[0]!r}; download the model again"
            )
    return model


def _max_positions(folder: Path, config: Any) -> int:
    """Positions up to which the rotation of a token depends on nothing but its position.

    Beyond its original length, longrope rotates by other frequencies as soon as *any* token of a batch is
    there: the answer to a short request would depend on its neighbours.
    """
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if limit is None:
        raise ModelSourceError(str(folder), "its config.json has no max_position_embeddings; add the model's limit")
    rope = getattr(text, "rope_parameters", None) or {}
    for kind in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        original = kind.get("original_max_position_embeddings")
        if kind.get("rope_type") == "longrope" and original and original < limit:
            logger.warning("longrope: served up to its original %d positions of %d; folder=%s", original, limit, folder)
            limit = original
    return int(limit)
