"""An index and all that is fitted on its samples: heads, calibration, and what is usual."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.routing.calibration import Calibration, calibrate, calibration_from
from lmoe_ray.routing.expert_index import Encoder, ExpertIndex
from lmoe_ray.routing.familiarity import Familiarity, familiarity_from, learn_familiarity
from lmoe_ray.routing.head_inputs import Inputs, text_inputs
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
    fitting = Fitting(index.texts)
    return fitting.calibrate(fitting.fit(index, digest, encoder), encoder)


class Fitting:
    """The steps of a fit by themselves; the first, reading the texts, needs no vectors yet.

    Args:
        texts: of the index to come, row by row.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._text_inputs = text_inputs(texts)

    def fit(self, index: ExpertIndex, digest: str, encoder: Encoder) -> FittedIndex:
        """All but the calibration."""
        started_s = time.monotonic()
        familiarity = learn_familiarity(index, Folds.of(index), encoder)
        if sum(count > 0 for count in index.num_samples_per_expert) < 2:
            return FittedIndex(index, digest, familiarity)
        heads = fit_heads(index, self._inputs(index), load_task_head(encoder.space))
        logger.info("routing heads fitted samples=%d fitted_s=%.1f", index.num_samples, time.monotonic() - started_s)
        return FittedIndex(index, digest, familiarity, heads)

    def calibrate(self, fitted: FittedIndex, encoder: Encoder) -> FittedIndex:
        """With a calibration, if there is anything to calibrate."""
        if fitted.heads is None:
            return fitted
        started_s = time.monotonic()
        index, task_head = fitted.index, load_task_head(encoder.space)
        held_out = hold_out(index, Folds.of(index), self._inputs(index), _NUM_NEIGHBOURS, task_head)
        calibration = calibrate(held_out)
        logger.info(
            "routing calibrated held_out=%d calibrated_s=%.1f", len(calibration.is_right), time.monotonic() - started_s
        )
        return replace(fitted, calibration=calibration)

    def _inputs(self, index: ExpertIndex) -> Inputs:
        return np.concatenate([self._text_inputs, index.vectors], axis=1, dtype=np.float32)
