"""What a measurement of routing found, and the line of JSON it makes.

A column is one rule on all prompts. Ours and the predecessor's have flat keys; the simple baselines lie
under ``baselines``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lmoe_ray.bench.routing_intervals import NUM_RESAMPLES, Interval
from lmoe_ray.bench.routing_quality import Outcomes, Quality

PREDECESSOR = "airoboros"


@dataclass(frozen=True, slots=True)
class Column:
    """One rule.

    Attributes:
        outcomes: of every prompt that has an expert.
        quality: of these outcomes.
        intervals: by the name of the figure.
        threshold: confidence below which the rule abstained, as its decisions say; 0 for one that never does.
        out_of_domain_caught: share of the prompts without an expert that were left to the fallback or sent to the
            fallback expert; ``None`` if there are none.
    """

    outcomes: Outcomes
    quality: Quality
    intervals: Mapping[str, Interval]
    threshold: float
    out_of_domain_caught: float | None

    def as_dict(self) -> dict[str, Any]:
        """Flat; bounds follow their figure as ``accuracy_low`` and ``accuracy_high``."""
        return {
            **dataclasses.asdict(self.quality),
            **_bounds(self.intervals),
            "threshold": self.threshold,
            "out_of_domain_caught": self.out_of_domain_caught,
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """Ours less the predecessor's, with the interval of paired resamples."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the prompts; ``baseline_accuracy`` is the predecessor's."""

    n: int
    accuracy: float
    baseline_accuracy: float


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """All of it.

    Attributes:
        scoring: our rule.
        num_samples: routing samples in use.
        num_prompts: that have an expert.
        num_out_of_domain: that have none.
        ours, predecessor, baselines: the columns; the baselines by name.
        differences: by the name of the figure.
        resampled: what the intervals draw.
        by_slice, by_source: most prompts first; empty if the rows do not say.
        p50_ms, p95_ms: of our decisions, embedding included.
        after_encoder_p50_ms, after_encoder_p95_ms: the same without it.
        confusion: ``confusion[label][answer]`` counts prompts.
    """

    scoring: str
    num_samples: int
    num_prompts: int
    num_out_of_domain: int
    ours: Column
    predecessor: Column
    baselines: Mapping[str, Column]
    differences: Mapping[str, Difference]
    resampled: Literal["prompts", "sources"]
    p50_ms: float
    p95_ms: float
    after_encoder_p50_ms: float
    after_encoder_p95_ms: float
    confusion: dict[str, dict[str, int]]
    by_slice: Mapping[str, Part] = field(default_factory=dict)
    by_source: Mapping[str, Part] = field(default_factory=dict)

    @property
    def quality(self) -> Quality:
        return self.ours.quality

    @property
    def columns(self) -> dict[str, Column]:
        """All of them by name, ours first. Where our rule is the predecessor's, theirs is told apart."""
        predecessor = PREDECESSOR if self.scoring != PREDECESSOR else f"{PREDECESSOR}, no threshold"
        return {self.scoring: self.ours, predecessor: self.predecessor, **self.baselines}

    def as_dict(self) -> dict[str, Any]:
        """For one line of JSON; the predecessor's keys begin with ``baseline_``, a difference's end in it."""
        return {
            "scoring": self.scoring,
            "num_samples": self.num_samples,
            "n": self.num_prompts,
            **self.ours.as_dict(),
            **{f"baseline_{key}": value for key, value in self.predecessor.as_dict().items()},
            **{f"{name}_difference": difference.value for name, difference in self.differences.items()},
            **_bounds({f"{name}_difference": difference.interval for name, difference in self.differences.items()}),
            "resampled": self.resampled,
            "num_resamples": NUM_RESAMPLES,
            "num_out_of_domain": self.num_out_of_domain,
            "baselines": {name: column.as_dict() for name, column in self.baselines.items()},
            "by_slice": {name: dataclasses.asdict(part) for name, part in self.by_slice.items()},
            "by_source": {name: dataclasses.asdict(part) for name, part in self.by_source.items()},
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
            "after_encoder_p50_ms": self.after_encoder_p50_ms,
            "after_encoder_p95_ms": self.after_encoder_p95_ms,
            "confusion": self.confusion,
        }


def _bounds(intervals: Mapping[str, Interval]) -> dict[str, float]:
    sides = ("low", "high")
    return {f"{name}_{side}": getattr(interval, side) for name, interval in intervals.items() for side in sides}
