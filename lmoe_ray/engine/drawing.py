"""From a row of logits to a token: the likeliest, or a draw by temperature, top-k, top-p and min-p in that order.

The last three together are one threshold on the row's own probabilities. A token is found by inverting
the cumulative distribution of what reaches it, in the vocabulary's order; sorting decides only where
the threshold lies.

A GPU sorts all rows at once and never asks the host. A CPU goes row by row, while the row is in its
cache, and looks at the row's head first: sorting all of it costs five times the rest. Every way finds
the same token, since probabilities are float32 and sums float64, in which sums of numbers above
2**-30 are exact in any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Rows

import numpy as np
import torch
from numpy.typing import NDArray

from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine.logits import upload

#: A CPU groups a row by that many tokens to find its head.
GROUP_SIZE = 64
#: The smallest float32 of full precision: what weighs less weighs nothing and is never picked.
_SMALLEST = np.float32(2.0**-126)
#: Below any temperature that differs from greedy in float32, above those at which logits overflow.
_MIN_TEMPERATURE = 1e-30


def is_greedy(wishes: SamplingParams) -> bool:
    return wishes.temperature == 0 or wishes.top_p == 0 or wishes.top_k == 1


def pick_one_by_one(logits: torch.Tensor, wishes: Rows[SamplingParams], numbers: Rows[float]) -> torch.Tensor:
    """:func:`pick_together` on a CPU."""
    rows = zip(logits, wishes, numbers, strict=True)
    return torch.tensor([_pick(row, wish, number) for row, wish, number in rows], dtype=torch.int64)


def _pick(logits: torch.Tensor, wish: SamplingParams, number: float) -> int:
    if is_greedy(wish):
        return int(logits.numpy().argmax())  # Seven times as fast as torch's.
    weights: NDArray[np.float32] = torch.softmax(logits / max(wish.temperature, _MIN_TEMPERATURE), -1).numpy()
    if np.isnan(weights[0]):
        return 0  # The whole row is: one broken adapter must not end everybody's answers.
    if not wish.top_k and wish.top_p == 1 and not wish.min_p:
        return _invert_row(weights, _SMALLEST, number)
    head_floor = _head_floor(weights)
    head_ids = np.flatnonzero(weights >= head_floor)
    head = weights[head_ids]
    # A constraint may leave few tokens: then the head is all there is.
    has_enough = wish.top_k <= len(head) or head_floor == _SMALLEST
    floor = _floor(head, wish) if has_enough else np.float32(0)
    if floor >= head_floor:
        return int(head_ids[_invert_row(head, floor, number)])
    return _invert_row(weights, _floor(weights, wish), number)


def _head_floor(weights: NDArray[np.float32]) -> np.float32:
    """A weight that about one token in a hundred reaches: the median of the maxima of groups."""
    num_groups = len(weights) // GROUP_SIZE
    if not num_groups:
        return _SMALLEST
    maxima = weights[: num_groups * GROUP_SIZE].reshape(GROUP_SIZE, num_groups).max(0)
    median: np.float32 = np.partition(maxima, num_groups // 2)[num_groups // 2]
    return median if median > _SMALLEST else _SMALLEST


def _floor(weights: NDArray[np.float32], wish: SamplingParams) -> np.float32:
    """The smallest weight that is kept; of a row's head, :data:`_SMALLEST` if top-p wants more than the head.

    Ties with it are kept, as in transformers.
    """
    floor: np.float32 = max(_SMALLEST, weights.max() * np.float32(wish.min_p))
    if not wish.top_k and wish.top_p == 1:
        return floor
    ordered = -np.sort(-weights)  # torch refuses the negative stride of a reversed view.
    if 0 < wish.top_k <= len(ordered):
        floor = max(floor, ordered[wish.top_k - 1])
        ordered = ordered[ordered >= ordered[wish.top_k - 1]]
    return max(floor, _nucleus_floor(ordered, wish)) if wish.top_p < 1 else floor


def _nucleus_floor(ordered: NDArray[np.float32], wish: SamplingParams) -> np.float32:
    """The likeliest tokens that together reach top-p end here (Holtzman et al. 2019, arXiv:1904.09751)."""
    cumulative = _cumulative(ordered)
    wanted = wish.top_p * (cumulative[-1] if wish.top_k else 1)
    num_tokens = int(cumulative.searchsorted(wanted)) + 1
    return ordered[num_tokens - 1] if num_tokens <= len(ordered) else _SMALLEST


def _invert_row(weights: NDArray[np.float32], floor: np.float32, number: float) -> int:
    """:func:`_invert` of one row and what of it is kept."""
    kept = weights * (weights >= floor)
    cumulative = _cumulative(kept)
    token = int(cumulative.searchsorted(number * cumulative[-1], side="right"))
    return token if token < len(kept) else int(kept.nonzero()[0][-1])


def _cumulative(weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """torch's takes half the time of numpy's."""
    cumulative: NDArray[np.float64] = torch.from_numpy(weights).cumsum(0, dtype=torch.float64).numpy()
    return cumulative


def pick_together(logits: torch.Tensor, wishes: Rows[SamplingParams], numbers: Rows[float]) -> torch.Tensor:
    """A token of each row of ``logits [num_rows, vocab_size]``, float32, without waiting for the device.

    Args:
        numbers: where each row's choice falls in what is kept, in [0, 1); of no effect if it is greedy.

    Returns:
        ``[num_rows]``, int64.
    """
    token_ids = logits.argmax(-1)
    if drawn := [at for at, wish in enumerate(wishes) if not is_greedy(wish)]:
        at = upload(drawn, torch.int64, logits.device)
        token_ids[at] = _draw_together(logits[at], [wishes[row] for row in drawn], [numbers[row] for row in drawn])
    return token_ids


def _draw_together(logits: torch.Tensor, wishes: Rows[SamplingParams], numbers: Rows[float]) -> torch.Tensor:
    temperature = upload([max(w.temperature, _MIN_TEMPERATURE) for w in wishes], torch.float32, logits.device)
    weights = torch.softmax(logits / temperature[:, None], -1)
    min_p = upload([w.min_p for w in wishes], torch.float32, logits.device)[:, None]
    floor = weights.amax(-1, keepdim=True).mul_(min_p).clamp_min_(float(_SMALLEST))
    if any(w.top_k or w.top_p < 1 for w in wishes):
        floor = torch.maximum(floor, _cut_together(weights.sort(-1, descending=True).values, wishes))
    return _invert(weights.where(weights >= floor, 0), upload(numbers, torch.float64, logits.device))


def _cut_together(ordered: torch.Tensor, wishes: Rows[SamplingParams]) -> torch.Tensor:
    """The smallest weight that top-k and top-p keep, ``[num_rows, 1]``."""
    size = ordered.shape[-1]
    last = upload([min(w.top_k or size, size) - 1 for w in wishes], torch.int64, ordered.device)[:, None]
    wanted = [(w.top_p if w.top_p < 1 else math.inf, w.top_k > 0) for w in wishes]
    top_p, has_top_k = upload(wanted, torch.float64, ordered.device)[:, None].unbind(-1)
    is_kept = ordered >= ordered.gather(-1, last)
    kept = ordered.where(is_kept, 0)
    cumulative = kept.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:].where(has_top_k > 0, 1)
    is_nucleus = (cumulative - kept < top_p * total).logical_and_(is_kept)
    return ordered.where(is_nucleus, math.inf).amin(-1, keepdim=True)


def _invert(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The first token of each row whose cumulative weight exceeds that share of the row's total."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    tokens = torch.searchsorted(cumulative, numbers[:, None] * cumulative[:, -1:], right=True)[:, 0]
    # Rounding may carry a number close to 1 to the total itself, past the last token that has weight.
    last = weights.shape[-1] - 1 - (weights > 0).flip(-1).int().argmax(-1)
    return torch.minimum(tokens, last)
