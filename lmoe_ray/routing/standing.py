"""Experts as they stand in one index: what the evidence says of a text, and what that makes of several texts.

A standing never changes. A router that learns of new samples makes another one and puts it in the old one's place, so a
request meets the samples of one moment and no mixture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.domain.decision import Candidate, Neighbour
from lmoe_ray.routing.calibration import lead_of
from lmoe_ray.routing.evidence import softmax, weights_of
from lmoe_ray.routing.expert_index import Vectors, side_by_side
from lmoe_ray.routing.familiarity import NUM_NEAREST, nearness_of
from lmoe_ray.routing.fitted_index import FittedIndex
from lmoe_ray.routing.flat_index import Found
from lmoe_ray.routing.reading import Reading
from lmoe_ray.routing.scoring import make_scorer
from lmoe_ray.routing.task_head import load_task_head
from lmoe_ray.routing.vector_cache import text_digest
from lmoe_ray.settings import RouterSettings

Floats = NDArray[np.float64]

#: Texts whose look is kept: six megabytes with ten experts.
MAX_LOOKS = 4096

_NUM_NEIGHBOURS_SHOWN = 5
_MAX_SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class Look:
    """What the evidence says of one text; arrays of floats are ``[num_experts]``, logarithms.

    ``nearest`` are cosines and rows of every expert's samples nearest to it, expert after expert, ``[num_found]``.
    """

    opinions: Mapping[str, Floats]
    log_probabilities: Floats
    nearest: Found
    familiarity: float
    is_readable: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What it says of a request.

    Attributes:
        candidates: best first.
        confidence: probability that the first one is right, as far as that is known.
        familiarity: of the most familiar of the texts.
        is_readable: whether the embedder knows the words of one of them.
        evidence: share of each kind of evidence.
        stays: how much the conversation counted beside the message, 0 to 1; ``None`` where both counted alike, or there
            was one text.
    """

    candidates: tuple[Candidate, ...]
    confidence: float
    familiarity: float
    is_readable: bool
    evidence: Mapping[str, float]
    stays: float | None = None


class Standing:
    """One fitted index under one rule of scoring.

    Args:
        fitted: at least one expert has samples.
        settings: ``scoring``, ``k`` and ``show_samples`` count here.
        space: of the encoder that embedded the index.
    """

    def __init__(self, fitted: FittedIndex, settings: RouterSettings, space: str) -> None:
        self.fitted = fitted
        self._index = index = fitted.index
        self._scorer = make_scorer(settings.scoring, index, settings.k, fitted.heads, load_task_head(space))
        # Calibrated is the fused rule; what the others say is no probability of being right.
        self._calibration = fitted.calibration if settings.scoring == "fused" else None
        self._slope = 1.0 if self._calibration is None else self._calibration.slope
        self._is_alone = sum(count > 0 for count in index.num_samples_per_expert) == 1
        self._show_samples = settings.show_samples
        self._looks: OrderedDict[bytes, Look] = OrderedDict()

    def knows_any(self, experts: Sequence[str]) -> bool:
        """Whether one of ``experts`` has samples."""
        counts = zip(self._index.experts, self._index.num_samples_per_expert, strict=True)
        return any(count > 0 and name in experts for name, count in counts)

    def recall(self, text: str) -> Look | None:
        """The look at a text that came lately."""
        key = text_digest(text)
        if (known := self._looks.get(key)) is not None:
            self._looks.move_to_end(key)
        return known

    def look(self, reading: Reading, vector: Vectors) -> Look:
        """At a text with the unit vector ``[dim]``; kept for :meth:`recall`."""
        look = self._looks[text_digest(reading.text)] = self._look(reading, vector)
        if len(self._looks) > MAX_LOOKS:
            self._looks.popitem(last=False)
        return look

    def verdict(self, looks: Sequence[Look], experts: Sequence[str], stays: float | None = None) -> Verdict:
        """Of one text, or of a last message and of the whole conversation, among ``experts``.

        ``stays`` is the probability that the message goes on with the conversation. The verdict is then the mixture of
        both possibilities: the whole counts where it does, and the message alone where it does not. If nobody knows,
        both have the same say, in a geometric mean.
        """
        stays = stays if len(looks) == 2 else None
        is_asked = np.isin(self._index.experts, experts)
        # Never all impossible: one of these experts has samples, and a softmax leaves none of those without a share.
        seen = [np.where(is_asked, look.log_probabilities, -np.inf) for look in looks]
        log_probabilities = _together(seen, stays, self._slope)
        familiarity = max(look.familiarity for look in looks)
        candidates = self._candidates(log_probabilities, _opinions(looks, stays, is_asked), experts)
        confidence = candidates[0].score
        if self._is_alone:
            confidence = familiarity
        elif self._calibration is not None:
            confidence = self._calibration.confidence(float(lead_of(log_probabilities)))
        return Verdict(
            candidates,
            confidence,
            familiarity,
            any(look.is_readable for look in looks),
            _shares(looks[0].opinions),
            stays,
        )

    def neighbours(self, look: Look, experts: Sequence[str]) -> tuple[Neighbour, ...]:
        """The samples of ``experts`` nearest to the text, best first."""
        cosines, rows = look.nearest
        is_asked = np.isin(self._index.experts, experts)[self._index.labels[rows]]
        best = np.argsort(-cosines[is_asked], kind="stable")[:_NUM_NEIGHBOURS_SHOWN]
        pairs = zip(rows[is_asked][best].tolist(), cosines[is_asked][best].tolist(), strict=True)
        return tuple(self._neighbour(row, cosine) for row, cosine in pairs)

    def _look(self, reading: Reading, vector: Vectors) -> Look:
        # Familiarity was learnt from NUM_NEAREST samples, so a smaller k must not hide some of them.
        found = self._index.found_per_expert(vector[np.newaxis], max(self._scorer.k, NUM_NEAREST))
        most = tuple(cosines for cosines, _ in found)
        opinions = self._scorer.opinions(
            reading.inputs, vector, tuple(cosines[:, : self._scorer.k] for cosines in most)
        )
        familiarity = self.fitted.familiarity
        return Look(
            opinions,
            self._scorer.fuse(opinions),
            side_by_side(found, _NUM_NEIGHBOURS_SHOWN),
            familiarity.of(float(nearness_of(most)[0]), reading.known_share),
            familiarity.is_readable(reading.known_share),
        )

    def _candidates(
        self, log_probabilities: Floats, opinions: Mapping[str, Floats], experts: Sequence[str]
    ) -> tuple[Candidate, ...]:
        scores = softmax(self._slope * log_probabilities)
        candidates = [
            Candidate(name, float(scores[i]), {kind: float(says[i]) for kind, says in opinions.items()})
            for i, name in enumerate(self._index.experts)
            if name in experts
        ]
        return tuple(sorted(candidates, key=lambda c: (-c.score, c.expert)))

    def _neighbour(self, row: int, cosine: float) -> Neighbour:
        text = self._index.texts[row][:_MAX_SHOWN_CHARS] if self._show_samples else ""
        return Neighbour(self._index.experts[self._index.labels[row]], cosine, text)


def _opinions(looks: Sequence[Look], stays: float | None, is_asked: NDArray[np.bool_]) -> dict[str, Floats]:
    """Probabilities by the kind of evidence; none where there is one kind only, for it says what the scores say."""
    kinds = looks[0].opinions
    if len(kinds) < 2:
        return {}
    seen = {kind: [np.where(is_asked, look.opinions[kind], -np.inf) for look in looks] for kind in kinds}
    return {kind: softmax(_together(logarithms, stays)) for kind, logarithms in seen.items()}


def _together(seen: Sequence[Floats], stays: float | None, slope: float = 1.0) -> Floats:
    """Logarithms ``[num_experts]`` of a message and of its conversation to those of both.

    They become probabilities when multiplied by ``slope``, and these are mixed.
    """
    if stays is None:
        return np.asarray(np.mean(seen, axis=0))
    message, whole = (softmax(slope * logarithms) for logarithms in seen)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log((1 - stays) * message + stays * whole) / slope)


def _shares(opinions: Mapping[str, Floats]) -> dict[str, float]:
    if len(opinions) < 2:
        return {}
    weights = weights_of(opinions)
    return {kind: weight / sum(weights.values()) for kind, weight in weights.items()}
