"""A layer's operators on a CPU with compiled kernels: every token at its own length and with its own adapter."""

from __future__ import annotations

import ctypes

import torch

from lmoe_ray.engine.base_model import BaseModel, Layer
from lmoe_ray.engine.batch import Batch
from lmoe_ray.engine.cpu_kernels import CpuKernels, LoraPair, segments_array
from lmoe_ray.engine.kv_cache import KVCache
from lmoe_ray.engine.layer_ops import LayerOps
from lmoe_ray.engine.lora import AdapterBank, GroupAdapters


class CpuOps(LayerOps):
    """Hands addresses to the kernels; all tensors are contiguous, of the model's dtype, on the CPU."""

    def __init__(self, model: BaseModel, cache: KVCache, bank: AdapterBank, kernels: CpuKernels) -> None:
        super().__init__(model, cache, bank)
        self._kernels = kernels
        shape = model.shape
        self._layout = (shape.num_heads, shape.num_kv_heads, shape.head_dim, cache.block_size)
        self._keys = [keys.data_ptr() for keys in cache.keys]
        self._values = [values.data_ptr() for values in cache.values]
        self._tables = (model.cos.data_ptr(), model.sin.data_ptr())
        self._pairs = {place: _pairs(adapters) for place, adapters in bank.groups.items()}
        self._scale = shape.head_dim**-0.5

    def begin(self, batch: Batch) -> None:
        self.batch = batch
        segments = [(segment.first, segment.num_tokens, segment.adapter_slot) for segment in batch.segments]
        self._segments = segments_array(segments)
        self._positions = batch.positions.data_ptr()

    def add_norm(self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(x)
        addend = 0 if delta is None else delta.data_ptr()
        self._kernels.add_norm(
            x.data_ptr(), addend, weight.data_ptr(), output.data_ptr(), *x.shape, self.model.shape.norm_eps
        )
        return output

    def attention(self, index: int, layer: Layer, qkv: torch.Tensor) -> torch.Tensor:
        batch, num_tokens = self.batch, len(qkv)
        keys, values = self._keys[index], self._values[index]
        norms = [0 if norm is None else norm.data_ptr() for norm in (layer.q_norm, layer.k_norm)]
        self._kernels.rotate_and_store(
            qkv.data_ptr(),
            *self._tables,
            self._positions,
            batch.cache_slots.data_ptr(),
            *norms,
            self.model.shape.norm_eps,
            keys,
            values,
            num_tokens,
            *self._layout,
        )
        output = qkv.new_empty(num_tokens, self._q_size)
        self._kernels.attend(
            qkv.data_ptr(),
            keys,
            values,
            batch.tables.data_ptr(),
            batch.tables.shape[1],
            batch.table_rows.data_ptr(),
            self._positions,
            layer.window or 0,
            self._scale,
            output.data_ptr(),
            num_tokens,
            *self._layout,
        )
        return output

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        if self.model.shape.activation != "silu":
            return super().gate(gate_up)
        output = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        self._kernels.gate(gate_up.data_ptr(), output.data_ptr(), *output.shape)
        return output

    def add_lora(self, output: torch.Tensor, x: torch.Tensor, index: int, group: str) -> None:
        pairs = self._pairs[index, group]
        self._kernels.add_lora(
            pairs, len(pairs), self._segments, len(self._segments), x.data_ptr(), output.data_ptr(), output.shape[1]
        )


def _pairs(adapters: GroupAdapters) -> ctypes.Array[LoraPair]:
    """The kernels count slots from 0, the base, which has no matrices: addresses begin one slot early."""
    pairs, first_output = [], 0
    for linear in adapters.linears:
        item = linear.a.element_size()
        a_step, b_step = linear.a.stride(0), linear.b.stride(0)
        a, b = linear.a.data_ptr() - a_step * item, linear.b.data_ptr() - b_step * item
        in_features, out_features = linear.a.shape[2], linear.b.shape[2]
        pairs.append(LoraPair(a, b, linear.ranks.data_ptr(), a_step, b_step, in_features, out_features, first_output))
        first_output += out_features
    return (LoraPair * len(pairs))(*pairs)
