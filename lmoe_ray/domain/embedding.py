"""Texts asked for as vectors, and the vectors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """
    Attributes:
        request_id: joins log lines of all processes.
        texts: at least one, none empty.
        dimensions: the length that vectors must have; ``None``: whatever they have.
        truncate: cut texts that are longer than the embedder reads, instead of refusing them.
    """

    request_id: str
    texts: tuple[str, ...]
    dimensions: int | None = None
    truncate: bool = False


@dataclass(frozen=True, slots=True)
class Embeddings:
    """
    Attributes:
        embedder: name of the model they come from.
        vectors: one for each text, of length 1, as little-endian float32.
        num_tokens: that were read of all texts, special ones included.
    """

    embedder: str
    vectors: tuple[bytes, ...]
    num_tokens: int
