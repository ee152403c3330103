"""One running completion: its tokens, where it stands, and what it holds on the device::

                +-------------------preempted-----------------------+
                |  +---------------preempted---+                    |
                v  v                           |                    |
    add ----> WAITING -----admitted----> PREFILL --all computed--> DECODE --stop, length, abort--> FINISHED
                 |                           |                                                       ^
                 +---------------------------+------------------abort, or done at once---------------+

A preempted sequence keeps its answer so far; admitted again, prompt and answer are computed anew like
one longer prompt. A sequence never leaves its engine's process. Only the scheduler moves it along the
arrows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum

from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine.constraint import Constraint
from lmoe_ray.engine.stopping import Answer


class Status(StrEnum):
    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


NEXT = {
    Status.WAITING: {Status.PREFILL, Status.FINISHED},
    Status.PREFILL: {Status.DECODE, Status.WAITING, Status.FINISHED},
    Status.DECODE: {Status.WAITING, Status.FINISHED},
    Status.FINISHED: set[Status](),
}


@dataclass(eq=False, slots=True, weakref_slot=True)
class Sequence:
    """Compared by identity.

    Attributes:
        prompt_ids: at least one token.
        seed: of this sequence's random numbers; always set.
        max_new_tokens: the answer ends with this many tokens, if not before.
        adapter_digest: which adapter computes it; ``None`` is the base model.
        constraint: what its answer may be; ``None`` if it is free.
        leader: another answer to the same prompt, whose cached blocks this one waits for.
        num_cached: leading tokens whose keys and values are in the cache, or will be once the steps
            already scheduled have run.
        num_in_flight: tokens sampled on the device whose value the host has not read yet.
        block_table: block ``i`` holds the keys and values of tokens ``i * block_size …``.
        block_digests: identities of its full blocks, as far as they were needed; see :class:`BlockManager`.
        num_published: leading blocks that others can find.
        adapter_slot: where its adapter sits while PREFILL or DECODE; 0 is the base model.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    answer: Answer
    seed: int
    max_new_tokens: int
    adapter_digest: str | None = None
    constraint: Constraint | None = None
    leader: Sequence | None = None
    output_ids: list[int] = field(default_factory=list)
    status: Status = Status.WAITING
    num_cached: int = 0
    num_in_flight: int = 0
    block_table: list[int] = field(default_factory=list)
    block_digests: list[bytes] = field(default_factory=list)
    num_published: int = 0
    adapter_slot: int = 0
    arrived_at_s: float = field(default_factory=time.monotonic)
    first_token_at_s: float | None = None

    def move_to(self, status: Status) -> None:
        assert status in NEXT[self.status], f"{self.status} -> {status}. This is a bug."
        self.status = status

    @property
    def is_running(self) -> bool:
        return self.status is Status.PREFILL or self.status is Status.DECODE

    @property
    def is_finished(self) -> bool:
        return self.status is Status.FINISHED

    @property
    def num_known(self) -> int:
        """Tokens of prompt and answer whose ids the host has."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def num_tokens(self) -> int:
        return self.num_known + self.num_in_flight

    @property
    def num_left(self) -> int:
        """Tokens not computed yet; a decoding sequence has one."""
        return self.num_tokens - self.num_cached

    @property
    def is_all_sampled(self) -> bool:
        """Certain to end with the tokens it has, read or in flight."""
        return len(self.output_ids) + self.num_in_flight >= self.max_new_tokens

    @property
    def last_id(self) -> int:
        return self.output_ids[-1]

    def token_ids(self, start: int, stop: int) -> tuple[int, ...]:
        """Ids of tokens ``start … stop - 1`` of prompt and answer; all of them known."""
        num_prompt_tokens = len(self.prompt_ids)
        if stop <= num_prompt_tokens:
            return self.prompt_ids[start:stop]
        answer = self.output_ids[max(0, start - num_prompt_tokens) : stop - num_prompt_tokens]
        return (*self.prompt_ids[start:], *answer)
