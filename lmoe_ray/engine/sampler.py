"""Picks one token per row: greedy, or by chance that does not depend on who else is in the batch.

Every random number is a function of the sequence's seed and the token's position in its answer, so
the same request gives the same text alone and in a crowd. Nothing here waits for the device: what
was picked is on its way to the host when the next step starts, and only :meth:`Sampled.read` waits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from lmoe_ray.engine.drawing import pick_one_by_one, pick_together
from lmoe_ray.engine.logits import LogitsProcessors, SampleRow
from lmoe_ray.engine.token_logprobs import read_logprobs


@dataclass(frozen=True, slots=True)
class Picked:
    """One row's token. If the request asked for it, its log-probability before temperature, and id and
    log-probability of the likeliest tokens in its place.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a step sampled, on the device and on its way to the host.

    Attributes:
        token_ids: ``[num_rows]``, int64.
    """

    token_ids: torch.Tensor
    _on_host: torch.Tensor
    _is_copied: torch.cuda.Event | None

    @classmethod
    def send(cls, token_ids: torch.Tensor, logprobs: torch.Tensor | None) -> Sampled:
        """Start the one copy to the host of ids and what :func:`read_logprobs` says; float64 holds both exactly."""
        packed = token_ids.double()[None]
        if logprobs is not None:
            packed = torch.cat((packed, logprobs))
        if not packed.is_cuda:
            return cls(token_ids, packed, None)
        on_host, is_copied = packed.to("cpu", non_blocking=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
        is_copied.record()
        return cls(token_ids, on_host, is_copied)

    def read(self) -> list[Picked]:
        """One per row. Waits until the step is computed, not for steps started since."""
        if self._is_copied is not None:
            self._is_copied.synchronize()
        return [_picked(column) for column in self._on_host.T.tolist()]


def _picked(column: list[float]) -> Picked:
    """A row's numbers: its token, the token's log-probability, ids of the likeliest, their log-probabilities."""
    token_id, *rest = column
    if not rest or math.isnan(rest[0]):
        return Picked(int(token_id))
    num_top = len(rest) // 2
    pairs = zip(rest[1 : 1 + num_top], rest[1 + num_top :], strict=True)
    return Picked(int(token_id), rest[0], tuple((int(i), v) for i, v in pairs if math.isfinite(v)))


class Sampler:
    """One per engine."""

    def __init__(self, processors: LogitsProcessors) -> None:
        self._processors = processors

    def sample(self, logits: torch.Tensor, rows: Rows[SampleRow]) -> Sampled:
        """Pick from ``logits [len(rows), vocab_size]``, float32, which is changed in place."""
        self._processors.apply(logits, rows)
        wishes = [row.sequence.sampling for row in rows]
        numbers = [uniform(row.sequence.seed, row.position) for row in rows]
        token_ids = (pick_together if logits.is_cuda else pick_one_by_one)(logits, wishes, numbers)
        self._processors.note(rows, token_ids)
        return Sampled.send(token_ids, read_logprobs(logits, token_ids, rows))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that only depends on its arguments."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def derive_seed(seed: int, index: int) -> int:
    """The seed of answer ``index`` to one request: the first has the request's own."""
    if not index:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
