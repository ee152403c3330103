"""Texts to unit vectors by looking tokens up: below a millisecond, for routers that must cost nothing.

What is lost is what words mean beside each other. Where the table comes from says
:mod:`lmoe_ray.routing.static_distillation`. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lmoe_ray.errors import ModelSourceError
from lmoe_ray.routing.bert_weights import UnsupportedEncoder, read_bert
from lmoe_ray.routing.embedder import CACHE_DIR, embed_in_steps, identity_of, model_digest
from lmoe_ray.routing.encoder_tuning import tuning_for
from lmoe_ray.routing.expert_index import Progress
from lmoe_ray.routing.sentence_encoder import choose_forward
from lmoe_ray.routing.static_distillation import Table, distil
from lmoe_ray.routing.static_table import load_or_make, vector_of
from lmoe_ray.routing.text_tokens import TextTokens

#: Part of the file's name: raise when the table would come out differently.
TABLE_FORMAT = 1

#: More texts teach little more, and cost 20 ms each.
MAX_TEXTS = 2500


class StaticEmbedder:
    """As :class:`lmoe_ray.routing.embedder.Embedder`, with vectors of its own: an index of one does not fit the other.

    They point nearly where the encoder's do, so a classifier fitted on those, like the shipped task head, reads
    them too.

    Args:
        folder: a BERT sentence encoder, to learn from.
        texts: to learn on, best the routing samples. Without any, routing is markedly worse.
        max_tokens: tokens of a text that count, special tokens included.
        num_threads: CPU threads of torch in this whole process; ``None`` leaves them as they are.
        cache_dir: tables are kept in its folder ``static``, so that only the first time takes the minute or
            two that learning costs; compiled libraries in ``kernels``.

    Raises:
        ModelSourceError: the folder holds no encoder that we compute.

    Attributes:
        identity: digest of the table itself.
        space: identity of the encoder that it was learnt from, as an ``Embedder`` of the same folder has it.
    """

    def __init__(
        self,
        folder: Path,
        texts: Sequence[str] = (),
        *,
        max_tokens: int = 256,
        num_threads: int | None = None,
        cache_dir: Path = CACHE_DIR,
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        cache_dir = cache_dir.expanduser()
        model = model_digest(folder)
        self.space = identity_of(model, tuning_for(model))
        try:
            self._table = load_or_make(
                cache_dir / "static" / f"{_digest(self.space, texts, max_tokens)}.npy",
                lambda: _learn(folder, texts, max_tokens, cache_dir / "kernels"),
            )
            self._tokens = TextTokens(folder, max_tokens, len(self._table))
        except UnsupportedEncoder as exc:
            raise ModelSourceError(str(folder), f"gives no static table: {exc}; use the encoder itself") from exc
        self.max_tokens = max_tokens
        self.dim = self._table.shape[1]
        self.identity = f"static-{hashlib.blake2b(self._table.tobytes(), digest_size=8).hexdigest()}"

    async def embed_one(self, text: str) -> NDArray[np.float32]:
        """The unit vector of ``text``, ``[dim]``. Computed on the event loop: less than a thread's hand-over costs."""
        vector: NDArray[np.float32] = self.encode([text])[0]
        return vector

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float32]:
        """Unit vectors of all texts, ``[num_texts, dim]``, in order."""
        return embed_in_steps(self, texts, progress)

    def known_share(self, text: str) -> float:
        """Share of the words that are in the vocabulary, 0 to 1."""
        return self._tokens.known_share(text)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text; one above ``max_tokens`` where it has more."""
        return self._tokens.count(texts, special=False)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As :meth:`embed`."""
        vectors = [vector_of(self._table, ids) for ids in self._tokens(texts, special=False)]
        return np.stack(vectors) if vectors else np.empty((0, self.dim), dtype=np.float32)

    def close(self) -> None:
        """There is nothing to let go."""


def _learn(folder: Path, texts: Sequence[str], max_tokens: int, kernel_dir: Path) -> Table:
    weights = read_bert(folder, tuning_for(model_digest(folder)))
    tokens = TextTokens(folder, min(max_tokens, weights.max_tokens), len(weights.words))
    forward = choose_forward(weights, torch.get_num_threads(), kernel_dir)
    # Samples lie expert after expert, so that a stride takes of each its part.
    chosen = texts[:: -(-len(texts) // MAX_TEXTS) or 1]
    return distil(forward, tokens.vocabulary, tokens(chosen), tokens([""])[0])


def _digest(space: str, texts: Sequence[str], max_tokens: int) -> str:
    """Of everything that the table is made from."""
    digest = hashlib.blake2b(f"{TABLE_FORMAT} {max_tokens} {space}".encode(), digest_size=8)
    for text in texts:
        digest.update(hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()
