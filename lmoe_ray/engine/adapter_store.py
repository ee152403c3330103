"""Adapters in host memory: read once, shared, counted, dropped when the last user is gone.

Reading and checking happen in a worker thread, one adapter after another, so that a new expert does
not stop those that answer. Sequences hold a count on their adapter from before they queue until
they finish; an adapter being dropped takes no new ones.
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
        return self.unused is None and self.weights.done() and self.weights.exception() is None


class AdapterStore:
    """Safe to use from any thread. ``read`` turns an expert into checked weights, in a thread of the store."""

    def __init__(self, read: Callable[[Expert], AdapterWeights]) -> None:
        self._read = read
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="lmoe-adapter-reader")
        self._lock = threading.RLock()  # a read that has failed already reports so while it is being registered
        self._entries: dict[str, _Entry] = {}

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
                entry.weights.add_done_callback(lambda future: self._forget_failure(expert.digest, future))
            elif entry.unused is not None:
                raise NotReady(f"expert {expert.name} (being dropped)")
            return entry.weights

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
        with self._lock:
            entry = self._entries[digest]
            entry.num_users -= 1
            assert entry.num_users >= 0, f"{digest} released more often than acquired. This is a bug."
            unused = None if entry.num_users else entry.unused
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

    def _forget_failure(self, digest: str, future: Future[AdapterWeights]) -> None:
        if future.cancelled() or future.exception() is not None:
            self.remove(digest)
