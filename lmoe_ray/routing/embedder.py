"""Texts to unit vectors, with a sentence-transformers model. The only file of this floor that loads torch.

On a CPU texts run one by one: measured with all-MiniLM-L6-v2 on one thread, 96 prompts took 33 ms each
alone, 29 to 33 ms in sorted batches of 8 and 55 ms in batches of 32. So a batch would gain nothing, and without
one the vector of a text does not depend, not even in its last bit, on what else is waiting. On a GPU
texts of similar length share a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from lmoe_ray.errors import ModelSourceError
from lmoe_ray.routing.embed_queue import EmbedQueue
from lmoe_ray.routing.expert_index import Progress

#: Texts in one forward pass.
BATCH_SIZES = {"cpu": 1, "cuda": 32}

# Tokenizers read a text to its end before they cut it, so that megabytes would cost seconds. English
# has about 4 characters a token; whitespace in code, the thinnest kind, stays well below 32.
_MAX_CHARS_PER_TOKEN = 32

_PROGRESS_EVERY = 64
_IDENTITY_SUFFIXES = (".json", ".txt", ".safetensors", ".model")


class Embedder:
    """One embedding model in memory.

    Args:
        folder: a sentence-transformers model; only safetensors weights are opened, and no code in it runs.
        max_tokens: tokens of a text that count, special tokens included; the model's own limit caps it.
        device: ``cpu`` or ``cuda``.
        num_threads: CPU threads of torch in this whole process; ``None`` leaves them as they are.

    Raises:
        ModelSourceError: the folder holds no usable model.
    """

    def __init__(
        self, folder: Path, *, max_tokens: int = 256, device: str = "cpu", num_threads: int | None = None
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._model = _load(folder, device)
        self.max_tokens = min(max_tokens, self._model.max_seq_length or max_tokens)
        self._model.max_seq_length = self.max_tokens
        self._batch_size = BATCH_SIZES[torch.device(device).type]
        self._queue = EmbedQueue(self.embed, self._batch_size)
        self.identity = _identity(folder)

    async def embed_one(self, text: str) -> NDArray[np.float32]:
        """The unit vector of ``text``, ``[dim]``, computed beside the event loop."""
        return await self._queue.embed_one(text)

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float32]:
        """Unit vectors of all texts, ``[num_texts, dim]``, in order; 10 to 70 ms a text on one CPU thread."""
        cut = [text[: self.max_tokens * _MAX_CHARS_PER_TOKEN] for text in texts]
        order = sorted(range(len(cut)), key=lambda i: len(cut[i]))
        vectors = np.empty((len(cut), self._model.get_embedding_dimension() or 0), dtype=np.float32)
        for start in range(0, len(order), _PROGRESS_EVERY):
            rows = order[start : start + _PROGRESS_EVERY]
            vectors[rows] = self._model.encode(
                [cut[i] for i in rows],
                batch_size=self._batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
            if progress is not None:
                progress(start + len(rows), len(order))
        return vectors

    def close(self) -> None:
        """Let the worker thread go."""
        self._queue.close()


def _load(folder: Path, device: str) -> SentenceTransformer:
    try:
        return SentenceTransformer(
            str(folder), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError, KeyError) as exc:
        raise ModelSourceError(
            str(folder), f"is no sentence-transformers model with safetensors weights: {exc}"
        ) from exc


def _identity(folder: Path) -> str:
    """Digest of everything that shapes the vectors: weights, vocabulary, configuration. About 0.1 s for 90 MB."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.suffix in _IDENTITY_SUFFIXES and f.is_file()):
        with file.open("rb") as stream:
            digest.update(f"{file.relative_to(folder).as_posix()}\n".encode())
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
