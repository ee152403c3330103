"""A text as one vector of fixed width that needs no vocabulary: hashed words, hashed pieces of words, and its form.

Each n-gram is hashed to a place and a sign (Weinberger et al. 2009, "Feature hashing for large scale multitask
learning"), so nothing is learnt from the samples, a sample's features never change, and a router without
samples computes the same ones. Hashes are our own arithmetic, because Python's differ from process to process.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.form_cues import NUM_FORM_FEATURES, both_ends, form_features

Features = NDArray[np.float32]

#: Raise when the same text gets other features.
VERSION = 2

#: Places for words and pairs of words, and as many for pieces of 2 to 4 bytes.
NUM_PLACES = 1024
NUM_TEXT_FEATURES = 2 * NUM_PLACES + NUM_FORM_FEATURES

#: Distinct n-grams are told apart this finely before they are counted.
_NUM_BUCKETS = 1 << 15
_PIECE_SIZES = (2, 3, 4)

_WORD = re.compile(r"\w+|[^\w\s]")
_URL = re.compile(r"https?://\S+")
#: Base64 and its like: one long word tells that there is one, and nothing else.
_BLOB = re.compile(r"[A-Za-z0-9+/=_-]{80,}")
_SPACES = re.compile(r"[ \t]+")

_MIX = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(32)

_bucket_hashes = (np.arange(_NUM_BUCKETS, dtype=np.uint64) + np.uint64(1)) * _MIX
_PLACE_OF = ((_bucket_hashes >> _FOLD) % np.uint64(NUM_PLACES)).astype(np.int64)
_SIGN_OF = np.where((_bucket_hashes >> np.uint64(20)) & np.uint64(1), 1.0, -1.0)


def text_features(text: str) -> Features:
    """``[NUM_TEXT_FEATURES]``: two unit vectors of n-grams, then the form; below a millisecond for most texts."""
    seen = _BLOB.sub(" blob ", _URL.sub(" url ", both_ends(text))).lower()
    return np.concatenate([_hashed(_words(seen)), _hashed(_pieces(seen)), form_features(text)])


def features_of(texts: Sequence[str]) -> Features:
    """``[num_texts, NUM_TEXT_FEATURES]``."""
    return np.stack([text_features(text) for text in texts])


def _words(text: str) -> NDArray[np.uint64]:
    """Hashes of words and signs, and of their pairs."""
    words = np.array([zlib.crc32(word.encode()) for word in _WORD.findall(text)], dtype=np.uint64)
    return np.concatenate([words * _MIX, (words[:-1] * _MIX + words[1:]) * _MIX])


def _pieces(text: str) -> NDArray[np.uint64]:
    """Hashes of all runs of 2 to 4 bytes, a space at both ends."""
    letters = np.frombuffer(f" {_SPACES.sub(' ', text)} ".encode(), dtype=np.uint8).astype(np.uint64) + np.uint64(1)
    hashes, runs = letters, []
    for size in _PIECE_SIZES:
        hashes = (hashes[: len(letters) - size + 1] * _MIX) ^ letters[size - 1 :]
        runs.append(hashes * _MIX)
    return np.concatenate(runs)


def _hashed(hashes: NDArray[np.uint64]) -> Features:
    """Counts of n-grams, dampened and summed into signed places, at unit length; zeros if there are none."""
    # 16 bits are sorted by their digits, which is several times faster than a table of all buckets.
    buckets, counts = np.unique(((hashes >> _FOLD) % np.uint64(_NUM_BUCKETS)).astype(np.uint16), return_counts=True)
    weights = _SIGN_OF[buckets] * (1.0 + np.log(counts))
    places = np.bincount(_PLACE_OF[buckets], weights, NUM_PLACES)
    return np.asarray(places / max(float(np.linalg.norm(places)), 1e-9), dtype=np.float32)
