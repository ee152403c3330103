"""Instruct data → per expert: training rows, held-out rows, routing rows. Every choice follows from a seed.

::

    category ──CATEGORIES──> expert ──hash of the instruction──> held out   (heldout/)
                                                            └──> kept ──> own rows      (training_data/)
                                                                      ├─> routing rows  (routing_data/)
                                                                      └─> a pool that strangers train on too

The pool is the predecessor's idea: an expert that is reached by mistake should still have seen a little of
everything. So each expert also trains on a few rows of the other experts' categories, but routes on its own.

Held-out rows are neither trained nor routed on, by anyone; an instruction that occurs several times falls
on one side with all its rows, whatever its case and spacing. That is what makes router accuracy and expert
gain measurable.

Source: airoboros, ``segment_experts.py`` (github.com/jondurbin/airoboros, 169e8a9), which wrote all rows
into the routing files and drew without a seed.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmoe_ray.errors import TrainingDataError
from lmoe_ray.pretrained.whole_folder import whole_folder
from lmoe_ray.training.instruct_rows import InstructRow, write_rows, write_samples

#: The predecessor's experts and their categories.
CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "qa": ("quiz", "multiple_choice", "contextual", "counterfactual_contextual"),
    "creative": ("card", "writing", "experience", "song", "roleplay", "gtkm", "rp", "detailed_writing", "joke"),
    "code": ("coding",),
    "reasoning": ("cot", "theory_of_mind", "riddle", "orca"),
    "function": ("agent", "plan"),
    "general": ("wordgame", "trivia", "general"),
}


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """How rows are dealt out.

    Attributes:
        heldout_share: of each category's distinct instructions, rounded by their hashes.
        pool_share, max_pool: size of a category's pool for strangers, as a share of its kept rows and at
            most; a category that has rows gives at least one.
        foreign_ratio: strangers' rows an expert would train on per row of its own, all categories of the
            map together and alike; pools that are smaller give what they have. 5/3 is the
            predecessor's: each of its 23 categories gave ``own / (23 * 0.6)`` rows. 0: none.
    """

    heldout_share: float = 0.08
    pool_share: float = 0.1
    max_pool: int = 500
    foreign_ratio: float = 5 / 3
    seed: int = 11422


@dataclass(frozen=True, slots=True)
class ExpertRows:
    """The split of one expert. ``training`` holds its own rows and strangers', shuffled."""

    training: tuple[InstructRow, ...]
    heldout: tuple[InstructRow, ...]
    routing: tuple[InstructRow, ...]
    num_foreign: int


@dataclass(frozen=True, slots=True)
class Segmentation:
    """All splits, and what was left out.

    Attributes:
        dropped: rows per category that belongs to no expert.
        empty: categories of the map without a row.
        num_repeated: rows left out because the same instruction and answer came before.
    """

    experts: Mapping[str, ExpertRows]
    dropped: Mapping[str, int] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    num_repeated: int = 0


def segment(
    rows: Sequence[InstructRow],
    settings: SegmentSettings | None = None,
    categories: Mapping[str, Sequence[str]] = CATEGORIES,
) -> Segmentation:
    """Deal rows out to experts. Equal rows, settings and map give equal splits, in any process.

    Raises:
        TrainingDataError: if a category has two experts, or an expert is left without a row to train on.
    """
    settings = settings or SegmentSettings()
    expert_of = _invert(categories)
    distinct = list(dict.fromkeys(rows))
    mapped = [row for row in distinct if row.category in expert_of]
    heldout: list[InstructRow] = []
    kept: dict[str, list[InstructRow]] = {category: [] for category in expert_of}
    for row in mapped:
        (heldout if _is_heldout(row, settings) else kept[row.category]).append(row)
    pools = {category: _pool(category, of_category, settings) for category, of_category in kept.items()}
    return Segmentation(
        experts={
            expert: _expert_rows(expert, categories[expert], kept, pools, heldout, settings)
            for expert in sorted(categories)
        },
        dropped=dict(sorted(Counter(row.category for row in distinct if row.category not in expert_of).items())),
        empty=tuple(sorted(expert_of.keys() - {row.category for row in mapped})),
        num_repeated=len(rows) - len(distinct),
    )


def write_segmentation(segmentation: Segmentation, folder: Path) -> None:
    """``training_data/``, ``heldout/`` and ``routing_data/``, each with ``expert_<name>.jsonl``.

    Each of the three is replaced as a whole; what else lies in ``folder`` is left alone.
    """
    with whole_folder(folder / "training_data") as unfinished:
        for name, expert in segmentation.experts.items():
            write_rows(unfinished / f"expert_{name}.jsonl", expert.training)
    with whole_folder(folder / "heldout") as unfinished:
        for name, expert in segmentation.experts.items():
            write_rows(unfinished / f"expert_{name}.jsonl", expert.heldout)
    with whole_folder(folder / "routing_data") as unfinished:
        for name, expert in segmentation.experts.items():
            write_samples(unfinished / f"expert_{name}.jsonl", (row.query for row in expert.routing))


def _invert(categories: Mapping[str, Sequence[str]]) -> dict[str, str]:
    expert_of: dict[str, str] = {}
    for expert, names in categories.items():
        for name in names:
            if name in expert_of:
                raise TrainingDataError(
                    f"category {name!r}", f"belongs to {expert_of[name]!r} and to {expert!r}; choose one"
                )
            expert_of[name] = expert
    return expert_of


def _is_heldout(row: InstructRow, settings: SegmentSettings) -> bool:
    """By the instruction alone, so that adding rows never moves the others."""
    text = " ".join(row.instruction.casefold().split())
    digest = hashlib.sha256(f"{settings.seed} {text}".encode()).digest()
    return int.from_bytes(digest[:8]) < settings.heldout_share * 2**64


def _pool(category: str, rows: list[InstructRow], settings: SegmentSettings) -> list[InstructRow]:
    """A category's rows for strangers; empty if it has none."""
    size = min(settings.max_pool, int(len(rows) * settings.pool_share)) or 1
    return random.Random(f"{settings.seed} pool {category}").sample(rows, min(size, len(rows)))


def _expert_rows(
    expert: str,
    categories: Sequence[str],
    kept: Mapping[str, list[InstructRow]],
    pools: Mapping[str, list[InstructRow]],
    heldout: list[InstructRow],
    settings: SegmentSettings,
) -> ExpertRows:
    own = [row for category in categories for row in kept[category]]
    if not own:
        wanted = ", ".join(categories)
        raise TrainingDataError(f"expert {expert!r}", f"has no row to train on; add rows of category {wanted}")
    rng = random.Random(f"{settings.seed} expert {expert}")
    num_each = int(len(own) * settings.foreign_ratio / len(kept))
    foreign = [
        row
        for category, pool in pools.items()
        if category not in categories
        for row in rng.sample(pool, min(num_each, len(pool)))
    ]
    training = [*own, *foreign]
    rng.shuffle(training)
    return ExpertRows(
        training=tuple(training),
        heldout=tuple(row for row in heldout if row.category in categories),
        routing=tuple(own),
        num_foreign=len(foreign),
    )
