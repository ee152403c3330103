"""What each running sequence computes in the next step.

Every decoding sequence gets its one token first, so a stream once begun never stalls behind a prompt.
Then prompts share, in chunks, what :class:`StepBudget` says the streams can bear.

Steps run in the order they were scheduled, on one device stream, and the next one may be scheduled
before the host has seen the last one's tokens. So a token counts as cached once its step is scheduled,
and what a sequence leaves behind can be given to another at once, even while a step that still
writes there is on its way: the new owner's step writes later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain
from operator import attrgetter

from lmoe_ray.engine.adapter_slots import AdapterSlots
from lmoe_ray.engine.admission import Admission
from lmoe_ray.engine.block_manager import BlockManager
from lmoe_ray.engine.sequence import Sequence, Status
from lmoe_ray.engine.step import AdapterLoad, Chunk, Step
from lmoe_ray.engine.step_budget import StepBudget


class Scheduler:
    """Owned by the engine's thread."""

    def __init__(
        self,
        *,
        blocks: BlockManager,
        adapter_slots: AdapterSlots,
        max_num_seqs: int,
        max_batch_tokens: int,
        step_target_s: float,
    ) -> None:
        """``step_target_s``: how long a step that decodes should last at most."""
        self._blocks = blocks
        self._adapter_slots = adapter_slots
        self._admission = Admission(blocks, adapter_slots, max_num_seqs)
        self._step_budget = StepBudget(step_target_s, max_batch_tokens)

    @property
    def num_waiting(self) -> int:
        return len(self._admission.waiting)

    @property
    def num_running(self) -> int:
        return len(self._admission.running)

    @property
    def num_free_rows(self) -> int:
        return self._admission.num_free_rows

    @property
    def num_preempted(self) -> int:
        """How often a running sequence had to give its blocks back."""
        return self._admission.num_preempted

    @property
    def has_work(self) -> bool:
        return bool(self.num_running or self.num_waiting)

    def add(self, sequence: Sequence) -> None:
        num_tokens = len(sequence.prompt_ids) + sequence.max_new_tokens
        capacity = self._blocks.num_blocks * self._blocks.block_size
        assert num_tokens <= capacity, f"{num_tokens} tokens can never fit into {capacity}. This is a bug."
        self._admission.waiting.add(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence; harmless if it has finished."""
        self._admission.leave(sequence)

    def schedule(self) -> Step | None:
        """Choose the next step's work; ``None``: all there is waits for an adapter, or for its last token."""
        num_preempted = self.num_preempted
        decode = self._choose_decode()
        # Admitted in the step that sent it away, a sequence would be running when its token in flight arrives.
        newcomers = iter(self._admission.admit_next, None) if self.num_preempted == num_preempted else iter(())
        chunks = self._cut_prompts(self._step_budget.prompt_tokens(len(decode)), newcomers)
        self._admission.prefetch()
        return Step(decode, chunks) if decode or chunks else None

    def take_orders(self) -> tuple[AdapterLoad, ...]:
        """Adapters to load, since the last call; their sequences wait for :meth:`mark_loaded`."""
        return self._admission.take_orders()

    def mark_loaded(self, digest: str) -> None:
        self._admission.mark_loaded(digest)

    def commit(self, step: Step, finished: Collection[Sequence]) -> None:
        """The host has the step's tokens: publish blocks that have filled, let go of sequences that ended.

        Sequences of the step may have been aborted or preempted since it was scheduled; those hold
        no blocks, so they have nothing to publish.
        """
        for sequence in chain(step.decode, (chunk.sequence for chunk in step.prefill)):
            self._blocks.publish(sequence)
        for sequence in finished:
            self._admission.leave(sequence)

    def observe(self, step: Step, duration_s: float) -> None:
        """Tell how long a step took, so that the next ones keep to the target."""
        self._step_budget.observe(len(step.decode), step.num_prompt_tokens, duration_s)

    def _choose_decode(self) -> tuple[Sequence, ...]:
        # Oldest first: the youngest is sent away first, so whoever was given room keeps it.
        oldest_first = tuple(self._admission.running)
        chosen = [s for s in oldest_first if _can_decode(s) and self._admission.make_room(s)]
        for sequence in chosen:
            sequence.num_cached += 1
            self._admission.waiting.charge(sequence.adapter_digest, 1)
        return tuple(sorted(chosen, key=attrgetter("adapter_slot")))

    def _cut_prompts(self, budget: int, newcomers: Iterator[Sequence]) -> tuple[Chunk, ...]:
        """Share the budget among prompts.

        The oldest one is sure of half; the rest goes to those behind it, in order, and what they
        leave goes back to the oldest. So a long prompt is at most twice as slow, and a short one
        behind it need not wait for it to end.
        """
        begun = [s for s in self._admission.running if s.status is Status.PREFILL]
        prompts = chain(begun, newcomers)
        oldest = next(prompts, None) if budget > 0 else None
        if oldest is None:
            return ()
        behind = _cut_behind(prompts, budget - min(oldest.num_left, (budget + 1) // 2))
        return (_cut(oldest, budget - sum(chunk.num_tokens for chunk in behind)), *behind)


def _can_decode(sequence: Sequence) -> bool:
    return sequence.status is Status.DECODE and not sequence.is_all_sampled


def _cut_behind(prompts: Iterator[Sequence], budget: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    # The budget is asked first, for taking the next one may admit it.
    while budget > 0 and (sequence := next(prompts, None)):
        chunks.append(_cut(sequence, budget))
        budget -= chunks[-1].num_tokens
    return chunks


def _cut(sequence: Sequence, budget: int) -> Chunk:
    """Schedule the next tokens of a prompt, at most ``budget``."""
    start, num_tokens = sequence.num_cached, min(sequence.num_left, budget)
    sequence.num_cached += num_tokens
    if is_last := not sequence.num_left:
        sequence.move_to(Status.DECODE)
    return Chunk(sequence, start, num_tokens, is_last)
