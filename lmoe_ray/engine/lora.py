"""The adapter bank: every adapter that is on the device, in one allocation, and the update they add.

Linears of one group share their input, so their A matrices lie together: ``A [num_slots, places * rank, in]``
for a group, ``B [num_slots, rank, out]`` for each of its linears. Slot 0, the base, takes no memory:
slot ``s`` is stacked at ``s - 1``. How tokens of different adapters meet these matrices is up to the
layer's operators: row by row in a CPU's kernel, as stacked or grouped products on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lmoe_ray.engine.adapter_weights import AdapterWeights
from lmoe_ray.engine.lazy_memory import lazy_zeros
from lmoe_ray.engine.model_shape import GROUPS, LINEARS, ModelShape


@dataclass(frozen=True, slots=True)
class LinearAdapters:
    """All adapters of one linear.

    Attributes:
        a: ``[num_slots, rank, in]``, a part of its group's stack.
        b: ``[num_slots, rank, out]``.
        ranks: ``[num_slots + 1]``, int64, on the host, by adapter slot; 0: not touched by that adapter.
    """

    a: torch.Tensor
    b: torch.Tensor
    ranks: torch.Tensor


@dataclass(frozen=True, slots=True)
class GroupAdapters:
    """All adapters of one group of linears, ``a [num_slots, num_linears * rank, in]``."""

    a: torch.Tensor
    linears: tuple[LinearAdapters, ...]


class AdapterBank:
    """Written between steps by :meth:`load`, read by every step.

    Attributes:
        rank: of the widest adapter that fits; narrower ones are padded with zeros.
        groups: by ``(layer, name of the group)``.
    """

    def __init__(
        self, shape: ModelShape, num_slots: int, rank: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_slots, self.rank = num_slots, rank
        memory = lazy_zeros((bank_bytes(shape, num_slots, rank, dtype) // dtype.itemsize,), dtype, device)
        self._ranks = {
            (layer, name): torch.zeros(num_slots + 1, dtype=torch.int64)
            for layer in range(shape.num_layers)
            for name in LINEARS
        }
        self._at = 0
        self.groups = {
            (layer, group): self._carve(memory, shape, layer, group)
            for layer in range(shape.num_layers)
            for group in GROUPS
        }
        self._linears = {
            (layer, name): linear
            for (layer, group), adapters in self.groups.items()
            for name, linear in zip(GROUPS[group], adapters.linears, strict=True)
        }

    def load(self, slot: int, weights: AdapterWeights) -> None:
        """Write an adapter over whatever the slot held."""
        for place, linear in self._linears.items():
            a, b = weights.matrices.get(place, (linear.a[0, :0], linear.b[0, :0]))
            _overwrite(linear.a[slot - 1], a, int(linear.ranks[slot]))
            _overwrite(linear.b[slot - 1], b, int(linear.ranks[slot]))
            linear.ranks[slot] = len(a)

    def _carve(self, memory: torch.Tensor, shape: ModelShape, layer: int, group: str) -> GroupAdapters:
        names = GROUPS[group]
        stack = self._take(memory, len(names) * self.rank, shape.group(group)[1])
        linears = tuple(
            LinearAdapters(
                a=stack[:, index * self.rank : (index + 1) * self.rank],
                b=self._take(memory, self.rank, shape.linear(name)[0]),
                ranks=self._ranks[layer, name],
            )
            for index, name in enumerate(names)
        )
        return GroupAdapters(stack, linears)

    def _take(self, memory: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        begin, self._at = self._at, self._at + self.num_slots * rows * columns
        return memory[begin : self._at].view(self.num_slots, rows, columns)


def _overwrite(target: torch.Tensor, matrix: torch.Tensor, old_rank: int) -> None:
    """Only what the old adapter had beyond the new one's rank needs zeroing."""
    target[: len(matrix)].copy_(matrix, non_blocking=True)
    target[len(matrix) : old_rank] = 0


def bank_bytes(shape: ModelShape, num_slots: int, rank: int, dtype: torch.dtype) -> int:
    """Memory of a bank whose adapters may target every linear at this rank."""
    features = sum(sum(shape.linear(name)) for name in LINEARS)
    return shape.num_layers * num_slots * rank * features * dtype.itemsize
