"""One forward pass through transformers' own model class, over the engine's cache and bank.

The class is used as it is. Two places of it are ours: the attention function, which transformers lets
one register by name, and a hook behind every linear, which adds the adapters' updates. Both belong to
the model and not to a runner, so they find the pass they are in by a context variable.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from lmoe_ray.engine.batch import Batch
from lmoe_ray.engine.kv_cache import KVCache
from lmoe_ray.engine.module_bank import ModuleBank
from lmoe_ray.engine.scored_attention import ScoredAttention, ScoreRule

#: Our attention function's name. transformers makes no mask for a name that has no function for masks.
PAGED = "lmoe_paged"
#: What models tell their attention beside its rule, and what does not change its result.
_HARMLESS = frozenset(
    {"dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "output_router_logits"}
)


@dataclass(frozen=True, slots=True)
class _Pass:
    """What a batch is computed with."""

    batch: Batch
    attention: ScoredAttention
    bank: ModuleBank


_current_pass: ContextVar[_Pass] = ContextVar("current_pass")


class TransformersRunner:
    """Stateless but for what it was made of. ``model`` must have been through :func:`adopt`."""

    def __init__(self, model: nn.Module, cache: KVCache, bank: ModuleBank) -> None:
        self._model, self._cache, self._bank = model, cache, bank
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def run(self, batch: Batch) -> torch.Tensor:
        """Compute a batch and extend the cache.

        Returns:
            Logits of the sampled tokens, ``[num_sampled, vocab_size]``, float32.
        """
        reset = _current_pass.set(_Pass(batch, ScoredAttention(self._cache, batch), self._bank))
        try:
            return self._logits(batch).float()
        finally:
            _current_pass.reset(reset)

    def _logits(self, batch: Batch) -> torch.Tensor:
        inputs = {"input_ids": batch.ids[None], "position_ids": batch.positions[None], "use_cache": False}
        if self._keeps_logits:
            logits: torch.Tensor = self._model(**inputs, logits_to_keep=batch.sampled).logits[0]
            return logits
        logits = self._model(**inputs).logits[0]
        return logits[batch.sampled]


def adopt(model: Any, linears: Iterable[str]) -> None:
    """Make a model attend through the cache, and its ``linears`` add adapters. It is of no other use afterwards."""
    model.set_attn_implementation(PAGED)
    for name in linears:
        model.get_submodule(name).register_forward_hook(partial(_add_update, name))


def _add_update(name: str, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """Hook behind a linear."""
    current = _current_pass.get()
    if current.batch.segments:
        x, by_token = inputs[0].flatten(0, -2), output.view(-1, output.shape[-1])
        current.bank.add_update(name, x, by_token, current.batch.segments)
    return output


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it, with ``[1, heads, num_tokens, head_dim]``; it gives back tokens first."""
    strange = [name for name, value in others.items() if name not in _HARMLESS and value is not None]
    if attention_mask is not None or strange:
        raise NotImplementedError(f"{type(module).__name__} attends by {strange or 'a mask of its own'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: Any = module.layer_idx
    rule = ScoreRule(scale, sliding_window, softcap, s_aux)
    by_token = [states[0].transpose(0, 1) for states in (query, key, value)]
    return _current_pass.get().attention.attend(layer, by_token[0], by_token[1], by_token[2], rule)[None], None


AttentionInterface.register(PAGED, _attend)
