"""The adapter bank of a model that transformers computes: stacked matrices by the names of its modules.

Which modules adapters name is only known when they come, so a module gets its memory with the first
adapter that changes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lmoe_ray.engine.adaptable_linears import AdaptableLinear
from lmoe_ray.engine.adapter_weights import AdapterWeights
from lmoe_ray.engine.batch import Segment
from lmoe_ray.engine.lazy_memory import lazy_zeros


class _ModuleAdapters:
    """All adapters of one module. ``ranks`` are on the host, by adapter slot; 0: not touched by that adapter."""

    def __init__(
        self, linear: AdaptableLinear, num_slots: int, rank: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.a = lazy_zeros((num_slots, rank, linear.in_features), dtype, device)
        self.b = lazy_zeros((num_slots, rank, linear.out_features), dtype, device)
        self.ranks = [0] * (num_slots + 1)


class ModuleBank:
    """Written between steps by :meth:`load`, read by every step. Slot 0 is the base and takes no memory."""

    def __init__(
        self,
        linears: Mapping[str, AdaptableLinear],
        num_slots: int,
        rank: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._linears, self._num_slots, self._rank = linears, num_slots, rank
        self._dtype, self._device = dtype, device
        self._modules: dict[str, _ModuleAdapters] = {}

    def load(self, slot: int, weights: AdapterWeights) -> None:
        """Write an adapter over whatever the slot held."""
        for adapters in self._modules.values():
            adapters.ranks[slot] = 0
        for name, (a, b) in weights.matrices.items():
            adapters = self._adapters_of(str(name))
            adapters.a[slot - 1, : len(a)].copy_(a, non_blocking=True)
            adapters.b[slot - 1, : len(b)].copy_(b, non_blocking=True)
            adapters.ranks[slot] = len(a)

    def add_update(self, name: str, x: torch.Tensor, output: torch.Tensor, segments: tuple[Segment, ...]) -> None:
        """Add every token's own low-rank update to a module's output, in place.

        Args:
            x: ``[num_tokens, in_features]``.
            output: ``[num_tokens, out_features]``.
        """
        adapters = self._modules.get(name)
        if adapters is None:
            return
        for segment in segments:
            slot = segment.adapter_slot
            rank = adapters.ranks[slot]
            if rank:
                rows = slice(segment.first, segment.first + segment.num_tokens)
                output[rows] += x[rows] @ adapters.a[slot - 1, :rank].T @ adapters.b[slot - 1, :rank]

    def _adapters_of(self, name: str) -> _ModuleAdapters:
        if name not in self._modules:
            self._modules[name] = _ModuleAdapters(
                self._linears[name], self._num_slots, self._rank, self._dtype, self._device
            )
        return self._modules[name]


def module_bank_bytes(linears: Mapping[str, AdaptableLinear], num_slots: int, rank: int, dtype: torch.dtype) -> int:
    """Memory of a bank whose adapters target every module at this rank."""
    features = sum(linear.out_features + linear.in_features for linear in linears.values())
    return num_slots * rank * features * dtype.itemsize
