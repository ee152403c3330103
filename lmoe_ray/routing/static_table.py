"""A vector per vocabulary token, taken from a sentence encoder once, so that a text's vector is a mean of looked-up rows.

Every token alone goes through the encoder; the vectors are centred, rotated to their 256 main
directions, and weighted so that frequent tokens count less. What is lost is what words mean beside each other.
Source: Model2Vec (Tulkens and van Dongen 2024), with the weighting of Arora et al. (ICLR 2017): a / (a + p).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

#: Directions kept, of the encoder's 384 or more.
STATIC_DIM = 256

#: A token of this probability counts half.
HALF_WEIGHT_PROBABILITY = 1e-4

#: Part of the file's name: raise when the table would come out differently.
TABLE_FORMAT = 1

Table = NDArray[np.float32]


def load_or_distil(name: str, cache_dir: Path, distil: Callable[[], Table]) -> Table:
    """The table ``[vocabulary, dim]``, from disk if it is there.

    Args:
        name: of the model; two models must have two names.
        cache_dir: read and written; a table takes 31 MB.
        distil: called if there is none; about half a minute on one CPU thread.
    """
    file = cache_dir / f"{name}-{TABLE_FORMAT}.npy"
    try:
        return np.asarray(np.load(file, allow_pickle=False), dtype=np.float32)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError) as exc:
        logger.warning("static table is damaged and distilled again file=%s problem=%s", file, exc)
    started_s = time.monotonic()
    table = distil()
    logger.info("static table distilled tokens=%d duration_s=%.1f", len(table), time.monotonic() - started_s)
    _try_to_save(file, table)
    return table


def reduce(vectors: Table, frequency_ranks: NDArray[np.int64]) -> Table:
    """Vectors of single tokens ``[vocabulary, hidden]`` as a table ``[vocabulary, STATIC_DIM or less]``.

    Args:
        vectors: of all tokens, in the order of their ids.
        frequency_ranks: of each token in running text, from 1; frequencies follow Zipf's law.
    """
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    directions = directions[:, ::-1][:, :STATIC_DIM]
    # An eigenvector's sign is the library's whim; the largest element is made positive.
    directions *= np.sign(np.take_along_axis(directions, np.abs(directions).argmax(0)[np.newaxis], axis=0))
    probabilities = 1 / (frequency_ranks * np.sum(1 / np.unique(frequency_ranks)))
    weights = HALF_WEIGHT_PROBABILITY / (HALF_WEIGHT_PROBABILITY + probabilities)
    return ((centred @ directions) * weights[:, np.newaxis]).astype(np.float32)


def mean_of_rows(table: Table, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Unit vector ``[dim]`` of a text with these tokens; of one without any, the first axis."""
    vector = table[ids].sum(axis=0)
    length = float(np.linalg.norm(vector))
    if length == 0:
        return np.eye(1, table.shape[1], dtype=np.float32)[0]
    return np.asarray(vector / length, dtype=np.float32)


def _try_to_save(file: Path, table: Table) -> None:
    """Beside the target, then renamed: a reader sees all of it or nothing."""
    aside = file.with_name(f".{file.name}.{uuid4().hex}.npy")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(aside, table)
        os.replace(aside, file)
    except OSError as exc:
        logger.warning("static table not cached, the next start distils again file=%s problem=%s", file, exc)
        aside.unlink(missing_ok=True)
