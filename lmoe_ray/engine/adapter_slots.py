"""Which adapter sits in which slot of the adapter bank. Bookkeeping only, no tensors.

A slot moves between three states::

    free --acquire--> pinned --last release--> idle --acquire by another adapter--> pinned
     ^                  ^                       |  |
     |                  +--acquire by the same--+  |
     +---------------------forget------------------+

Free slots are given out lowest first: the bank multiplies a contiguous range of slots, so adapters
that sit close together cost least.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass

BASE_SLOT = 0


@dataclass(frozen=True, slots=True)
class AcquiredSlot:
    """``must_load``: the slot holds another adapter's weights, or none, until the caller writes them."""

    slot: int
    must_load: bool


class AdapterSlots:
    """Slots ``1 … num_slots``; slot 0 is the base model and needs no acquiring."""

    def __init__(self, num_slots: int) -> None:
        self._free = list(range(1, num_slots + 1))
        self._slot_of: dict[str, int] = {}  # in order of last use, so the first idle one is the oldest
        self._pins: Counter[str] = Counter()

    @property
    def resident(self) -> frozenset[str]:
        return frozenset(self._slot_of)

    @property
    def num_pinned(self) -> int:
        return len(self._pins)

    def acquire(self, digest: str) -> AcquiredSlot | None:
        """Pin the adapter's slot once more, finding it one if needed; ``None``: all slots are pinned by others."""
        must_load = digest not in self._slot_of
        slot = self._take_slot() if must_load else self._slot_of.pop(digest)
        if slot is None:
            return None
        self._slot_of[digest] = slot
        self._pins[digest] += 1
        return AcquiredSlot(slot, must_load)

    def release(self, digest: str) -> None:
        """Take back one :meth:`acquire`. The weights stay until the slot is needed."""
        assert self._pins[digest] > 0, f"release of {digest}, which nobody holds. This is a bug."
        self._pins[digest] -= 1
        if not self._pins[digest]:
            del self._pins[digest]

    def forget(self, digest: str) -> None:
        """Free the slot of an adapter that will not be used again; it must be idle."""
        assert digest not in self._pins, f"{digest} is forgotten while in use. This is a bug."
        if (slot := self._slot_of.pop(digest, None)) is not None:
            heapq.heappush(self._free, slot)

    def _take_slot(self) -> int | None:
        if self._free:
            return heapq.heappop(self._free)
        idle = next((digest for digest in self._slot_of if digest not in self._pins), None)
        return None if idle is None else self._slot_of.pop(idle)
