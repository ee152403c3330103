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
from lmoe_ray.engine.logits import LogitsProcessors, SampleRow, upload


@dataclass(frozen=True, slots=True)
class Picked:
    """One row's token, and its log-probability before temperature if the request asked for it."""

    token_id: int
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a step sampled, on the device and on its way to the host.

    Attributes:
        token_ids: ``[num_rows]``, int64.
        logprobs: ``[num_rows]``, float32, NaN in rows that did not ask; ``None`` if no row did.
    """

    token_ids: torch.Tensor
    logprobs: torch.Tensor | None
    _on_host: torch.Tensor
    _is_copied: torch.cuda.Event | None

    @classmethod
    def send(cls, token_ids: torch.Tensor, logprobs: torch.Tensor | None) -> Sampled:
        """Start the one copy to the host; float64 holds both kinds of number exactly."""
        packed = torch.stack([token_ids.double(), *([] if logprobs is None else [logprobs.double()])])
        if not packed.is_cuda:
            return cls(token_ids, logprobs, packed, None)
        on_host, is_copied = packed.to("cpu", non_blocking=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
        is_copied.record()
        return cls(token_ids, logprobs, on_host, is_copied)

    def read(self) -> list[Picked]:
        """One per row. Waits until the step is computed, not for steps started since."""
        if self._is_copied is not None:
            self._is_copied.synchronize()
        token_ids, *logprobs = self._on_host.tolist()
        values = logprobs[0] if logprobs else [math.nan] * len(token_ids)
        return [Picked(int(t), None if math.isnan(v) else v) for t, v in zip(token_ids, values, strict=True)]


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
        return Sampled.send(token_ids, _logprobs_of_picked(logits, token_ids, rows))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that only depends on its arguments."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def _logprobs_of_picked(logits: torch.Tensor, token_ids: torch.Tensor, rows: Rows[SampleRow]) -> torch.Tensor | None:
    asked = [at for at, row in enumerate(rows) if row.sequence.sampling.logprobs]
    if not asked:
        return None
    at = upload(asked, torch.int64, logits.device)
    logprobs = logits.new_full((len(rows),), math.nan)
    logprobs[at] = logprobs_of(logits[at], token_ids[at, None])[:, 0]
    return logprobs


def logprobs_of(logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Log-probability of any tokens of each row, ``token_ids [num_rows, num_tokens]``: the picked one, or others."""
    return logits.log_softmax(-1).gather(-1, token_ids)
