"""One running completion: its tokens, where it stands, and what it holds on the device::

    WAITING --admitted--> PREFILL --prompt computed--> DECODE --stop, length, abort--> FINISHED
       |                     |                                                            ^
       +---------------------+-----------------------abort, or done at once---------------+

A sequence never leaves its engine's process. Only the scheduler moves it along the arrows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum

from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine.stopping import Answer


class Status(StrEnum):
    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


NEXT = {
    Status.WAITING: {Status.PREFILL, Status.FINISHED},
    Status.PREFILL: {Status.DECODE, Status.FINISHED},
    Status.DECODE: {Status.FINISHED},
    Status.FINISHED: set[Status](),
}


@dataclass(eq=False, slots=True, weakref_slot=True)
class Sequence:
    """Compared by identity.

    Attributes:
        prompt_ids: at least one token.
        choices: token ids of each permitted answer; empty if the answer is free.
        seed: of this sequence's random numbers; always set.
        adapter_digest: which adapter computes it; ``None`` is the base model.
        num_cached: leading tokens whose keys and values are in the cache.
        cache_row: its row of the KV cache while PREFILL or DECODE.
        adapter_slot: where its adapter sits while PREFILL or DECODE; 0 is the base model.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    answer: Answer
    seed: int
    adapter_digest: str | None = None
    choices: tuple[tuple[int, ...], ...] = ()
    output_ids: list[int] = field(default_factory=list)
    status: Status = Status.WAITING
    num_cached: int = 0
    cache_row: int = -1
    adapter_slot: int = 0
    arrived_at_s: float = field(default_factory=time.monotonic)
    first_token_at_s: float | None = None

    def move_to(self, status: Status) -> None:
        assert status in NEXT[self.status], f"{self.status} -> {status}. This is a bug."
        self.status = status

    @property
    def is_finished(self) -> bool:
        return self.status is Status.FINISHED

    @property
    def num_prompt_left(self) -> int:
        """Prompt tokens not computed yet."""
        return max(0, len(self.prompt_ids) - self.num_cached)

    @property
    def last_id(self) -> int:
        return self.output_ids[-1]
