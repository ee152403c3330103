"""From the arrival times of tokens to figures: one run's, and a cell's over its rounds.

Times count from the moment all requests arrive. Throughput includes the prompts' computation; the decode
rate counts what comes after every request has its first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, takewhile
from statistics import median

import numpy as np

#: Arrival times of each token of each request, seconds.
TokenTimes = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Of one run; ``ttft`` is the time to the first token, ``itl`` that between two tokens of a request.

    ``decode_tokens_per_s`` is ``None`` if no token came after the last request's first.
    """

    tokens_per_s: float
    decode_tokens_per_s: float | None
    ttft_s_p50: float
    ttft_s_max: float
    itl_s_p50: float | None
    itl_s_p99: float | None


@dataclass(frozen=True, slots=True)
class CellFigures:
    """Medians over ``rounds`` runs, and the lowest and highest throughput among them."""

    tokens_per_s: float
    tokens_per_s_low: float
    tokens_per_s_high: float
    decode_tokens_per_s: float | None
    ttft_s_p50: float
    ttft_s_max: float
    itl_s_p50: float | None
    itl_s_p99: float | None
    rounds: int


def run_figures(token_s: TokenTimes) -> RunFigures:
    """Figures of one run; each request has at least one token."""
    first = [times[0] for times in token_s]
    end = max(times[-1] for times in token_s)
    gaps = [later - earlier for times in token_s for earlier, later in pairwise(times)]
    return RunFigures(
        tokens_per_s=sum(map(len, token_s)) / end,
        decode_tokens_per_s=_decode_rate(token_s),
        ttft_s_p50=median(first),
        ttft_s_max=max(first),
        itl_s_p50=median(gaps) if gaps else None,
        itl_s_p99=float(np.percentile(gaps, 99)) if gaps else None,
    )


def cell_figures(runs: Sequence[RunFigures]) -> CellFigures:
    """Over the rounds of a cell, at least one."""
    rates = [run.tokens_per_s for run in runs]
    return CellFigures(
        tokens_per_s=median(rates),
        tokens_per_s_low=min(rates),
        tokens_per_s_high=max(rates),
        decode_tokens_per_s=_median([run.decode_tokens_per_s for run in runs]),
        ttft_s_p50=median(run.ttft_s_p50 for run in runs),
        ttft_s_max=median(run.ttft_s_max for run in runs),
        itl_s_p50=_median([run.itl_s_p50 for run in runs]),
        itl_s_p99=_median([run.itl_s_p99 for run in runs]),
        rounds=len(runs),
    )


def serial(token_s: Sequence[float], num_requests: int) -> list[list[float]]:
    """What an engine that answers one request after the other does with equal requests, from one of them.

    Exact up to the noise of the clock, since nothing overlaps.
    """
    return [[request * token_s[-1] + time for time in token_s] for request in range(num_requests)]


def agreement(tokens: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]) -> float:
    """How much of two engines' greedy answers is equal: the mean share of an answer before its first difference.

    Rounding decides between tokens that are nearly alike, so engines that compute the same model still differ
    in places; one that computes another model agrees almost nowhere.
    """
    shares = []
    for ours, theirs in zip(tokens, reference, strict=False):
        pairs = zip(ours, theirs, strict=True)
        shares.append(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) / len(ours))
    return sum(shares) / len(shares)


def _decode_rate(token_s: TokenTimes) -> float | None:
    start = max(times[0] for times in token_s)
    end = max(times[-1] for times in token_s)
    num_later = sum(time > start for time in chain.from_iterable(token_s))
    return num_later / (end - start) if end > start else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
