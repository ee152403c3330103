"""Texts to unit vectors by looking tokens up: below a millisecond, for routers that must cost nothing.

See :mod:`lmoe_ray.routing.static_table` for where the table comes from. Nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.errors import ModelSourceError
from lmoe_ray.routing.bert_weights import UnsupportedEncoder, read_bert
from lmoe_ray.routing.embedder import CACHE_DIR, embed_in_steps, model_digest
from lmoe_ray.routing.expert_index import Progress
from lmoe_ray.routing.sentence_encoder import choose_forward, encode_together
from lmoe_ray.routing.static_table import TABLE_FORMAT, Table, load_or_distil, mean_of_rows, reduce
from lmoe_ray.routing.text_tokens import TextTokens

#: Tokens of the vocabulary in one forward pass; each comes with two marks.
_TOKENS_AT_ONCE = 128


class StaticEmbedder:
    """As :class:`lmoe_ray.routing.embedder.Embedder`, with vectors of its own: an index of one does not fit the other.

    The first time takes about half a minute on one CPU thread; the table is kept in ``cache_dir``.

    Args:
        folder: a BERT sentence encoder, to take the token vectors from.
        max_tokens: tokens of a text that count.
        num_threads: CPU threads while the table is distilled; ``None``: all of them.
        cache_dir: tables are kept in its folder ``static``, compiled libraries in ``kernels``.

    Raises:
        ModelSourceError: the folder holds no encoder that we compute.
    """

    def __init__(
        self, folder: Path, *, max_tokens: int = 256, num_threads: int | None = None, cache_dir: Path = CACHE_DIR
    ) -> None:
        self.max_tokens = max_tokens
        digest = model_digest(folder)
        self.identity = f"{digest}-static{TABLE_FORMAT}"
        cache_dir = cache_dir.expanduser()
        try:
            self._tokens = TextTokens(folder, max_tokens)
            self._table = load_or_distil(
                digest,
                cache_dir / "static",
                lambda: distil(folder, self._tokens, num_threads or os.cpu_count() or 1, cache_dir / "kernels"),
            )
        except UnsupportedEncoder as exc:
            raise ModelSourceError(str(folder), f"gives no static table: {exc}; use the encoder itself") from exc
        self.dim = self._table.shape[1]

    async def embed_one(self, text: str) -> NDArray[np.float32]:
        """The unit vector of ``text``, ``[dim]``. Computed on the event loop: less than a thread's hand-over costs."""
        return self.encode([text])[0]

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float32]:
        """Unit vectors of all texts, ``[num_texts, dim]``, in order."""
        return embed_in_steps(self, texts, progress)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As :meth:`embed`."""
        vectors = [mean_of_rows(self._table, ids) for ids in self._tokens(texts, special=False)]
        return np.stack(vectors) if vectors else np.empty((0, self.dim), dtype=np.float32)

    def close(self) -> None:
        """There is nothing to let go."""


def distil(folder: Path, tokens: TextTokens, num_threads: int, cache_dir: Path) -> Table:
    """The table of an encoder.

    Raises:
        UnsupportedEncoder: the folder holds no encoder that we compute.
    """
    weights = read_bert(folder)
    forward = choose_forward(weights, num_threads, cache_dir)
    opening, closing = tokens([""])[0].tolist()
    texts = [np.array([opening, token, closing], dtype=np.int32) for token in range(len(weights.words))]
    batches = [texts[at : at + _TOKENS_AT_ONCE] for at in range(0, len(texts), _TOKENS_AT_ONCE)]
    vectors = np.concatenate([encode_together(forward, batch) for batch in batches])
    return reduce(vectors, frequency_ranks(tokens.vocabulary, len(vectors)))


def frequency_ranks(vocabulary: dict[str, int], size: int) -> NDArray[np.int64]:
    """Ranks from 1, ``[size]``: WordPiece lists words from the most frequent on, behind marks and single characters."""
    words = [token_id for token, token_id in vocabulary.items() if len(token) > 1 and not token.startswith("[")]
    return np.maximum(np.arange(size) - min(words, default=0), 0) + 1
