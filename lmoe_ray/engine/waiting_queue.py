"""Sequences that wait to be admitted, one queue per adapter, served so that a loud one does not drown the others.

Every adapter has a virtual time: the tokens it has been served. The adapter furthest behind goes
first, so a hundred requests for one expert do not stand before the first request for another. Who has
been away joins at the time of the one furthest behind among those waiting, or if nobody waits, of the
one admitted last: past idleness is no credit.

Source: start-time fair queueing (Goyal, Vin and Cheng 1996), counted in tokens as in the virtual token
counter of Sheng et al. 2023, arXiv:2401.00588.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from lmoe_ray.engine.sequence import Sequence


class WaitingQueue:
    """First come, first served within an adapter; ``None`` is the base model, an adapter like others."""

    def __init__(self) -> None:
        self._queues: dict[str | None, deque[Sequence]] = {}  # none of them empty
        self._num_served_tokens: dict[str | None, int] = {}  # the virtual times
        self._now = 0  # the virtual time at which a newcomer joins, as of the last one who did
        self._last_admitted: str | None = None

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def __iter__(self) -> Iterator[Sequence]:
        """The first sequence of each adapter, in serving order."""
        for digest in sorted(self._queues, key=self._num_served_tokens.__getitem__):
            yield self._queues[digest][0]

    def has(self, adapter_digest: str | None) -> bool:
        """Whether somebody waits for an adapter."""
        return adapter_digest in self._queues

    def add(self, sequence: Sequence) -> None:
        self._queue_of(sequence.adapter_digest).append(sequence)

    def add_first(self, sequence: Sequence) -> None:
        """Put a preempted sequence before the others of its adapter."""
        self._queue_of(sequence.adapter_digest).appendleft(sequence)

    def pop(self, sequence: Sequence) -> None:
        """Take out a sequence that is admitted."""
        self.remove(sequence)
        self._last_admitted = sequence.adapter_digest

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that is aborted. Linear in the length of its adapter's queue."""
        queue = self._queues[sequence.adapter_digest]
        queue.remove(sequence)
        if not queue:
            del self._queues[sequence.adapter_digest]

    def charge(self, adapter_digest: str | None, num_tokens: int) -> None:
        """Count tokens computed for an adapter, whether or not it has more waiting."""
        served = self._num_served_tokens
        served[adapter_digest] = served.get(adapter_digest, self._now) + num_tokens

    def _queue_of(self, digest: str | None) -> deque[Sequence]:
        if digest not in self._queues:
            self._join(digest)
        return self._queues[digest]

    def _join(self, digest: str | None) -> None:
        served = self._num_served_tokens
        if self._queues:
            self._now = min(served[waiting] for waiting in self._queues)
        else:
            self._now = max(self._now, served.get(self._last_admitted, 0))
        # An adapter the time has overtaken is forgotten: it would join at the present anyway.
        self._num_served_tokens = {d: n for d, n in served.items() if n > self._now or d in self._queues}
        self._num_served_tokens.setdefault(digest, self._now)
        self._queues[digest] = deque()
