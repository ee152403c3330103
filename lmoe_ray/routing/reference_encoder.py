"""Texts to unit vectors with sentence-transformers itself: for models that are not ours to compute, and on GPUs.

On a CPU texts run one by one: measured with all-MiniLM-L6-v2 on one thread, 96 prompts took 33 ms each
alone, 29 to 33 in sorted batches of 8 and 55 in batches of 32. So a batch would gain nothing, and without one the
vector of a text does not depend, not even in its last bit, on what else is waiting. On a GPU texts of
similar length share a batch. It is also the oracle that our own arithmetic is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from lmoe_ray.errors import ModelSourceError
from lmoe_ray.routing.known_words import NUM_ASSUMED, known_share
from lmoe_ray.routing.text_tokens import shorten

#: Texts in one forward pass.
BATCH_SIZES = {"cpu": 1, "cuda": 32}


class ReferenceEncoder:
    """One model in memory; only safetensors weights are opened, and no code in its folder runs.

    Args:
        folder: any sentence-transformers model.
        max_tokens: tokens of a text that count, special tokens included; the model's own limit caps it.
        device: ``cpu`` or ``cuda``.
        batch_size: texts in one forward pass; ``None``: of ``BATCH_SIZES``.

    Raises:
        ModelSourceError: the folder holds no usable model.
    """

    def __init__(self, folder: Path, max_tokens: int, device: str = "cpu", batch_size: int | None = None) -> None:
        self._model = _load(folder, device)
        self.max_tokens = min(max_tokens, self._model.max_seq_length or max_tokens)
        self._model.max_seq_length = self.max_tokens
        self._batch_size = batch_size or BATCH_SIZES[torch.device(device).type]
        self.dim: int = self._model.get_embedding_dimension() or 0

    def known_share(self, text: str) -> float:
        """Share of the words that are in the vocabulary, 0 to 1; 1 where the tokenizer does not tell its words."""
        tokenizer = getattr(self._model.tokenizer, "backend_tokenizer", None)
        return 1.0 if tokenizer is None else known_share(tokenizer, shorten(text, self.max_tokens), NUM_ASSUMED)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included; one above ``max_tokens`` where it has more."""
        ids = self._model.tokenizer([shorten(text, self.max_tokens) for text in texts], truncation=False)["input_ids"]
        return [min(len(one), self.max_tokens + 1) for one in ids]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of all texts, ``[num_texts, dim]``, in order."""
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        vectors: NDArray[np.float32] = self._model.encode(
            [shorten(text, self.max_tokens) for text in texts],
            batch_size=self._batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return vectors


def _load(folder: Path, device: str) -> SentenceTransformer:
    try:
        return SentenceTransformer(
            str(folder), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError, KeyError) as exc:
        raise ModelSourceError(
            str(folder), f"is no sentence-transformers model with safetensors weights: {exc}"
        ) from exc
