"""The routing samples in use: cleaned, each once per expert, and a seeded choice where there are too many.

The choice orders samples by a hash of the seed, the expert and the text. So it depends neither on
the order of lines in a file nor on the other experts, and one new sample displaces at most one old one.

A new expert has few samples or none. What its description says of it is the same kind of evidence: each
sentence counts as one more sample until there are enough.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lmoe_ray.domain.package import Expert
from lmoe_ray.routing.query import sample_text

logger = logging.getLogger(__name__)

#: Source of what is no sample but a sentence of the description; no package can name it, for sources are stripped.
DESCRIPTION = " description"

#: An expert with fewer samples is known by the sentences of its description as well.
MIN_SAMPLES = 50

_SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+|\n+")


@dataclass(frozen=True, slots=True)
class SampleSet:
    """``texts[i]`` are the samples of ``experts[i]``; experts are sorted by name, and may have none.

    ``sources[i][j]`` says where ``texts[i][j]`` comes from, empty where nobody said.
    """

    experts: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    sources: tuple[tuple[str, ...], ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """All texts, expert after expert."""
        return tuple(text for texts in self.texts for text in texts)

    @property
    def row_sources(self) -> tuple[str, ...]:
        """The source of each of ``rows``."""
        return tuple(source for sources in self.sources for source in sources)

    def digest(self, *salt: object) -> str:
        """Identity of this set together with ``salt``, which must be JSON values; 32 hex digits."""
        content = json.dumps([*salt, self.experts, self.texts, self.sources])
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def choose_samples(experts: Sequence[Expert], max_samples: int, seed: int) -> SampleSet:
    """At most ``max_samples`` samples of every expert, and a warning for each expert that has none."""
    in_order = sorted(experts, key=lambda expert: expert.name)
    chosen = [_choose(expert, max_samples, seed) for expert in in_order]
    for expert, samples in zip(in_order, chosen, strict=True):
        if not samples:
            logger.warning(
                "expert has no routing samples: only a client that names it reaches it expert=%s", expert.name
            )
    return SampleSet(
        tuple(expert.name for expert in in_order),
        tuple(tuple(samples) for samples in chosen),
        tuple(tuple(samples.values()) for samples in chosen),
    )


def _choose(expert: Expert, max_samples: int, seed: int) -> dict[str, str]:
    """Texts and their sources."""
    sources = expert.sources or ("",) * len(expert.samples)
    named = ((sample_text(text), source) for text, source in zip(expert.samples, sources, strict=True))
    samples = {text: source for text, source in named if text}

    def lot(text: str) -> bytes:
        return hashlib.sha256(json.dumps([seed, expert.name, text]).encode()).digest()

    chosen = {text: samples[text] for text in sorted(samples, key=lot)[:max_samples]}
    if len(chosen) < min(MIN_SAMPLES, max_samples):
        chosen |= dict.fromkeys(_sentences(expert.description), DESCRIPTION)
    return chosen


def _sentences(description: str) -> list[str]:
    return [sentence for part in _SENTENCE_END.split(description) if (sentence := part.strip())]
