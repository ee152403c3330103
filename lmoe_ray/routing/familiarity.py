"""How usual a request is beside the routing samples, which no probability tells: those always add up to 1.

A request may be unusual in two ways. It lies farther from its nearest samples than samples do from those of other
groups; or the embedder does not know its words, and where it lies means nothing. Either is measured against
the samples themselves, so a package whose samples are German asks for no English.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.expert_index import Encoder, ExpertIndex, Nearest
from lmoe_ray.routing.held_out import NUM_FOLDS, Folds

Floats = NDArray[np.float64]
Sorted = NDArray[np.float32]

#: What only so small a share of the samples falls short of begins to be unusual.
UNUSUAL_SHARE = 0.02

#: Samples whose mean cosine is the nearness of a text.
NUM_NEAREST = 5

#: More texts would not move the share of ``UNUSUAL_SHARE``.
MAX_READ = 2000


@dataclass(frozen=True, slots=True)
class Familiarity:
    """What is usual.

    Attributes:
        nearness: mean cosine of samples to the 5 nearest samples outside their fold, ascending.
        known_shares: share of the words of samples that the embedder knows, ascending.
    """

    nearness: Sorted
    known_shares: Sorted

    def of(self, nearness: float, known_share: float) -> float:
        """1 usual, 0 unheard of; the less usual of the two counts."""
        return min(_usual(self.nearness, nearness), _usual(self.known_shares, known_share))

    def is_readable(self, known_share: float) -> bool:
        """Whether a text with this share of known words is usual as a text."""
        return _usual(self.known_shares, known_share) >= 1.0

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """To be kept in a file; :func:`familiarity_from` reads them."""
        return {"nearness": self.nearness, "known_shares": self.known_shares}


def familiarity_from(arrays: dict[str, NDArray[np.generic]]) -> Familiarity:
    """
    Raises:
        KeyError: an array is missing.
    """
    return Familiarity(arrays["nearness"].astype(np.float32), arrays["known_shares"].astype(np.float32))


def learn_familiarity(index: ExpertIndex, folds: Folds, encoder: Encoder) -> Familiarity:
    """From the samples, half a millisecond for each text that is read."""
    known_shares = np.array([encoder.known_share(text) for text in texts_to_read(index.texts)], dtype=np.float32)
    return Familiarity(np.sort(_nearness_across_folds(index, folds)), np.sort(known_shares))


def texts_to_read(texts: Sequence[str]) -> list[str]:
    """Those whose words are looked up: ``MAX_READ`` at most, spread evenly."""
    rows = np.linspace(0, len(texts) - 1, min(len(texts), MAX_READ)).astype(int)
    return [texts[row] for row in rows.tolist()]


def nearness_of(nearest: Nearest) -> Floats:
    """Mean cosine of the nearest samples, whoever owns them, ``[num_queries]``."""
    return _mean_of_highest(np.concatenate(nearest, axis=1))


def _usual(ascending: Sorted, value: float) -> float:
    """1, or less where nearly all of ``ascending`` lies above ``value``.

    ``value`` counts as one of them, as in a conformal test (Vovk et al. 2005): of requests like the samples, a share
    of ``UNUSUAL_SHARE * f`` at most falls below ``f``, however few samples there are. Beside fewer than 49 nothing can.
    """
    num_below = 1 + int(np.searchsorted(ascending, np.float32(value), side="right"))
    return min(1.0, num_below / (1 + len(ascending)) / UNUSUAL_SHARE)


def _nearness_across_folds(index: ExpertIndex, folds: Folds) -> Sorted:
    """``[num_rows]``; with a single fold everybody is a stranger to all others but himself."""
    vectors = index.vectors_of(folds.rows)
    if len(np.unique(folds.folds)) < 2:
        return nearness_of(index.others_of(folds.rows, NUM_NEAREST)).astype(np.float32)
    nearness = np.empty(len(vectors), np.float32)
    for fold in range(NUM_FOLDS):
        is_held_out = folds.folds == fold
        if is_held_out.any():
            nearness[is_held_out] = _mean_of_highest(vectors[is_held_out] @ vectors[~is_held_out].T)
    return nearness


def _mean_of_highest(cosines: NDArray[np.float32]) -> Floats:
    count = min(NUM_NEAREST, cosines.shape[1])
    return np.asarray(np.partition(cosines.astype(np.float64), -count, axis=1)[:, -count:].mean(axis=1))
