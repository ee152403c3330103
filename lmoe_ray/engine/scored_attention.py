"""Attention of a flat batch over the cache by whatever rule a model's layers score their keys, in torch's operators.

Each piece of a batch attends to its own blocks and nothing else; decoding pieces are computed as one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lmoe_ray.engine.batch import Batch
from lmoe_ray.engine.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """How a layer turns products of queries and keys into weights.

    Attributes:
        scaling: factor of the products.
        window: tokens a query sees, itself included; ``None``: all before it.
        softcap: scores are squeezed between ``-softcap`` and ``softcap`` by a tanh, as in Gemma 2.
        sinks: ``[num_heads]``, scores of a key without value that takes its share of the weights, as in gpt-oss.
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    """Pieces of equal length, computed together: which tokens, and the blocks of each, ``[num_rows, widest]``."""

    tokens: slice
    tables: torch.Tensor


class ScoredAttention:
    """One batch over one cache. Masks are made once for each window, not for each layer."""

    def __init__(self, cache: KVCache, batch: Batch) -> None:
        self._cache, self._batch = cache, batch
        self._groups = _groups(batch, cache.block_size)
        self._masks: dict[int | None, list[torch.Tensor]] = {}

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rule: ScoreRule
    ) -> torch.Tensor:
        """Extend the cache, then attend.

        Args:
            query: ``[num_tokens, num_heads, head_dim]``, rotated.
            key: ``[num_tokens, num_kv_heads, head_dim]``, rotated.
            value: shape of ``key``.

        Returns:
            Shape of ``query``.
        """
        self._cache.write(layer, self._batch.cache_slots, key, value)
        if rule.window not in self._masks:
            self._masks[rule.window] = [self._mask(group, rule.window) for group in self._groups]
        masks = self._masks[rule.window]
        return torch.cat(
            [
                self._attend_group(layer, group, query, mask, rule)
                for group, mask in zip(self._groups, masks, strict=True)
            ]
        )

    def _attend_group(
        self, layer: int, group: _Group, query: torch.Tensor, mask: torch.Tensor, rule: ScoreRule
    ) -> torch.Tensor:
        keys, values = self._cache.read(layer, group.tables)
        by_row = query[group.tokens].reshape(len(group.tables), -1, *query.shape[1:]).transpose(1, 2)
        return attend_scored(by_row, keys, values, mask, rule).transpose(1, 2).flatten(0, 1)

    def _mask(self, group: _Group, window: int | None) -> torch.Tensor:
        """``[num_rows, 1, num_queries, num_keys]``, true where a query sees a key."""
        queries = self._batch.positions[group.tokens].view(len(group.tables), 1, -1, 1)
        keys = torch.arange(group.tables.shape[1] * self._cache.block_size, device=queries.device)
        return keys <= queries if window is None else (keys <= queries) & (keys > queries - window)


def attend_scored(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, rule: ScoreRule
) -> torch.Tensor:
    """``query [n, num_heads, num_queries, head_dim]`` over ``keys [n, num_kv_heads, num_keys, head_dim]``."""
    if rule.softcap is None and rule.sinks is None:
        return F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=rule.scaling, enable_gqa=query.shape[1] != keys.shape[1]
        )
    grouped = query.reshape(len(query), keys.shape[1], -1, *query.shape[2:])
    scores = (grouped @ keys[:, :, None].transpose(-1, -2)).float() * rule.scaling
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    weights = _weights(scores.masked_fill(~mask[:, :, None], -torch.inf), rule.sinks)
    return (weights.to(values.dtype) @ values[:, :, None]).flatten(1, 2)


def _weights(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    if sinks is None:
        return scores.softmax(-1)
    sink = sinks.float().view(1, *scores.shape[1:3], 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, sink), -1).softmax(-1)[..., :-1]


def _groups(batch: Batch, block_size: int) -> list[_Group]:
    groups = []
    if batch.num_decode:
        groups.append(_Group(slice(0, batch.num_decode), batch.tables[: batch.num_decode]))
    for row, (first, count, start) in enumerate(batch.pieces[batch.num_decode :], batch.num_decode):
        num_blocks = -(-(start + count) // block_size)
        groups.append(_Group(slice(first, first + count), batch.tables[row : row + 1, :num_blocks]))
    return groups
