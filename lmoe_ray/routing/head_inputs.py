"""What the linear heads look at: words and pieces of words, form, and meaning, brought to one scale.

The scale of form features is fixed, taken once from many prompts, and shipped: so a sample's inputs never
change, and the head that came with the program and those fitted here see the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.form_cues import NUM_FORM_FEATURES
from lmoe_ray.routing.text_features import NUM_TEXT_FEATURES, features_of

Inputs = NDArray[np.float32]

#: Mean and standard deviation of every form feature, ``[2, NUM_FORM_FEATURES]``.
SCALE_FILE = Path(__file__).with_name("form_scale.npy")

#: Weight of the form features beside unit vectors of words and meaning; they are many and each is strong.
_FORM_WEIGHT = 0.1
_MAX_DEVIATIONS = 4.0
_MIN_DEVIATION = 1e-2
_NUM_HASHED = NUM_TEXT_FEATURES - NUM_FORM_FEATURES


def head_inputs(texts: Sequence[str], vectors: NDArray[np.float32]) -> Inputs:
    """``[num_texts, NUM_TEXT_FEATURES + dim]`` from texts and their embeddings ``[num_texts, dim]``."""
    return with_vectors(text_inputs(texts), vectors)


def with_vectors(inputs: Inputs, vectors: NDArray[np.float32]) -> Inputs:
    """What :func:`text_inputs` says of texts, and their embeddings ``[num_texts, dim]``."""
    return np.concatenate([inputs, vectors], axis=1, dtype=np.float32)


def text_inputs(texts: Sequence[str]) -> Inputs:
    """``[num_texts, NUM_TEXT_FEATURES]``: what needs no embedding; about a millisecond a text."""
    features = features_of(texts)
    mean, deviation = _form_scale()
    form = np.clip((features[:, _NUM_HASHED:] - mean) / deviation, -_MAX_DEVIATIONS, _MAX_DEVIATIONS)
    return np.concatenate([features[:, :_NUM_HASHED], _FORM_WEIGHT * form], axis=1, dtype=np.float32)


def measure_form_scale(texts: Sequence[str]) -> NDArray[np.float32]:
    """What ``SCALE_FILE`` holds, from many and varied prompts."""
    form = features_of(texts)[:, _NUM_HASHED:]
    return np.stack([form.mean(axis=0), form.std(axis=0) + _MIN_DEVIATION])


@cache
def _form_scale() -> NDArray[np.float32]:
    return np.asarray(np.load(SCALE_FILE, allow_pickle=False))
