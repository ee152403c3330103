"""What a decoder layer does between its linears, in torch's operators: right everywhere, fast nowhere in particular.

A device with something better overrides a method: see ``cpu_ops.py`` and ``cuda_ops.py``, which are
tested against this one. One instance serves one cache and one bank; a step begins with :meth:`begin`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lmoe_ray.engine.base_model import BaseModel, Layer
from lmoe_ray.engine.batch import Batch
from lmoe_ray.engine.kv_cache import KVCache
from lmoe_ray.engine.lora import AdapterBank
from lmoe_ray.engine.model_shape import GROUPS

#: Attention masks by sliding window, one for each kind of layer of the model.
Masks = dict[int | None, torch.Tensor]


class LayerOps:
    """Tensors are ``[num_tokens, features]`` unless said otherwise."""

    def __init__(self, model: BaseModel, cache: KVCache, bank: AdapterBank) -> None:
        self.model, self.cache, self.bank = model, cache, bank
        shape = model.shape
        self._windows = frozenset(shape.windows)
        self._q_size, self._kv_size = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim

    def begin(self, batch: Batch) -> None:
        """Prepare what all layers of a step share."""
        self.batch = batch
        self._cos = self.model.cos[batch.positions][:, None]
        self._sin = self.model.sin[batch.positions][:, None]
        self._decode_masks = self._make_decode_masks(batch) if batch.num_decode else {}
        self._prefill_masks = [
            self._make_prefill_masks(start, count) for _, count, start in batch.pieces[batch.num_decode :]
        ]

    def add_norm(self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
        """Add ``delta`` to ``x`` in place; return the sum, normalised."""
        if delta is not None:
            x += delta
        return F.rms_norm(x, weight.shape, weight, self.model.shape.norm_eps)

    def attention(self, index: int, layer: Layer, qkv: torch.Tensor) -> torch.Tensor:
        """Rotate, extend the cache, attend. ``qkv`` is ``[num_tokens, (num_heads + 2 num_kv_heads) * head_dim]``."""
        sizes = [self._q_size, self._kv_size, self._kv_size]
        query, key, value = (
            part.reshape(len(qkv), -1, self.model.shape.head_dim) for part in torch.split(qkv, sizes, -1)
        )
        if layer.q_norm is not None and layer.k_norm is not None:
            query, key = self._norm_heads(query, layer.q_norm), self._norm_heads(key, layer.k_norm)
        query, key = self._rotate(query), self._rotate(key)
        self.cache.write(index, self.batch.cache_slots, key, value)
        return self.attend(index, layer.window, query).flatten(1)

    def attend(self, index: int, window: int | None, query: torch.Tensor) -> torch.Tensor:
        """``query [num_tokens, num_heads, head_dim]`` over the cache; shape of ``query``."""
        batch, parts = self.batch, []
        if batch.num_decode:
            parts.append(self._decode(index, query[: batch.num_decode], self._decode_masks[window]))
        for row, (first, count, start) in enumerate(batch.pieces[batch.num_decode :], batch.num_decode):
            mask = self._prefill_masks[row - batch.num_decode][window]
            parts.append(self._prefill(index, query[first : first + count], row, start + count, mask))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """``activation(gate) * up`` of ``[num_tokens, 2 * intermediate_size]``."""
        gate, up = gate_up.chunk(2, -1)
        return self.model.activation(gate) * up

    def add_lora(self, output: torch.Tensor, x: torch.Tensor, index: int, group: str) -> None:
        """Add every token's own low-rank update to the output of a group of linears, in place."""
        adapters = self.bank.groups[index, group]
        sizes = [self.model.shape.linear(name)[0] for name in GROUPS[group]]
        for linear, part in zip(adapters.linears, torch.split(output, sizes, -1), strict=True):
            for segment in self.batch.segments:
                rank = int(linear.ranks[segment.adapter_slot])
                if rank:
                    rows = slice(segment.first, segment.first + segment.num_tokens)
                    hidden = x[rows] @ linear.a[segment.adapter_slot - 1, :rank].T
                    part[rows] += hidden @ linear.b[segment.adapter_slot - 1, :rank]

    def _norm_heads(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, weight.shape, weight, self.model.shape.norm_eps)

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves paired as in Llama."""
        first, second = x.chunk(2, -1)
        return x * self._cos + torch.cat((-second, first), -1) * self._sin

    def _decode(self, index: int, query: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """All decoding sequences at once; the query heads that share a key-value head are one attention's queries."""
        keys, values = self.cache.read(index, self.batch.tables[: len(query)])
        grouped = query.view(len(query), keys.shape[1], -1, query.shape[2])
        return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask).flatten(1, 2)

    def _prefill(self, index: int, query: torch.Tensor, row: int, end: int, mask: torch.Tensor) -> torch.Tensor:
        keys, values = self.cache.read(index, self.batch.tables[row : row + 1])
        output = F.scaled_dot_product_attention(
            query.transpose(0, 1)[None], keys[:, :, :end], values[:, :, :end], attn_mask=mask, enable_gqa=True
        )
        return output[0].transpose(0, 1)

    def _make_decode_masks(self, batch: Batch) -> Masks:
        """``[num_decode, 1, 1, widest * block_size]``, true at positions a sequence sees."""
        ends = batch.lengths[: batch.num_decode, None]
        positions = torch.arange(batch.tables.shape[1] * self.cache.block_size, device=ends.device)
        return {
            window: (positions < ends if window is None else (positions < ends) & (positions >= ends - window))[
                :, None, None
            ]
            for window in self._windows
        }

    def _make_prefill_masks(self, start: int, count: int) -> Masks:
        """``[count, start + count]``, true where a query sees a key."""
        queries = torch.arange(start, start + count, device=self.model.device)[:, None]
        keys = torch.arange(start + count, device=self.model.device)[None]
        return {
            window: keys <= queries if window is None else (keys <= queries) & (keys > queries - window)
            for window in self._windows
        }
