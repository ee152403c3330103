"""Samples that say the same, and samples that say nothing: what can be found by comparing texts.

Equal texts are looked for among all samples that are written. Near-duplicates need an embedding, and are looked
for among those in use. They have to be alike both in meaning and in wording: either alone is what samples of
one expert should be.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.domain.package import Expert
from lmoe_ray.routing.query import sample_text
from lmoe_ray.routing.sample_findings import NearDuplicate, Remark, Repeat
from lmoe_ray.routing.sample_table import ALIKE_MEANING, Neighbours, SampleTable

#: Cosine from which two samples of like meaning are near-duplicates. Of the demo's 5,366 samples, written to
#: differ, nine pairs are alike in meaning; the four below this are three haiku requests and a question put anew.
_ALIKE_WORDING = 0.5

_OPENING_WORDS = 4
_MIN_SHARING = 10
_MAX_SHARING = 0.2


def find_repeats(experts: Sequence[Expert]) -> tuple[Repeat, ...]:
    """Texts that are there more than once, those of several experts first."""
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for expert in experts:
        for sample in expert.samples:
            if text := sample_text(sample):
                places[_folded(text)].append((expert.name, text))
    repeats = [
        Repeat(found[0][1], tuple(sorted({name for name, _ in found})), len(found))
        for found in places.values()
        if len(found) > 1
    ]
    return tuple(sorted(repeats, key=lambda repeat: (-len(repeat.experts), -repeat.num_times)))


def are_near_duplicates(neighbours: Neighbours) -> NDArray[np.bool_]:
    """For every sample and each of its neighbours, ``[num_samples, k]``."""
    return (neighbours.meanings >= ALIKE_MEANING) & (neighbours.wordings >= _ALIKE_WORDING)


def find_near_duplicates(table: SampleTable, neighbours: Neighbours) -> tuple[NearDuplicate, ...]:
    """Pairs that are not equal, those of two experts first.

    In a clump of more samples than neighbours are looked at, not every pair is named, but every sample is.
    """
    pairs: dict[tuple[int, int], NearDuplicate] = {}
    for row, place in np.argwhere(are_near_duplicates(neighbours)).tolist():
        first, second = sorted((row, int(neighbours.rows[row, place])))
        if _folded(table.texts[first]) != _folded(table.texts[second]):
            pairs[first, second] = NearDuplicate(
                table.sample(first),
                table.sample(second),
                float(neighbours.meanings[row, place]),
                float(neighbours.wordings[row, place]),
            )
    found = pairs.values()
    return tuple(sorted(found, key=lambda p: (p.first.expert == p.second.expert, -p.meaning - p.wording)))


def remarks_on_form(experts: Sequence[Expert], max_tokens: int) -> Iterator[Remark]:
    """Samples without a word, samples of which the embedder certainly sees a part only, and shared openings."""
    for expert in experts:
        yield from _remarks_on_texts(expert, max_tokens)
        yield from _remarks_on_opening(expert)


def _remarks_on_texts(expert: Expert, max_tokens: int) -> Iterator[Remark]:
    for sample in expert.samples:
        text = sample_text(sample)
        if not any(character.isalnum() for character in text):
            yield Remark("empty", expert.name, "has neither letters nor digits; remove it", sample)
        # Every word is one token at least, so what has too many words surely has too many tokens.
        elif (num_words := len(text.split())) > max_tokens:
            sentence = (
                f"has {num_words} words, and {max_tokens} tokens are embedded; shorten it to how a user would ask"
            )
            yield Remark("too long", expert.name, sentence, text)


def _remarks_on_opening(expert: Expert) -> Iterator[Remark]:
    texts = [text for sample in expert.samples if (text := sample_text(sample))]
    openings = Counter(_opening(text) for text in texts if len(text.split()) > _OPENING_WORDS)
    if not openings:
        return
    opening, num_sharing = openings.most_common(1)[0]
    if num_sharing < max(_MIN_SHARING, _MAX_SHARING * len(texts)):
        return
    yield Remark(
        "shared opening",
        expert.name,
        f"{num_sharing} of {len(texts)} samples open alike, so the opening is what is learnt; word them differently",
        opening,
    )


def _opening(text: str) -> str:
    return " ".join(text.casefold().split()[:_OPENING_WORDS])


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
