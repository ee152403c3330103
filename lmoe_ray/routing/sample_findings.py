"""What can be wrong with routing samples, or missing from them: one class for each kind of finding.

Only one finding is an error: the same text in two experts, for then no router can be right. Everything else is
advice, found by rules that are sometimes wrong, and says what it rests on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

RemarkKind = Literal["few samples", "one clump", "shared opening", "imbalance", "empty", "too long"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A routing sample, whole."""

    expert: str
    text: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """One text that is there more than once, but for case and spaces; ``experts`` are those that have it."""

    text: str
    experts: tuple[str, ...]
    num_times: int

    @property
    def is_error(self) -> bool:
        return len(self.experts) > 1


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two samples that mean the same in nearly the same words; both figures are cosines."""

    first: Sample
    second: Sample
    meaning: float
    wording: float


@dataclass(frozen=True, slots=True)
class Doubt:
    """A sample that looks as if it were another expert's.

    Attributes:
        sample: as it is filed.
        suggested: the expert it looks like.
        confidence: in that one, by everything but the sample itself and what lies near it.
        own_confidence: in the expert it is filed under.
        num_agreeing: neighbours that belong to the suggested expert, of ``num_neighbours``.
        nearest: the nearest sample of the suggested expert, at the cosine ``likeness``.
    """

    sample: Sample
    suggested: str
    confidence: float
    own_confidence: float
    num_agreeing: int
    num_neighbours: int
    nearest: str
    likeness: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two experts whose samples are taken for each other's.

    ``first_as_second`` is the share of the first's samples that are taken for the second's; ``examples`` hold
    the most convincing of both.
    """

    first: str
    second: str
    first_as_second: float
    second_as_first: float
    examples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Remark:
    """What one sentence says of an expert; ``sample`` is the text it is about, if it is about one."""

    kind: RemarkKind
    expert: str
    sentence: str
    sample: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """An expert's share in a task, and about how many of its samples show it."""

    expert: str
    share: float
    num_samples: float


@dataclass(frozen=True, slots=True)
class ContestedTask:
    """A task that several experts claim and none shows well; the strongest claim comes first."""

    task: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A kind of sample to write more of: the expert owns the task, has few samples, and a rival lies close."""

    task: str
    owner: Claim
    rival: Claim


@dataclass(frozen=True, slots=True)
class ExpertCount:
    """Samples that are written, and those that the router uses: each once, and no more than its settings allow."""

    expert: str
    num_written: int
    num_used: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything found in one package.

    Attributes:
        counts: of every expert, by name.
        agreement: share of samples whose expert is found again from the other samples; ``None`` if not examined.
        unshown_tasks: tasks the program knows of and no expert shows.
        not_examined: what was left out and why, a sentence each.
    """

    counts: tuple[ExpertCount, ...]
    agreement: float | None
    repeats: tuple[Repeat, ...]
    near_duplicates: tuple[NearDuplicate, ...]
    doubts: tuple[Doubt, ...]
    overlaps: tuple[Overlap, ...]
    remarks: tuple[Remark, ...]
    contested_tasks: tuple[ContestedTask, ...]
    unshown_tasks: tuple[str, ...]
    suggestions: tuple[Suggestion, ...]
    not_examined: tuple[str, ...]

    @property
    def errors(self) -> tuple[Repeat, ...]:
        return tuple(repeat for repeat in self.repeats if repeat.is_error)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; texts are whole."""
        return {"num_errors": len(self.errors), **dataclasses.asdict(self)}
