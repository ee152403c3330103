"""The vectors of recent queries: a text that comes again, as in a retry or a playground, costs no forward pass.

Texts are kept as digests only, so no conversation stays in memory because it was routed.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray


class VectorCache:
    """At most ``max_vectors`` of them; the one unused for longest goes first. Not for several threads at once."""

    def __init__(self, max_vectors: int) -> None:
        self._max_vectors = max_vectors
        self._vectors: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, text: str) -> NDArray[np.float32] | None:
        """The vector of ``text``, shared and therefore read-only, if it is here."""
        key = text_digest(text)
        if (vector := self._vectors.get(key)) is not None:
            self._vectors.move_to_end(key)
        return vector

    def put(self, text: str, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Keep a copy of ``vector`` and return it, as :meth:`get` will."""
        kept = vector.copy()
        kept.setflags(write=False)
        self._vectors[text_digest(text)] = kept
        if len(self._vectors) > self._max_vectors:
            self._vectors.popitem(last=False)
        return kept


def text_digest(text: str) -> bytes:
    """Sixteen bytes in place of a text of any length."""
    # JSON may bring half a surrogate pair, which strict UTF-8 refuses.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
