"""What could be better about a package's routing samples: one examination, many kinds of finding.

A router is as good as its samples, and nobody reads thousands of them. So the samples are set against one another
and against the tasks the program knows. Nothing is changed, and no sample is made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.domain.package import Expert
from lmoe_ray.routing.expert_index import ExpertIndex
from lmoe_ray.routing.label_doubts import find_doubts, find_overlaps, held_out_opinions
from lmoe_ray.routing.sample_findings import Diagnosis, ExpertCount, Remark
from lmoe_ray.routing.sample_repeats import find_near_duplicates, find_repeats, remarks_on_form
from lmoe_ray.routing.sample_set import MIN_SAMPLES
from lmoe_ray.routing.sample_table import SampleTable, StageProgress, find_neighbours, read_table
from lmoe_ray.routing.task_coverage import TaskCoverage, cover_tasks
from lmoe_ray.routing.task_head import TaskHead

#: More than vote, because near-duplicates do not.
_NUM_NEIGHBOURS = 30
#: Samples below which judging each by the others says nothing.
_MIN_JUDGED = 20
_MAX_IMBALANCE = 5.0
_MIN_SPREAD = 0.4


def examine(
    experts: Sequence[Expert],
    index: ExpertIndex,
    task_head: TaskHead | None,
    max_tokens: int,
    progress: StageProgress = lambda what, done, total: None,
) -> Diagnosis:
    """Some milliseconds a sample, and seconds for the cross-validation.

    Args:
        experts: with all their samples.
        index: of the samples in use.
        task_head: the shipped one, if it knows the index's embedder.
        max_tokens: of a sample that are embedded.
        progress: told of each stage.
    """
    table = read_table(index, progress)
    is_judged = len(table.experts) > 1 and len(table.texts) >= _MIN_JUDGED
    neighbours = find_neighbours(table, _NUM_NEIGHBOURS, progress) if len(table.texts) > 1 else None
    opinions = held_out_opinions(table, neighbours, progress) if is_judged and neighbours else None
    coverage = cover_tasks(table, task_head) if task_head and table.texts else None
    counts = _counts(experts, table)
    return Diagnosis(
        counts=counts,
        agreement=None if opinions is None else float((opinions.argmax(axis=1) == table.labels).mean()),
        repeats=find_repeats(experts),
        near_duplicates=find_near_duplicates(table, neighbours) if neighbours else (),
        doubts=() if opinions is None or neighbours is None else find_doubts(table, neighbours, opinions),
        overlaps=() if opinions is None else find_overlaps(table, opinions),
        remarks=(*_remarks_on_counts(counts), *_remarks_on_spread(table), *remarks_on_form(experts, max_tokens)),
        contested_tasks=coverage.contested if coverage else (),
        unshown_tasks=coverage.unshown if coverage else (),
        suggestions=coverage.suggestions if coverage else (),
        not_examined=(*_not_examined(counts, is_judged, coverage), *_not_strangers(table, task_head)),
    )


def _counts(experts: Sequence[Expert], table: SampleTable) -> tuple[ExpertCount, ...]:
    used = dict(zip(table.experts, table.counts.tolist(), strict=True))
    return tuple(ExpertCount(expert.name, len(expert.samples), used.get(expert.name, 0)) for expert in experts)


def _remarks_on_counts(counts: Sequence[ExpertCount]) -> Iterator[Remark]:
    most = max(counts, key=lambda count: count.num_written)
    for count in counts:
        if count.num_written < MIN_SAMPLES:
            yield Remark("few samples", count.expert, f"has {count.num_written} samples; write {MIN_SAMPLES} or more")
        elif most.num_written > _MAX_IMBALANCE * count.num_written:
            sentence = f"has {count.num_written} samples where {most.expert} has {most.num_written}; write more kinds"
            yield Remark("imbalance", count.expert, sentence)


def _remarks_on_spread(table: SampleTable) -> Iterator[Remark]:
    """An expert's spread is one less the mean cosine of its samples, here as a part of the whole package's."""
    if len(table.experts) < 2:
        return
    whole = _spread(table, np.ones(len(table.labels), np.bool_))
    for label, expert in enumerate(table.experts):
        part = _spread(table, table.labels == label) / max(whole, 1e-9)
        if part < _MIN_SPREAD and table.counts[label] > 1:
            yield Remark(
                "one clump",
                expert,
                f"all its samples lie close together, at {part:.0%} of the package's spread; write other kinds as well",
            )


def _spread(table: SampleTable, is_member: NDArray[np.bool_]) -> float:
    mean = table.vectors[is_member].mean(axis=0)
    return 1.0 - float(mean @ mean)


def _not_examined(counts: Sequence[ExpertCount], is_judged: bool, coverage: TaskCoverage | None) -> Iterator[str]:
    for count in counts:
        if count.num_written > count.num_used:
            yield (
                f"{count.expert}: {count.num_written - count.num_used} samples that the router does not use, because "
                "they are there twice or exceed router.max_samples; only equal texts and form were looked at"
            )
    if not is_judged:
        yield f"labels and overlaps: that takes two experts with samples, and {_MIN_JUDGED} samples in all"
    if coverage is None:
        yield "tasks: the shipped task head knows the default embedder alone, and needs samples"


def _not_strangers(table: SampleTable, task_head: TaskHead | None) -> Iterator[str]:
    num_seen = sum(task_head.has_seen(text) for text in table.texts) if task_head else 0
    if num_seen:
        yield (
            f"{num_seen} samples as a stranger would: the shipped encoder was tuned on them as they are filed, so it "
            "agrees with their labels too often, and doubts and overlaps are fewer than they should be"
        )
