"""Texts to unit vectors for the router, by the fastest encoder that the model and the machine allow.

A BERT encoder on a CPU is computed by ourselves, everything else by sentence-transformers. Either way a text's
vector does not depend on what else is waiting, so the same input leads to the same decision.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lmoe_ray.routing.bert_weights import UnsupportedEncoder
from lmoe_ray.routing.embed_queue import Batch, EmbedQueue
from lmoe_ray.routing.encoder_tuning import EncoderTuning, tuning_for
from lmoe_ray.routing.expert_index import Progress
from lmoe_ray.routing.reference_encoder import ReferenceEncoder
from lmoe_ray.routing.sentence_encoder import SentenceEncoder
from lmoe_ray.routing.text_tokens import shorten
from lmoe_ray.routing.vector_cache import VectorCache

logger = logging.getLogger(__name__)

#: Where settings keep what is derived, unless they say otherwise.
CACHE_DIR = Path("~/.cache/lmoe_ray")

#: What waits together is embedded together. On a CPU only short texts share a pass: long ones gain nothing by it,
#: and the first would wait for the last.
BATCHES = {"cpu": Batch(max_texts=8, max_chars=400), "cuda": Batch(max_texts=32, max_chars=32 * 8192)}

#: Vectors of queries kept: 6 MB of them at 384 dimensions.
MAX_CACHED_VECTORS = 4096

_PROGRESS_EVERY = 64
_IDENTITY_SUFFIXES = (".json", ".txt", ".safetensors", ".model")


class TextEncoder(Protocol):
    """Texts to unit vectors, ``[num_texts, dim]``."""

    max_tokens: int
    dim: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...

    def known_share(self, text: str) -> float: ...


class Embedder:
    """One embedding model in memory.

    Args:
        folder: a sentence-transformers model; only safetensors weights are opened, and no code in it runs.
        max_tokens: tokens of a text that count, special tokens included; the model's own limit caps it.
        device: ``cpu`` or ``cuda``.
        num_threads: CPU threads of torch in this whole process; ``None`` leaves them as they are.
        cache_dir: compiled libraries are kept in its folder ``kernels``.

    Raises:
        ModelSourceError: the folder holds no usable model.

    Attributes:
        identity: digest of the model and its tuning. It leaves out the arithmetic, because every one we choose from
            stays within ``sentence_encoder.TOLERANCE`` of float32: an index built by one serves queries embedded by
            another, and only decisions that hang on the third digit of a cosine can differ between unlike machines.
        space: the same.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_tokens: int = 256,
        device: str = "cpu",
        num_threads: int | None = None,
        cache_dir: Path = CACHE_DIR,
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        digest = model_digest(folder)
        tuning = tuning_for(digest)
        self._encoder = choose_encoder(folder, max_tokens, device, cache_dir.expanduser(), tuning)
        is_tuned = tuning is not None and not isinstance(self._encoder, ReferenceEncoder)
        self.max_tokens, self.dim = self._encoder.max_tokens, self._encoder.dim
        self.identity = self.space = identity_of(digest, tuning if is_tuned else None)
        self._recent = VectorCache(MAX_CACHED_VECTORS)
        self._queue = EmbedQueue(self._encoder.encode, BATCHES[torch.device(device).type])

    async def embed_one(self, text: str) -> NDArray[np.float32]:
        """The unit vector of ``text``, ``[dim]``, read-only; computed beside the event loop unless it is still here."""
        text = shorten(text, self.max_tokens)
        if (known := self._recent.get(text)) is not None:
            return known
        return self._recent.put(text, await self._queue.embed_one(text))

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float32]:
        """Unit vectors of all texts, ``[num_texts, dim]``, in order; 5 to 50 ms a text on one CPU thread."""
        return embed_in_steps(self._encoder, texts, progress)

    def known_share(self, text: str) -> float:
        """Share of the words that are in the model's vocabulary, 0 to 1, see :mod:`lmoe_ray.routing.known_words`."""
        return self._encoder.known_share(text)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included; one above ``max_tokens`` where it has more."""
        return self._encoder.count_tokens(texts)

    def close(self) -> None:
        """Let the worker thread go."""
        self._queue.close()


def choose_encoder(
    folder: Path, max_tokens: int, device: str, cache_dir: Path, tuning: EncoderTuning | None = None
) -> TextEncoder:
    """Ours if it can be; see the module. sentence-transformers' knows no tuning.

    Raises:
        ModelSourceError: neither is possible.
    """
    if torch.device(device).type == "cpu":
        try:
            return SentenceEncoder(folder, max_tokens, torch.get_num_threads(), cache_dir / "kernels", tuning)
        except UnsupportedEncoder as exc:
            logger.warning("embedding is left to sentence-transformers, which is slower model=%s: %s", folder.name, exc)
    return ReferenceEncoder(folder, max_tokens, device)


def embed_in_steps(encoder: TextEncoder, texts: Sequence[str], progress: Progress | None) -> NDArray[np.float32]:
    """Short texts first, so that texts of similar length meet in a batch; ``progress`` is told after every few."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = np.empty((len(texts), encoder.dim), dtype=np.float32)
    for start in range(0, len(order), _PROGRESS_EVERY):
        rows = order[start : start + _PROGRESS_EVERY]
        vectors[rows] = encoder.encode([texts[i] for i in rows])
        if progress is not None:
            progress(start + len(rows), len(order))
    return vectors


def identity_of(digest: str, tuning: EncoderTuning | None) -> str:
    """Of a model with this digest, and of its tuning if it has one."""
    return digest if tuning is None else f"{digest}-{tuning.digest}"


def model_digest(folder: Path) -> str:
    """Digest of everything that shapes the vectors: weights, vocabulary, configuration. About 0.1 s for 90 MB."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.suffix in _IDENTITY_SUFFIXES and f.is_file()):
        with file.open("rb") as stream:
            digest.update(f"{file.relative_to(folder).as_posix()}\n".encode())
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
