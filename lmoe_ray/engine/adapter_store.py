"""Adapters in host memory: read once, shared, counted; the least recently used go when there are too many.

Reading and checking happen in a worker thread, one adapter after another, so that a new expert does
not stop those that answer. Requests hold a count on their adapter from before they queue until
they finish; what somebody holds stays, and an adapter being dropped takes no new users.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from lmoe_ray.domain.package import Expert
from lmoe_ray.engine.adapter_weights import AdapterWeights
from lmoe_ray.errors import NotReady


@dataclass(slots=True)
class _Entry:
    name: str
    weights: Future[AdapterWeights]
    num_users: int = 0
    unused: Future[None] | None = field(default=None)

    @property
    def is_usable(self) -> bool:
        return self.unused is None and self.weights.done() and not self.has_failed

    @property
    def has_failed(self) -> bool:
        return self.weights.cancelled() or (self.weights.done() and self.weights.exception() is not None)


class AdapterStore:
    """Safe to use from any thread. ``read`` turns an expert into checked weights, in a thread of the store."""

    def __init__(self, read: Callable[[Expert], AdapterWeights], capacity: int) -> None:
        """``capacity``: adapters kept; more only while all of them are in use."""
        self._read, self._capacity = read, capacity
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="lmoe-adapter-reader")
        self._lock = threading.RLock()  # holding is loading and one thing more
        self._entries: dict[str, _Entry] = {}  # the first was used longest ago

    @property
    def digests(self) -> frozenset[str]:
        """Adapters that can be used now."""
        with self._lock:
            return frozenset(digest for digest, entry in self._entries.items() if entry.is_usable)

    def load(self, expert: Expert) -> Future[AdapterWeights]:
        """Begin to read an adapter, or join whoever has begun; a failed read can be tried again.

        Raises:
            NotReady: the adapter is being dropped.
        """
        with self._lock:
            entry = self._entries.get(expert.digest)
            if entry is None:
                entry = self._entries[expert.digest] = _Entry(expert.name, self._readers.submit(self._read, expert))
                self._make_room()
            elif entry.unused is not None:
                raise NotReady(f"expert {expert.name} (being dropped)")
            elif entry.has_failed:
                # Whoever held it meanwhile has yet to let go, so the count stays.
                entry.weights = self._readers.submit(self._read, expert)
            return entry.weights

    def hold(self, expert: Expert) -> Future[AdapterWeights]:
        """As :meth:`load`, and count one user from now on: :meth:`release` when done, also if the read fails.

        Raises:
            NotReady: the adapter is being dropped.
        """
        with self._lock:
            weights = self.load(expert)
            entry = self._entries[expert.digest] = self._entries.pop(expert.digest)
            entry.num_users += 1
            return weights

    def weights(self, digest: str) -> AdapterWeights:
        """Weights of an adapter that somebody has acquired."""
        return self._entries[digest].weights.result(timeout=0)

    def acquire(self, digest: str) -> None:
        """Count one user.

        Raises:
            NotReady: it was never loaded, or it is being dropped.
        """
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None or not entry.is_usable:
                raise NotReady(f"adapter {digest}")
            entry.num_users += 1

    def release(self, digest: str) -> None:
        """Take back one :meth:`acquire` or :meth:`hold`."""
        with self._lock:
            entry = self._entries[digest]
            entry.num_users -= 1
            assert entry.num_users >= 0, f"{digest} released more often than acquired. This is a bug."
            unused = None if entry.num_users else entry.unused
            self._make_room()
        if unused is not None:
            unused.set_result(None)

    def retire(self, digest: str) -> Future[None]:
        """Take no new users; the future is done when the last one has left. Unknown digests are done at once."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is not None and entry.unused is not None:
                return entry.unused
            unused: Future[None] = Future()
            if entry is not None:
                entry.unused = unused
            if entry is None or not entry.num_users:
                unused.set_result(None)
            return unused

    def remove(self, digest: str) -> None:
        """Free the memory of a retired adapter."""
        with self._lock:
            self._entries.pop(digest, None)

    def close(self) -> None:
        self._readers.shutdown(wait=True, cancel_futures=True)

    def _make_room(self) -> None:
        idle = [d for d, e in self._entries.items() if not e.num_users and (e.is_usable or e.has_failed)]
        for digest in idle[: max(0, len(self._entries) - self._capacity)]:
            del self._entries[digest]
