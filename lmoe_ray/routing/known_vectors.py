"""An encoder that takes from an index what it has embedded before, so that an addition costs what is new."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmoe_ray.routing.expert_index import Encoder, ExpertIndex, Progress, Vectors


class KnownVectors:
    """``encoder``, before which ``known`` is asked; both must be of one embedder."""

    def __init__(self, encoder: Encoder, known: ExpertIndex) -> None:
        self.identity, self.space, self.max_tokens = encoder.identity, encoder.space, encoder.max_tokens
        self._encoder = encoder
        self._vectors = dict(zip(known.texts, known.vectors, strict=True))

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """``[num_texts, dim]``; ``progress`` counts the new ones."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._vectors]:
            self._vectors.update(zip(new, self._encoder.embed(new, progress), strict=True))
        return np.stack([self._vectors[text] for text in texts])

    def known_share(self, text: str) -> float:
        """As the encoder's."""
        return self._encoder.known_share(text)
