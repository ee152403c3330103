"""Which samples look mislabelled, and which experts are taken for each other.

Every sample is judged by the others alone, twice. A linear head on form and meaning is fitted without the fold the
sample is in, where folds are made of whole clusters, so that near-duplicates do not vouch for one another; and its
nearest neighbours vote, near-duplicates left out. The product of both, made as sharp as is likeliest, is an
opinion on every expert.

From opinions to doubts it is confident learning (Northcutt et al. 2021, "Confident learning: estimating uncertainty in
dataset labels", JAIR 70): an expert's own mean confidence is its threshold, and a sample that reaches another
expert's threshold is suspicious. Thresholds are capped, because in a package that is perfect but for one sample they
would be out of that sample's reach. A doubt needs the neighbours' support as well.

The shipped task head is not asked: it was fitted on the demo's samples and would vouch for each of their labels. So
does the tuned encoder, more softly, and a diagnosis says so. With the encoder as it was before, and the labels of
160 of the demo's 5,366 samples changed at random, 105 of these were doubted, and 40 were among the first 50 doubts.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from lmoe_ray.routing.evidence import softmax
from lmoe_ray.routing.expert_index import Vectors
from lmoe_ray.routing.held_out import NUM_FOLDS, fold_of
from lmoe_ray.routing.sample_findings import Doubt, Overlap
from lmoe_ray.routing.sample_repeats import are_near_duplicates
from lmoe_ray.routing.sample_table import Neighbours, SampleTable, StageProgress

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

_CLUSTER_SIZE = 10
_MAX_CLUSTERS = 500
#: Added to the diagonal of the inputs' products; 1 to 5 do as well as each other, for 300 samples and for 5,000.
_RIDGE = 3.0
_SHARPNESSES = tuple(0.25 * 1.25**i for i in range(24))
#: Votes an expert has before any neighbour is asked, so that none is impossible.
_FIRST_VOTES = 0.5

_NUM_VOTERS = 10
_MAX_THRESHOLD = 0.9
_MIN_AGREEING = 3
_MIN_CONFUSED = 3
_MIN_OVERLAP = 0.05
_NUM_EXAMPLES = 3


def held_out_opinions(table: SampleTable, neighbours: Neighbours, progress: StageProgress) -> Floats:
    """How likely each sample is each expert's, judged by the other samples: ``[num_samples, num_experts]``."""
    folds = _folds_of(table.vectors)
    by_head = _fitted_softmax(_held_out_scores(table, folds, progress), table.labels)
    votes = _votes(table, neighbours) * (len(table.labels) / len(table.experts) / table.counts) + _FIRST_VOTES
    return _fitted_softmax(np.log(by_head + 1e-9) + np.log(votes), table.labels)


def find_doubts(table: SampleTable, neighbours: Neighbours, opinions: Floats) -> tuple[Doubt, ...]:
    """Samples that look like another expert's, the surest first."""
    rows, num_experts = np.arange(len(table.labels)), len(table.experts)
    own = opinions[rows, table.labels]
    thresholds = np.minimum([own[table.labels == expert].mean() for expert in range(num_experts)], _MAX_THRESHOLD)
    confident = np.where(opinions >= thresholds, opinions, -1.0)
    suggested = confident.argmax(axis=1)
    votes = _votes(table, neighbours)
    shares = votes / table.counts
    is_doubtful = (
        (confident.max(axis=1) > 0)
        & (suggested != table.labels)
        & (votes[rows, suggested] >= _MIN_AGREEING)
        & (shares[rows, suggested] > shares[rows, table.labels])
    )
    margins = opinions[rows, suggested] - own
    surest_first = sorted(np.flatnonzero(is_doubtful), key=lambda row: -margins[row])
    return tuple(_doubt(table, votes[row], opinions[row], int(row), int(suggested[row])) for row in surest_first)


def find_overlaps(table: SampleTable, opinions: Floats) -> tuple[Overlap, ...]:
    """Pairs of experts with a mean share of confused samples of 5 % or more, the worst first."""
    overlaps = [_overlap(table, opinions, a, b) for a, b in combinations(range(len(table.experts)), 2)]
    found = [overlap for overlap in overlaps if overlap is not None]
    return tuple(sorted(found, key=lambda overlap: -overlap.first_as_second - overlap.second_as_first))


def _doubt(table: SampleTable, votes: Floats, opinion: Floats, row: int, suggested: int) -> Doubt:
    """``votes`` and ``opinion`` are the sample's, ``[num_experts]`` each."""
    others = np.flatnonzero(table.labels == suggested)
    likeness = table.vectors[others] @ table.vectors[row]
    return Doubt(
        sample=table.sample(row),
        suggested=table.experts[suggested],
        confidence=float(opinion[suggested]),
        own_confidence=float(opinion[table.labels[row]]),
        num_agreeing=int(votes[suggested]),
        num_neighbours=int(votes.sum()),
        nearest=table.texts[others[likeness.argmax()]],
        likeness=float(likeness.max()),
    )


def _overlap(table: SampleTable, opinions: Floats, first: int, second: int) -> Overlap | None:
    taken_for = opinions.argmax(axis=1)
    forth = np.flatnonzero((table.labels == first) & (taken_for == second))
    back = np.flatnonzero((table.labels == second) & (taken_for == first))
    first_as_second, second_as_first = len(forth) / table.counts[first], len(back) / table.counts[second]
    if len(forth) + len(back) < _MIN_CONFUSED or (first_as_second + second_as_first) / 2 < _MIN_OVERLAP:
        return None
    clearest = [sorted(rows, key=lambda row: -opinions[row].max())[:_NUM_EXAMPLES] for rows in (forth, back)]
    examples = tuple(table.sample(int(row)) for rows in clearest for row in rows)
    return Overlap(
        table.experts[first], table.experts[second], float(first_as_second), float(second_as_first), examples
    )


def _votes(table: SampleTable, neighbours: Neighbours) -> Floats:
    """How many of the nearest that are no near-duplicates each expert has, ``[num_samples, num_experts]``."""
    may_vote = ~are_near_duplicates(neighbours)
    rows, places = np.nonzero(may_vote & (may_vote.cumsum(axis=1) <= _NUM_VOTERS))
    votes = np.zeros((len(table.labels), len(table.experts)))
    np.add.at(votes, (rows, table.labels[neighbours.rows[rows, places]]), 1.0)
    return votes


def _folds_of(vectors: Vectors) -> Labels:
    """Fold of each sample, ``[num_samples]``. A cluster is what lies nearest to one of some evenly spread samples.

    Small clusters, unlike those of :mod:`lmoe_ray.routing.held_out`: confidence must not be flattered there by a
    source that the router has seen, whereas here all that is known of a kind of sample should speak.
    """
    num_clusters = min(max(len(vectors) // _CLUSTER_SIZE, NUM_FOLDS), _MAX_CLUSTERS)
    seeds = np.unique(np.linspace(0, len(vectors) - 1, num_clusters).astype(np.int64))
    return fold_of([str(cluster) for cluster in (vectors @ vectors[seeds].T).argmax(axis=1)], NUM_FOLDS)


def _held_out_scores(table: SampleTable, folds: Labels, progress: StageProgress) -> Floats:
    """Balanced ridge regression on the experts, fitted without the sample's fold: ``[num_samples, num_experts]``.

    Products of inputs add up over folds, so leaving one out is a subtraction: a fifth of the cost of five fits. Words
    are left out: on the demo's samples they add a point of agreement and cost ten times as much.
    """
    inputs = np.concatenate([table.forms_and_meanings, np.ones((len(folds), 1), np.float32)], axis=1)
    weights = (len(folds) / len(table.experts) / table.counts)[table.labels, np.newaxis].astype(np.float32)
    targets = np.eye(len(table.experts), dtype=np.float32)[table.labels] - np.float32(1 / len(table.experts))
    members = [folds == fold for fold in range(NUM_FOLDS)]
    weighted = [(inputs[rows] * weights[rows]).T for rows in members]
    products = [left @ inputs[rows] for left, rows in zip(weighted, members, strict=True)]
    moments = [left @ targets[rows] for left, rows in zip(weighted, members, strict=True)]
    all_products, all_moments = sum(products), sum(moments)
    scores = np.zeros(targets.shape)
    for fold, rows in enumerate(members):
        system = all_products - products[fold] + np.eye(inputs.shape[1], dtype=np.float32) * _RIDGE
        scores[rows] = inputs[rows] @ solve(system, all_moments - moments[fold], assume_a="pos")
        progress("cross-validating", fold + 1, NUM_FOLDS)
    return scores


def _fitted_softmax(scores: Floats, labels: Labels) -> Floats:
    """Probabilities, as sharp as makes the labels most likely."""
    candidates = (softmax(sharpness * scores) for sharpness in _SHARPNESSES)
    return max(candidates, key=lambda p: float(np.log(p[np.arange(len(labels)), labels] + 1e-12).sum()))
