"""Picks one token per row: greedy, or by chance that does not depend on who else is in the batch.

Every random number is a function of the sequence's seed and the token's position in its answer, and
every filter is a threshold on a row's own values, so the same request gives the same text alone and
in a crowd. A token is found by inverting the cumulative distribution in the vocabulary's order;
sorting, needed for top-p, decides only where the threshold lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine.logits import LogitsProcessors
from lmoe_ray.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Picked:
    """One row's token, and its log-probability before temperature if the request asked for it."""

    token_id: int
    logprob: float | None


class Sampler:
    """One per engine."""

    def __init__(self, processors: LogitsProcessors) -> None:
        self._processors = processors

    def sample(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> list[Picked]:
        """Pick from ``logits [len(sequences), vocab_size]``, float32, which is changed in place."""
        self._processors.apply(logits, sequences)
        picked = logits.argmax(-1)
        if drawn := [row for row, s in enumerate(sequences) if not is_greedy(s.sampling)]:
            at = torch.tensor(drawn, device=logits.device)
            picked[at] = _draw(logits if len(drawn) == len(sequences) else logits[at], [sequences[r] for r in drawn])
        logprobs = _logprobs(logits, picked, sequences)
        return [Picked(token_id, logprobs.get(row)) for row, token_id in enumerate(picked.tolist())]


def is_greedy(wishes: SamplingParams) -> bool:
    return wishes.temperature == 0 or wishes.top_p == 0 or wishes.top_k == 1


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that only depends on its arguments."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def _draw(logits: torch.Tensor, sequences: Rows[Sequence]) -> torch.Tensor:
    """``[num_rows]`` token ids, each row by its temperature, top-k, top-p and min-p, in that order."""
    wishes = [s.sampling for s in sequences]
    device = logits.device
    temperature = torch.tensor([w.temperature for w in wishes], device=device)[:, None]
    # The largest logit becomes 0 first: a tiny temperature then gives minus infinity, never a NaN.
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature
    _keep_top_k(scaled, [w.top_k for w in wishes])
    weights = torch.softmax(scaled, -1)
    _keep_top_p(weights, wishes)
    if any(w.min_p for w in wishes):
        floor = weights.amax(-1, keepdim=True) * torch.tensor([w.min_p for w in wishes], device=device)[:, None]
        weights.masked_fill_(weights < floor, 0)
    numbers = [uniform(s.seed, len(s.output_ids)) for s in sequences]
    return _invert(weights, torch.tensor(numbers, dtype=torch.float64, device=device))


def _keep_top_k(scaled: torch.Tensor, top_k: list[int]) -> None:
    """Drop what is below each row's k-th largest value; ties with it stay, as in transformers."""
    vocab_size = scaled.shape[-1]
    at = [row for row, k in enumerate(top_k) if 0 < k < vocab_size]
    if not at:
        return
    last = torch.tensor([top_k[row] - 1 for row in at], device=scaled.device)[:, None]
    rows = scaled[at]
    threshold = rows.topk(max(top_k[row] for row in at), -1).values.gather(-1, last)
    scaled[at] = rows.masked_fill_(rows < threshold, float("-inf"))


def _keep_top_p(weights: torch.Tensor, wishes: list[SamplingParams]) -> None:
    """Drop what is below the smallest probability of each row's nucleus (Holtzman et al. 2019, arXiv:1904.09751)."""
    at = [row for row, wish in enumerate(wishes) if wish.top_p < 1]
    if not at:
        return
    rows = weights[at]
    top_p = torch.tensor([wishes[row].top_p for row in at], device=weights.device)[:, None]
    # With top-k all else is zero already, so the head of the sorted row is all of it.
    num_kept = max(wishes[row].top_k or rows.shape[-1] for row in at)
    head = rows.topk(min(num_kept, rows.shape[-1]), -1).values
    is_nucleus = head.cumsum(-1) - head < top_p
    threshold = head.masked_fill_(~is_nucleus, float("inf")).amin(-1, keepdim=True)
    weights[at] = rows.masked_fill_(rows < threshold, 0)


def _invert(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The first token of each row whose cumulative weight exceeds that share of the row's total."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    targets = numbers[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    # Rounding may carry a target to the total itself, past the last token that has weight.
    last = weights.shape[-1] - 1 - (weights > 0).flip(-1).int().argmax(-1)
    return torch.minimum(tokens, last)


def _logprobs(logits: torch.Tensor, picked: torch.Tensor, sequences: Rows[Sequence]) -> dict[int, float]:
    wanted = [row for row, s in enumerate(sequences) if s.sampling.logprobs]
    if not wanted:
        return {}
    rows = logits[wanted]
    values = rows.gather(-1, picked[wanted][:, None])[:, 0] - rows.logsumexp(-1)
    return dict(zip(wanted, values.tolist(), strict=True))
