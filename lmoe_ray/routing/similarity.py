"""Route by likeness to the experts' routing samples; below a threshold, leave it to the fallback.

query text → unit vector → nearest samples of every expert → probability per expert → decision. The
decision carries what it rests on: every expert's score and the nearest samples.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import Candidate, Neighbour, RoutingDecision
from lmoe_ray.routing.expert_index import Encoder, Progress, Vectors
from lmoe_ray.routing.index_cache import FittedIndex, load_or_build
from lmoe_ray.routing.query import CHARS_PER_TOKEN, read_query
from lmoe_ray.routing.router import RoutedModel, fall_back
from lmoe_ray.routing.sample_set import choose_samples
from lmoe_ray.routing.scoring import Familiarity, make_scorer
from lmoe_ray.routing.task_head import TaskHead, load_task_head
from lmoe_ray.settings import RouterSettings

logger = logging.getLogger(__name__)

_NUM_NEIGHBOURS_SHOWN = 5
_MAX_SHOWN_CHARS = 200
#: A text of the request and its unit vector.
View = tuple[str, Vectors]


class QueryEmbedder(Encoder, Protocol):
    """An encoder that also serves concurrent requests."""

    async def embed_one(self, text: str) -> Vectors:
        """Unit vector of one text, ``[dim]``."""
        ...


class SimilarityRouter:
    """Chooses among the experts of one base model that have routing samples.

    Embeds what the index cache does not hold, which takes minutes for thousands of samples on a CPU.

    Args:
        model: the base model and its experts. If none has samples, the fallback answers everything.
        embedder: shared by all routers of a replica.
        settings: ``k``, ``scoring``, ``max_samples``, ``seed``, ``threshold`` and ``show_samples`` count here.
        cache_dir: where indexes are kept; ``None`` keeps none.
        progress: called with samples embedded and samples in all.
        shipped_dir: of an index that came with this program, see :mod:`lmoe_ray.routing.index_cache`.
    """

    def __init__(
        self,
        model: RoutedModel,
        embedder: QueryEmbedder,
        settings: RouterSettings,
        cache_dir: Path | None,
        progress: Progress | None = None,
        shipped_dir: Path | None = None,
    ) -> None:
        self._model = model
        self._embedder = embedder
        self._settings = settings
        samples = choose_samples(model.experts, settings.max_samples, settings.seed)
        self._standing: _Standing | None = None
        if samples.rows:
            fitted = load_or_build(samples, embedder, cache_dir, progress, shipped_dir)
            self._standing = _Standing(fitted, settings, load_task_head(embedder.identity))
        else:
            logger.warning("no expert has routing samples: every request goes to the fallback model=%s", model.name)

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        """Costs an embedding, two in a conversation, and a search, below 1 ms for 10,000 samples."""
        model = self._model.as_seen_by(request)
        if self._standing is None or not self._standing.knows_any(model.expert_names):
            return fall_back(model, "no expert has routing samples")
        texts = read_query(request).views(self._embedder.max_tokens * CHARS_PER_TOKEN)
        if not texts:
            return fall_back(model, "the request has no text to route by")
        vectors = await asyncio.gather(*map(self._embedder.embed_one, texts))
        return self._decide(self._standing, model, tuple(zip(texts, vectors, strict=True)))

    def _decide(self, standing: _Standing, model: RoutedModel, views: tuple[View, ...]) -> RoutingDecision:
        candidates, confidence = standing.candidates(views, model.expert_names)
        neighbours = standing.neighbours(views[0][1], model.expert_names)
        threshold, best = self._settings.threshold, candidates[0]
        reason = _reason(candidates, neighbours, confidence)
        if confidence < threshold:
            return fall_back(
                model,
                f"{reason}; below the threshold of {threshold:.2f}",
                confidence=confidence,
                candidates=candidates,
                neighbours=neighbours,
                threshold=threshold,
            )
        return RoutingDecision(
            model.name, best.expert, "similarity", confidence, candidates, neighbours, threshold, reason
        )


class _Standing:
    """One index, and how experts stand in it for a query."""

    def __init__(self, fitted: FittedIndex, settings: RouterSettings, task_head: TaskHead | None) -> None:
        self._index = index = fitted.index
        self._scorer = make_scorer(settings.scoring, index, settings.k, fitted.heads, task_head)
        self._show_samples = settings.show_samples
        is_alone = sum(count > 0 for count in index.num_samples_per_expert) == 1
        self._familiarity = Familiarity(index) if is_alone else None

    def knows_any(self, experts: Sequence[str]) -> bool:
        """Whether one of ``experts`` has samples."""
        counts = zip(self._index.experts, self._index.num_samples_per_expert, strict=True)
        return any(count > 0 and name in experts for name, count in counts)

    def candidates(self, views: Sequence[View], experts: Sequence[str]) -> tuple[tuple[Candidate, ...], float]:
        """Each of ``experts``, best first, and how sure we are of the first.

        With a single expert to choose, its score is 1 and says nothing: the query's familiarity does.
        """
        opinions = [self._scorer.probabilities(text, vector) for text, vector in views]
        with np.errstate(divide="ignore"):
            scores = np.exp(np.mean(np.log(opinions), axis=0))
        scores = np.where(np.isin(self._index.experts, experts), scores, 0.0)
        # Never all zero: one of these experts has samples, and a softmax leaves none of those without a share.
        scores = scores / max(float(scores.sum()), np.finfo(float).tiny)
        pairs = zip(self._index.experts, scores.tolist(), strict=True)
        candidates = [Candidate(name, score) for name, score in pairs if name in experts]
        candidates.sort(key=lambda c: (-c.score, c.expert))
        confidence = candidates[0].score if self._familiarity is None else self._familiarity.of(views[0][1])
        return tuple(candidates), confidence

    def neighbours(self, vector: Vectors, experts: Sequence[str]) -> tuple[Neighbour, ...]:
        """The nearest samples of ``experts``."""
        cosines, rows = self._index.search(vector, _NUM_NEIGHBOURS_SHOWN, experts)
        return tuple(self._neighbour(row, cosine) for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True))

    def _neighbour(self, row: int, cosine: float) -> Neighbour:
        text = self._index.texts[row][:_MAX_SHOWN_CHARS] if self._show_samples else ""
        return Neighbour(self._index.experts[self._index.labels[row]], cosine, text)


def _reason(candidates: tuple[Candidate, ...], neighbours: tuple[Neighbour, ...], confidence: float) -> str:
    nearest = f"nearest sample is of {neighbours[0].expert} at cosine {neighbours[0].similarity:.2f}"
    if len(candidates) == 1:
        return f"{candidates[0].expert} is the only expert, familiarity {confidence:.2f}; {nearest}"
    first, second = candidates[0], candidates[1]
    return f"{first.expert} has {first.score:.2f} against {second.score:.2f} for {second.expert}; {nearest}"
