"""Whether the last message of a conversation goes on with it, or turns to something else.

"Shorter, please" says nothing of who should answer, and "now a haiku about snow" says all of it. So how much the
last message counts alone, and how much together with the earlier ones, is decided for each request: by a
classifier of what the message says and how it says it, how near it lies to what was said before, and how many of its
words were used there. It was fitted once on beginnings of conversations that were written for this, and is shipped. It
knows neither experts nor samples.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.expert_index import Vectors
from lmoe_ray.routing.head_inputs import Inputs, with_vectors
from lmoe_ray.routing.linear_head import LinearHead, fit_linear_head
from lmoe_ray.routing.query import Turn

logger = logging.getLogger(__name__)

FILE = Path(__file__).with_name("turn_head.npz")

#: Beside unit vectors, of which each component is small.
_COSINE_WEIGHT = 3.0
#: What lies beyond was not in the conversations it was fitted on: earlier messages, words of them, and characters of
#: each message that are looked through for words.
_MAX_EARLIER, _MAX_EARLIER_WORDS, _MAX_CHARS = 4, 60, 2000
_WORD = re.compile(r"[^\W_]+(?:'[a-z]+)?")


@dataclass(frozen=True, slots=True)
class TurnVectors:
    """Unit vectors ``[dim]`` of :meth:`Turn.texts <lmoe_ray.routing.query.Turn.texts>`, in their order."""

    message: Vectors
    earlier: Vectors
    whole: Vectors


@dataclass(frozen=True, slots=True)
class TurnHead:
    """``head`` has two classes: turns, and goes on."""

    head: LinearHead

    def stays(self, turn: Turn, said: Inputs, vectors: TurnVectors) -> float:
        """Probability that the message goes on with what was said before; see :func:`turn_inputs`."""
        return float(np.exp(self.head.log_probabilities(turn_inputs(turn, said, vectors))[0, 1]))


def turn_inputs(turn: Turn, said: Inputs, vectors: TurnVectors) -> Inputs:
    """``[1, num_inputs]``; ``said`` is what :func:`~lmoe_ray.routing.head_inputs.text_inputs` says of the message."""
    cosines = _COSINE_WEIGHT * np.array([vectors.message @ vectors.earlier, vectors.message @ vectors.whole])
    meant = with_vectors(said, vectors.message[np.newaxis])[0]
    return np.concatenate([meant, cosines, _shared_words(turn)], dtype=np.float32)[np.newaxis]


def fit_turn_head(inputs: Inputs, stays: Sequence[bool]) -> TurnHead:
    """From the inputs of many turns ``[num_turns, num_inputs]``."""
    return TurnHead(fit_linear_head(inputs, np.array(stays, dtype=np.int64), 2))


def save_turn_head(head: TurnHead, space: str, file: Path = FILE) -> None:
    """``space`` is that of the embedder of its inputs."""
    arrays = {"weight": head.head.weight.astype(np.float16), "bias": head.head.bias}
    np.savez_compressed(file, meta=np.array(json.dumps({"space": space})), **arrays)  # type: ignore[arg-type]


@cache
def load_turn_head(space: str) -> TurnHead | None:
    """The shipped one, or ``None`` if it was fitted on vectors of another space."""
    with np.load(FILE, allow_pickle=False) as arrays:
        if json.loads(str(arrays["meta"]))["space"] != space:
            logger.info("turn head does not fit this embedder, so both views of a conversation count alike")
            return None
        return TurnHead(LinearHead(arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32)))


def _shared_words(turn: Turn) -> NDArray[np.float64]:
    """How long the message is, which shares of its words were said before and in the message before it, and how
    much was said before, up to the length of the conversations it was fitted on."""
    words = _words(turn.message)
    earlier = [set(_words(text)) for text in turn.earlier[-_MAX_EARLIER:]]
    known = set[str]().union(*earlier)
    num_words = max(len(words), 1)
    return np.array(
        [
            np.log1p(len(words)),
            sum(word in known for word in words) / num_words,
            sum(word in earlier[-1] for word in words) / num_words,
            np.log1p(len(earlier)),
            np.log1p(min(sum(map(len, earlier)), _MAX_EARLIER_WORDS)),
        ]
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text[:_MAX_CHARS].lower())
