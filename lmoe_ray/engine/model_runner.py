"""One forward pass over a flat batch of tokens that belong to different sequences and adapters.

The arithmetic follows transformers' modeling_llama.py, which is the oracle of the tests; what differs
is that there is no batch dimension, that keys and values go to and come from the engine's own cache,
and that every linear may add each token's own adapter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lmoe_ray.engine.batch import Batch
from lmoe_ray.engine.layer_ops import LayerOps


class ModelRunner:
    """Stateless but for what its operators hold: the model, a cache, a bank."""

    def __init__(self, ops: LayerOps) -> None:
        self._ops, self._model = ops, ops.model

    def run(self, batch: Batch) -> torch.Tensor:
        """Compute a batch and extend the cache.

        Returns:
            Logits of the sampled tokens, ``[num_sampled, vocab_size]``, float32.
        """
        ops, model = self._ops, self._model
        ops.begin(batch)
        x, delta = self._embed(batch.ids), None
        for index, layer in enumerate(model.layers):
            normed = ops.add_norm(x, delta, layer.attention_norm)
            attended = ops.attention(index, layer, self._project(index, "qkv", normed))
            delta = self._project(index, "o", attended)
            normed = ops.add_norm(x, delta, layer.mlp_norm)
            delta = self._project(index, "down", ops.gate(self._project(index, "gate_up", normed)))
        if delta is not None:
            x += delta
        return model.lm_head(ops.add_norm(x[batch.sampled], None, model.final_norm)).float()

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        x = F.embedding(ids, self._model.embedding).to(self._model.dtype)
        scale = self._model.shape.embedding_scale
        return x if scale == 1 else x * torch.tensor(scale, dtype=x.dtype)

    def _project(self, index: int, group: str, x: torch.Tensor) -> torch.Tensor:
        output = self._model.layers[index].linears[group](x)
        if self._ops.batch.segments:
            self._ops.add_lora(output, x, index, group)
        return output
