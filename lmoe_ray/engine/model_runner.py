"""One forward pass over a flat batch of tokens that belong to different sequences and adapters.

The arithmetic follows transformers' modeling_llama.py operation by operation, which is the oracle of
the tests; what differs is that there is no batch dimension, that keys and values go to and come from
the engine's own cache, and that every linear may add each token's own adapter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lmoe_ray.engine.attention import decode_attention, prefill_attention
from lmoe_ray.engine.base_model import BaseModel, Layer
from lmoe_ray.engine.batch import Batch
from lmoe_ray.engine.kv_cache import KVCache
from lmoe_ray.engine.lora import AdapterBank


class ModelRunner:
    """Stateless but for the model's weights."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model
        self._shape = model.shape

    def run(self, batch: Batch, cache: KVCache, bank: AdapterBank) -> torch.Tensor:
        """Compute a batch and extend the cache.

        Returns:
            Logits of the sampled tokens, ``[num_sampled, vocab_size]``, float32.
        """
        return _ForwardPass(self._model, batch, cache, bank).logits()


class _ForwardPass:
    """One pass: what every layer of it needs."""

    def __init__(self, model: BaseModel, batch: Batch, cache: KVCache, bank: AdapterBank) -> None:
        self._model, self._shape = model, model.shape
        self._batch, self._cache, self._bank = batch, cache, bank
        self._cos = model.cos[batch.positions][:, None]
        self._sin = model.sin[batch.positions][:, None]

    def logits(self) -> torch.Tensor:
        x = F.embedding(self._batch.ids, self._model.embedding)
        for index, layer in enumerate(self._model.layers):
            x = x + self._attention(index, layer, self._norm(x, layer.attention_norm))
            x = x + self._mlp(index, layer, self._norm(x, layer.mlp_norm))
        x = self._norm(x[self._batch.sampled], self._model.final_norm)
        return self._model.lm_head(x).float()

    def _attention(self, index: int, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            self._project(index, layer, name, x).view(len(x), -1, self._shape.head_dim)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        if layer.q_norm is not None and layer.k_norm is not None:
            query, key = self._norm(query, layer.q_norm), self._norm(key, layer.k_norm)
        query, key = self._rotate(query), self._rotate(key)
        self._cache.write(index, self._batch.rows, self._batch.positions, key, value)
        return self._project(index, layer, "o_proj", self._attend(index, layer, query).flatten(1))

    def _attend(self, index: int, layer: Layer, query: torch.Tensor) -> torch.Tensor:
        batch, keys, values = self._batch, self._cache.keys[index], self._cache.values[index]
        parts = []
        if batch.decode is not None:
            parts.append(decode_attention(query[: batch.num_decode], keys, values, batch.decode, layer.window))
        for span in batch.prefill:
            part = query[span.first : span.first + span.num_tokens]
            parts.append(prefill_attention(part, keys, values, span, layer.window))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _mlp(self, index: int, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        gate = self._model.activation(self._project(index, layer, "gate_proj", x))
        return self._project(index, layer, "down_proj", gate * self._project(index, layer, "up_proj", x))

    def _project(self, index: int, layer: Layer, name: str, x: torch.Tensor) -> torch.Tensor:
        output = layer.linears[name](x)
        if self._batch.mix is None:
            return output
        return self._bank.add(output, x, (index, name), self._batch.mix)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, weight.shape, weight, self._shape.norm_eps)

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves paired as in Llama."""
        first, second = x.chunk(2, -1)
        return x * self._cos + torch.cat((-second, first), -1) * self._sin
