"""The routing samples in use: cleaned, each once per expert, and a seeded choice where there are too many.

The choice orders samples by a hash of the seed, the expert and the text. So it depends neither on
the order of lines in a file nor on the other experts, and one new sample displaces at most one old one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lmoe_ray.domain.package import Expert
from lmoe_ray.routing.query import sample_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SampleSet:
    """``texts[i]`` are the samples of ``experts[i]``; experts are sorted by name, and may have none."""

    experts: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """All texts, expert after expert."""
        return tuple(text for texts in self.texts for text in texts)

    def digest(self, *salt: object) -> str:
        """Identity of this set together with ``salt``, which must be JSON values; 32 hex digits."""
        content = json.dumps([*salt, self.experts, self.texts])
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def choose_samples(experts: Sequence[Expert], max_samples: int, seed: int) -> SampleSet:
    """At most ``max_samples`` samples of every expert, and a warning for each expert that has none."""
    in_order = sorted(experts, key=lambda expert: expert.name)
    chosen = tuple(_choose(expert, max_samples, seed) for expert in in_order)
    for expert, texts in zip(in_order, chosen, strict=True):
        if not texts:
            logger.warning(
                "expert has no routing samples: only a client that names it reaches it expert=%s", expert.name
            )
    return SampleSet(tuple(expert.name for expert in in_order), chosen)


def _choose(expert: Expert, max_samples: int, seed: int) -> tuple[str, ...]:
    texts = {sample_text(sample) for sample in expert.samples} - {""}

    def lot(text: str) -> bytes:
        return hashlib.sha256(json.dumps([seed, expert.name, text]).encode()).digest()

    return tuple(sorted(texts, key=lot)[:max_samples])
