"""An index and all that is fitted on its samples: heads, calibration, and what is usual."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.calibration import Calibration, calibrate, calibration_from
from lmoe_ray.routing.expert_index import Encoder, ExpertIndex
from lmoe_ray.routing.familiarity import Familiarity, familiarity_from, learn_familiarity
from lmoe_ray.routing.head_inputs import head_inputs
from lmoe_ray.routing.heads import Heads, fit_heads, heads_from
from lmoe_ray.routing.held_out import Folds, hold_out
from lmoe_ray.routing.task_head import load_task_head

logger = logging.getLogger(__name__)

#: Neighbours per expert that held-out samples are judged by; that of the default settings.
_NUM_NEIGHBOURS = 20

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class FittedIndex:
    """``heads`` and ``calibration`` are missing with fewer than two experts to tell apart.

    ``digest`` names the samples, the embedder and the arithmetic of all that was fitted.
    """

    index: ExpertIndex
    digest: str
    familiarity: Familiarity
    heads: Heads | None = None
    calibration: Calibration | None = None

    def arrays(self) -> dict[str, Arrays]:
        """What was fitted, to be kept in a file each; :func:`fitted_from` reads them."""
        parts = {"familiarity": self.familiarity, "heads": self.heads, "calibration": self.calibration}
        return {name: part.arrays() for name, part in parts.items() if part is not None}


def fitted_from(index: ExpertIndex, digest: str, parts: Mapping[str, Arrays]) -> FittedIndex:
    """The inverse of :meth:`FittedIndex.arrays`.

    Raises:
        KeyError, ValueError: something is missing.
    """
    heads = heads_from(parts["heads"]) if "heads" in parts else None
    calibration = calibration_from(parts["calibration"]) if "calibration" in parts else None
    return FittedIndex(index, digest, familiarity_from(parts["familiarity"]), heads, calibration)


def fit_index(index: ExpertIndex, digest: str, encoder: Encoder) -> FittedIndex:
    """Half a minute for 6,000 samples on one CPU thread: to read them, to fit the heads, and to fit them five times
    more with a fifth held out."""
    started_s = time.monotonic()
    folds = Folds.of(index)
    familiarity = learn_familiarity(index, folds, encoder)
    if sum(count > 0 for count in index.num_samples_per_expert) < 2:
        return FittedIndex(index, digest, familiarity)
    task_head = load_task_head(encoder.identity)
    inputs = head_inputs(index.texts, index.vectors)
    heads = fit_heads(index, inputs, task_head)
    fitted_s = time.monotonic()
    calibration = calibrate(hold_out(index, folds, inputs, _NUM_NEIGHBOURS, task_head))
    logger.info(
        "routing heads fitted samples=%d fitted_s=%.1f held_out=%d calibrated_s=%.1f",
        index.num_samples,
        fitted_s - started_s,
        len(calibration.is_right),
        time.monotonic() - fitted_s,
    )
    return FittedIndex(index, digest, familiarity, heads, calibration)
