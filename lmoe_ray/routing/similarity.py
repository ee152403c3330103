"""Route by likeness to the experts' routing samples; what is doubtful or unheard of is left to the fallback.

query texts → unit vectors → what the evidence says of every expert → a verdict → a decision. The
decision carries what it rests on: every expert's score, what each kind of evidence says, and the nearest samples.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import Neighbour, RoutingDecision
from lmoe_ray.routing.expert_index import Encoder, Progress, Vectors
from lmoe_ray.routing.fitted_index import FittedIndex
from lmoe_ray.routing.index_cache import load_or_build, rebuild
from lmoe_ray.routing.query import CHARS_PER_TOKEN, read_query
from lmoe_ray.routing.reading import Reading, read
from lmoe_ray.routing.router import RoutedModel, abstain, fall_back
from lmoe_ray.routing.sample_set import choose_samples
from lmoe_ray.routing.standing import Standing, Verdict
from lmoe_ray.routing.threshold import Threshold
from lmoe_ray.routing.turn_head import TurnVectors, load_turn_head
from lmoe_ray.settings import RouterSettings

logger = logging.getLogger(__name__)

#: Of the event loop, from a text that is to be embedded to the encoder's thread: gather, queue, executor.
_TURNS_TO_EMBED = 3


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
        settings: of the router; ``kind`` is not looked at.
        cache_dir: where indexes are kept; ``None`` keeps none.
        progress: called with samples embedded and samples in all.
        shipped_dir: of an index that came with this program, see :mod:`lmoe_ray.routing.index_cache`.

    Raises:
        StaleCalibration, SettingsError: see :class:`~lmoe_ray.routing.threshold.Threshold`.
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
        self._embedder, self._settings = embedder, settings
        self._cache_dir, self._shipped_dir = cache_dir, shipped_dir
        self._threshold = Threshold(settings)
        self._turn_head = load_turn_head(embedder.space)
        self._model, self._standing = model, self._stand(model, progress)
        if self._standing is None:
            logger.warning("no expert has routing samples: every request goes to the fallback model=%s", model.name)
        else:
            self._threshold.settle(self._standing.fitted)

    @property
    def fitted(self) -> FittedIndex | None:
        """The index in use; ``None`` if no expert has samples."""
        return None if self._standing is None else self._standing.fitted

    def vector_of(self, text: str) -> Vectors:
        """The unit vector ``[dim]`` of a text as it stands."""
        vector: Vectors = self._embedder.embed([text])[0]
        return vector

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        """Costs an embedding and a search, below 1 ms for 10,000 samples.

        In a conversation it is two of each; one embedding more if another replica routed what was said before, or the
        message is a short one, and up to three if there is a system text.
        """
        standing, model = self._standing, self._model.as_seen_by(request)
        if standing is None or not standing.knows_any(model.expert_names):
            return fall_back(model, "no expert has routing samples")
        threshold = self._threshold.value if request.routing.threshold is None else request.routing.threshold
        query = read_query(request)
        if not request.routing.is_sticky:
            query = query.without_conversation()
        texts = query.views(self._embedder.max_tokens * CHARS_PER_TOKEN)
        if not texts:
            return fall_back(model, "the request has no text to route by")
        turn = query.turn if self._turn_head else None
        said = turn.texts() if turn else ()
        known = {text: look for text in texts if (look := standing.recall(text)) is not None}
        vectors, readings = await asyncio.gather(
            self._embed([*texts, *said]),
            self._read([*(text for text in texts if text not in known), *((turn.message,) if turn else ())]),
        )
        looks = [known[text] if text in known else standing.look(readings[text], vectors[text]) for text in texts]
        stays = None
        if turn and self._turn_head:
            of_it = TurnVectors(*(vectors[text] for text in said))
            stays = self._turn_head.stays(turn, readings[turn.message].inputs, of_it)
        verdict = standing.verdict(looks, model.expert_names, stays)
        neighbours = standing.neighbours(looks[0], model.expert_names)
        return self._decide(model, verdict, neighbours, threshold)

    async def update(self, model: RoutedModel) -> None:
        """Learn of other experts or samples, while requests are routed as before; then change over at once.

        Only texts that are new are embedded. If this fails, everything stays as it was.
        """
        samples = choose_samples(model.experts, self._settings.max_samples, self._settings.seed)
        if not samples.rows:
            self._model, self._standing = model, None
            return
        steps = rebuild(samples, self._embedder, self._cache_dir, self._shipped_dir, self.fitted)
        while (fitted := await asyncio.to_thread(next, steps, None)) is not None:
            standing = await asyncio.to_thread(Standing, fitted, self._settings, self._embedder.space)
            self._threshold.follow(fitted)
            self._model, self._standing = model, standing

    async def _embed(self, texts: Sequence[str]) -> dict[str, Vectors]:
        """Unit vectors ``[dim]``, of each text once and of all together."""
        once = list(dict.fromkeys(texts))
        return dict(zip(once, await asyncio.gather(*map(self._embedder.embed_one, once)), strict=True))

    async def _read(self, texts: Sequence[str]) -> dict[str, Reading]:
        """In a thread, because the encoder works meanwhile."""
        if not texts:
            return {}
        # The encoder's thread first: it soon lets go of the interpreter, which reading does not.
        for _ in range(_TURNS_TO_EMBED):
            await asyncio.sleep(0)
        return await asyncio.to_thread(lambda: {text: read(text, self._embedder) for text in dict.fromkeys(texts)})

    def _stand(self, model: RoutedModel, progress: Progress | None) -> Standing | None:
        samples = choose_samples(model.experts, self._settings.max_samples, self._settings.seed)
        if not samples.rows:
            return None
        fitted = load_or_build(samples, self._embedder, self._cache_dir, progress, self._shipped_dir)
        return Standing(fitted, self._settings, self._embedder.space)

    def _decide(
        self, model: RoutedModel, verdict: Verdict, neighbours: tuple[Neighbour, ...], threshold: float
    ) -> RoutingDecision:
        decision = RoutingDecision(
            model=model.name,
            expert=verdict.candidates[0].expert,
            routed_by="similarity",
            confidence=verdict.confidence,
            candidates=verdict.candidates,
            neighbours=neighbours,
            threshold=threshold,
            familiarity=verdict.familiarity,
            evidence=verdict.evidence,
            stays=verdict.stays,
            reason=_reason(verdict, neighbours),
        )
        if verdict.familiarity < self._settings.min_familiarity:
            doubt = "this is unlike all samples" if verdict.is_readable else "too few of the words are known"
        elif verdict.confidence < threshold:
            doubt = f"below the threshold of {threshold:.2f}"
        else:
            return decision
        return abstain(model, decision, f"{decision.reason}; {doubt}")


def _reason(verdict: Verdict, neighbours: Sequence[Neighbour]) -> str:
    nearest = f"nearest sample is of {neighbours[0].expert} at cosine {neighbours[0].similarity:.2f}"
    first, *others = verdict.candidates
    if not others:
        return f"{first.expert} is the only expert, familiarity {verdict.familiarity:.2f}; {nearest}"
    said = f"{first.expert} has {first.score:.2f} against {others[0].score:.2f} for {others[0].expert}; {nearest}"
    if verdict.stays is None:
        return said
    return f"{said}; the message {'goes on with' if verdict.stays > 0.5 else 'turns from'} what was said before"
