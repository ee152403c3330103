"""A layer's operators on a GPU: a few launches per layer, none of which depends on who is in the batch."""

from __future__ import annotations

import torch

from lmoe_ray.engine import cuda_kernels, lora_kernels
from lmoe_ray.engine.base_model import BaseModel, Layer
from lmoe_ray.engine.batch import Batch
from lmoe_ray.engine.kv_cache import KVCache
from lmoe_ray.engine.layer_ops import LayerOps
from lmoe_ray.engine.lora import AdapterBank
from lmoe_ray.engine.lora_tiles import DECODE_TILE, PREFILL_TILE, LoraTiles, cut_tiles
from lmoe_ray.engine.padded_batch import PaddedBatch
from lmoe_ray.engine.paged_attention import PagedAttention


class CudaOps(LayerOps):
    """Tensors that come from linears are contiguous."""

    def __init__(self, model: BaseModel, cache: KVCache, bank: AdapterBank, paged: PagedAttention | None) -> None:
        """``paged``: attention over the cache as it lies; ``None``: gather its blocks."""
        super().__init__(model, cache, bank)
        self._paged = paged

    def begin(self, batch: Batch) -> None:
        if self._paged is None:
            super().begin(batch)
        else:
            self.batch = batch
            self._paged.begin(batch)
        self._tiles = batch.tiles if isinstance(batch, PaddedBatch) else self._cut_tiles(batch)

    def add_norm(self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
        return cuda_kernels.add_norm(x, delta, weight, self.model.shape.norm_eps)

    def attention(self, index: int, layer: Layer, qkv: torch.Tensor) -> torch.Tensor:
        norms = None if layer.q_norm is None or layer.k_norm is None else (layer.q_norm, layer.k_norm)
        cuda_kernels.rotate_and_store(
            qkv,
            (self.model.cos, self.model.sin),
            self.batch.positions,
            self.batch.cache_slots,
            norms,
            (self.cache.keys[index], self.cache.values[index]),
            self.model.shape.norm_eps,
        )
        query = qkv[:, : self._q_size].view(len(qkv), -1, self.model.shape.head_dim)
        return self.attend(index, layer.window, query).flatten(1)

    def attend(self, index: int, window: int | None, query: torch.Tensor) -> torch.Tensor:
        if self._paged is None:
            return super().attend(index, window, query)
        return self._paged(index, window, query)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        if self.model.shape.activation != "silu":
            return super().gate(gate_up)
        return cuda_kernels.silu_gate(gate_up)

    def add_lora(self, output: torch.Tensor, x: torch.Tensor, index: int, group: str) -> None:
        adapters = self.bank.groups[index, group]
        lora_kernels.add_lora(output, x, adapters.a, [linear.b for linear in adapters.linears], self._tiles)

    def _cut_tiles(self, batch: Batch) -> LoraTiles:
        tile_tokens = DECODE_TILE if batch.num_decode == batch.num_tokens else PREFILL_TILE
        table = torch.from_numpy(cut_tiles(batch.segments, tile_tokens))
        return LoraTiles(table.to(self.model.device, non_blocking=True), tile_tokens)
