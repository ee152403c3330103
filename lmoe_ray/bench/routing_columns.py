"""From decisions to a report: the figures of every column, their intervals, and the parts of the test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lmoe_ray.bench.labelled_prompts import LabelledPrompt
from lmoe_ray.bench.routing_intervals import draw_resamples, intervals_of, resampled_figures
from lmoe_ray.bench.routing_quality import Floats, Outcomes, is_abstention, outcomes_of, quality
from lmoe_ray.bench.routing_report import PREDECESSOR, Column, Difference, Part, RoutingReport
from lmoe_ray.domain.decision import RoutingDecision

OURS = "ours"

Decisions = Sequence[RoutingDecision]


@dataclass(frozen=True, slots=True)
class Measured:
    """What the figures are made of.

    Attributes:
        prompts: in the order of the file.
        decisions: one per prompt for each column: ours, the predecessor's, then the baselines.
        encoder_s: what of each of our decisions was waiting for the encoder.
        scoring: our rule.
        num_samples: routing samples in use.
        fallback_expert: where prompts without an expert may go.
    """

    prompts: Sequence[LabelledPrompt]
    decisions: Mapping[str, Decisions]
    encoder_s: Sequence[float]
    scoring: str
    num_samples: int
    fallback_expert: str


def report_of(measured: Measured) -> RoutingReport:
    """Everything that can be said of these decisions. At least one prompt must have an expert."""
    labelled = [prompt for prompt in measured.prompts if prompt.expert is not None]
    sources = [prompt.source for prompt in labelled]
    # The resamples of a single source would all be that source.
    is_clustered = len(set(sources)) > 1
    resamples = draw_resamples(sources if is_clustered else [""] * len(sources))
    baselines = {name: _column(measured, name, resamples) for name in measured.decisions}
    ours, predecessor = baselines.pop(OURS), baselines.pop(PREDECESSOR)
    durations_ms = np.array([1000 * decision.duration_s for decision in measured.decisions[OURS]])
    after_encoder_ms = durations_ms - 1000 * np.array(measured.encoder_s)
    return RoutingReport(
        scoring=measured.scoring,
        num_samples=measured.num_samples,
        num_prompts=len(labelled),
        num_out_of_domain=len(measured.prompts) - len(labelled),
        ours=ours,
        predecessor=predecessor,
        baselines=baselines,
        differences=_differences(ours, predecessor, resamples),
        resampled="sources" if is_clustered else "prompts",
        p50_ms=float(np.percentile(durations_ms, 50)),
        p95_ms=float(np.percentile(durations_ms, 95)),
        after_encoder_p50_ms=float(np.percentile(after_encoder_ms, 50)),
        after_encoder_p95_ms=float(np.percentile(after_encoder_ms, 95)),
        confusion=_confusion(ours.outcomes),
        by_slice=_breakdown([prompt.slice for prompt in labelled], ours, predecessor),
        by_source=_breakdown(sources, ours, predecessor),
    )


def _column(measured: Measured, name: str, resamples: Floats) -> Column:
    pairs = list(zip((prompt.expert for prompt in measured.prompts), measured.decisions[name], strict=True))
    labelled = [(label, decision) for label, decision in pairs if label is not None]
    outcomes = outcomes_of(*zip(*labelled, strict=True))
    strangers = [decision for label, decision in pairs if label is None]
    return Column(
        outcomes,
        quality(outcomes),
        intervals_of(resampled_figures(outcomes, resamples)),
        max(decision.threshold for decision in measured.decisions[name]),
        _share_caught(strangers, measured.fallback_expert),
    )


def _share_caught(decisions: Decisions, fallback_expert: str) -> float | None:
    """Of decisions about prompts that are no expert's."""
    caught = [is_abstention(decision) or decision.expert == fallback_expert for decision in decisions]
    return sum(caught) / len(caught) if caught else None


def _differences(ours: Column, predecessor: Column, resamples: Floats) -> dict[str, Difference]:
    theirs = resampled_figures(predecessor.outcomes, resamples)
    gaps = {name: values - theirs[name] for name, values in resampled_figures(ours.outcomes, resamples).items()}
    return {
        name: Difference(getattr(ours.quality, name) - getattr(predecessor.quality, name), interval)
        for name, interval in intervals_of(gaps).items()
    }


def _confusion(outcomes: Outcomes) -> dict[str, dict[str, int]]:
    counts = Counter(zip(outcomes.labels.tolist(), outcomes.answers.tolist(), strict=True))
    confusion: dict[str, dict[str, int]] = {}
    for (label, answer), count in sorted(counts.items()):
        confusion.setdefault(label, {})[answer] = count
    return confusion


def _breakdown(names: Sequence[str], ours: Column, predecessor: Column) -> dict[str, Part]:
    """By the part each prompt belongs to, most prompts first; empty if no prompt names one."""
    parts = np.array([name or "(not said)" for name in names])
    sizes = Counter(parts.tolist()) if any(names) else Counter[str]()
    return {
        name: Part(
            n,
            float(ours.outcomes.is_right[parts == name].mean()),
            float(predecessor.outcomes.is_right[parts == name].mean()),
        )
        for name, n in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    }
