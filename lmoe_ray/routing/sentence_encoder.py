"""Texts to unit vectors with a BERT encoder that we compute ourselves, on a CPU.

Tokens of several texts go through one forward pass, one text after another: nothing is padded, and no
text sees another one, so that a vector is the same to its last bit alone and in company.

Which arithmetic computes is decided by what the machine can do, never by a race of timings, so
replicas on like machines compute alike. All of it stays within ``TOLERANCE`` of float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.native.compiled_library import LibraryUnavailable
from lmoe_ray.routing.bert_weights import BertWeights, read_bert
from lmoe_ray.routing.compiled_bert import CompiledBert
from lmoe_ray.routing.encoder_tuning import EncoderTuning
from lmoe_ray.routing.flat_bert import FlatBert
from lmoe_ray.routing.text_tokens import TextTokens

logger = logging.getLogger(__name__)

#: What each element of a vector may differ from float32's, and with it a cosine of two vectors about as much.
TOLERANCE = 1e-3

#: Tokens of one forward pass: so many that reading all weights is nothing beside multiplying them.
PASS_TOKENS = 384

Forward = Callable[[NDArray[np.int32], NDArray[np.int64]], NDArray[np.float32]]


class SentenceEncoder:
    """One model in memory.

    Args:
        folder: in the layout of sentence-transformers.
        max_tokens: tokens of a text that count, special tokens included; the model's own limit caps it.
        num_threads: of the processor, in each call.
        cache_dir: where compiled libraries are kept.
        tuning: added to the model's weights.

    Raises:
        UnsupportedEncoder: the folder holds no encoder that we compute.

    Attributes:
        max_tokens: what counts in the end.
        dim: of the vectors.
    """

    def __init__(
        self, folder: Path, max_tokens: int, num_threads: int, cache_dir: Path, tuning: EncoderTuning | None = None
    ) -> None:
        weights = read_bert(folder, tuning)
        self.max_tokens = min(max_tokens, weights.max_tokens)
        self.dim = weights.hidden
        self._tokens = TextTokens(folder, self.max_tokens, len(weights.words))
        self._forward = choose_forward(weights, num_threads, cache_dir)

    def known_share(self, text: str) -> float:
        """Share of the words that are in the vocabulary, 0 to 1."""
        return self._tokens.known_share(text)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included; one above ``max_tokens`` where it has more."""
        return self._tokens.count(texts)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of all texts, ``[num_texts, dim]``, in order."""
        ids = self._tokens(texts)
        passes = [encode_together(self._forward, batch) for batch in pass_by_pass(ids)]
        return np.concatenate([np.empty((0, self.dim), np.float32), *passes])


def choose_forward(weights: BertWeights, num_threads: int, cache_dir: Path) -> Forward:
    """Our compiled arithmetic, or torch's where it cannot be compiled; one log line says which."""
    try:
        forward: Forward = CompiledBert(weights, cache_dir, num_threads)
        logger.info("sentence encoder ready arithmetic=fixed-point threads=%d", num_threads)
    except LibraryUnavailable as exc:
        forward = FlatBert(weights)
        logger.warning("sentence encoder ready arithmetic=torch, up to twice as slow, because %s", exc)
    return forward


def pass_by_pass(ids: Sequence[NDArray[np.int32]]) -> list[list[NDArray[np.int32]]]:
    """Texts in order, as many in each pass as ``PASS_TOKENS`` allows, and at least one."""
    passes: list[list[NDArray[np.int32]]] = []
    room = 0
    for text in ids:
        if len(text) > room:
            passes.append([])
            room = PASS_TOKENS
        passes[-1].append(text)
        room -= len(text)
    return passes


def encode_together(forward: Forward, ids: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    """One forward pass."""
    starts = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    return forward(np.concatenate(ids), starts)
