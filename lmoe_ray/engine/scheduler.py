"""Who computes what in the next step, and who waits.

Every decoding sequence gets its one token first, so a stream once begun never stalls behind a
prompt. What is left of ``max_batch_tokens`` goes to prompts, cut into chunks. Running sequences sit
in cache rows ``0 … num_running - 1`` without a hole: when one leaves, the last one's row moves into
its place, once, so that attention always reads a plain slice of the cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from lmoe_ray.engine.adapter_slots import BASE_SLOT, AdapterSlots
from lmoe_ray.engine.sequence import Sequence, Status


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt tokens ``start … start + num_tokens - 1`` of a sequence."""

    sequence: Sequence
    start: int
    num_tokens: int

    @property
    def completes_prompt(self) -> bool:
        return self.start + self.num_tokens == len(self.sequence.prompt_ids)


@dataclass(frozen=True, slots=True)
class RowMove:
    """Copy the first ``num_tokens`` tokens of cache row ``source`` to row ``target``."""

    source: int
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class AdapterLoad:
    """Write an adapter's weights into a slot of the bank."""

    digest: str
    slot: int


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the loop. Do ``moves`` in order, then ``loads``, then the forward pass."""

    decode: tuple[Sequence, ...]
    prefill: tuple[Chunk, ...]
    moves: tuple[RowMove, ...]
    loads: tuple[AdapterLoad, ...]

    @property
    def sampled(self) -> tuple[Sequence, ...]:
        """Sequences that get a token from this step, in the order of their logits."""
        return (*self.decode, *(chunk.sequence for chunk in self.prefill if chunk.completes_prompt))


class Scheduler:
    """Owned by the engine's thread."""

    def __init__(self, *, num_rows: int, max_batch_tokens: int, adapter_slots: AdapterSlots) -> None:
        self._num_rows = num_rows
        self._max_batch_tokens = max_batch_tokens
        self._adapter_slots = adapter_slots
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # the index is the cache row
        self._prompts: list[Sequence] = []  # those of _running that are in PREFILL, oldest first
        self._moves: list[RowMove] = []
        self._loads: list[AdapterLoad] = []
        self._num_passes = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_free_rows(self) -> int:
        return self._num_rows - len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence between two steps; harmless if it has finished."""
        if sequence.status is Status.WAITING:
            self._waiting.remove(sequence)
            sequence.move_to(Status.FINISHED)
        elif not sequence.is_finished:
            self._release(sequence)

    def schedule(self) -> Step:
        """Choose the next step's work. Follow with :meth:`commit`, before anything else."""
        decode = tuple(s for s in self._running if s.status is Status.DECODE)
        chunks = self._cut_prompts(self._max_batch_tokens - len(decode))
        moves, self._moves = tuple(self._moves), []
        loads, self._loads = tuple(self._loads), []
        return Step(decode, chunks, moves, loads)

    def commit(self, step: Step, finished: Collection[Sequence]) -> None:
        """Record what the step computed, and let go of the sequences that ended with it."""
        for sequence in step.decode:
            sequence.num_cached += 1
        for chunk in step.prefill:
            chunk.sequence.num_cached += chunk.num_tokens
            if chunk.completes_prompt:
                chunk.sequence.move_to(Status.DECODE)
                self._prompts.remove(chunk.sequence)
        for sequence in finished:
            self._release(sequence)

    def _cut_prompts(self, budget: int) -> tuple[Chunk, ...]:
        """Share the budget among prompts.

        The oldest one is sure of half; the rest goes to those behind it, in order, and what they
        leave goes back to the oldest. So a long prompt is at most twice as slow, and a short one
        behind it need not wait for it to end.
        """
        if not self._prompts:
            self._admit_next()
        if not self._prompts or budget <= 0:
            return ()
        oldest = self._prompts[0]
        reserved = min(oldest.num_prompt_left, (budget + 1) // 2)
        behind = self._cut_behind(budget - reserved)
        num_tokens = min(oldest.num_prompt_left, budget - sum(chunk.num_tokens for chunk in behind))
        return (Chunk(oldest, oldest.num_cached, num_tokens), *behind)

    def _cut_behind(self, budget: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        while budget > 0:
            position = len(chunks) + 1
            if position >= len(self._prompts) and not self._admit_next():
                break
            sequence = self._prompts[position]
            chunks.append(Chunk(sequence, sequence.num_cached, min(sequence.num_prompt_left, budget)))
            budget -= chunks[-1].num_tokens
        return chunks

    def _admit_next(self) -> bool:
        """Give a row and an adapter slot to the first waiting sequence that can have both.

        A sequence whose adapter finds no slot may be passed by later ones whose adapter is there,
        but only so often; then nobody passes until the slots drain and its turn comes.
        """
        if not self.num_free_rows:
            return False
        for position, sequence in enumerate(self._waiting):
            if position and self._num_passes >= 2 * self._num_rows:
                return False
            if self._acquire_slot(sequence):
                self._num_passes = self._num_passes + 1 if position else 0
                del self._waiting[position]
                self._start(sequence)
                return True
        return False

    def _acquire_slot(self, sequence: Sequence) -> bool:
        digest = sequence.adapter_digest
        if digest is None:
            sequence.adapter_slot = BASE_SLOT
            return True
        acquired = self._adapter_slots.acquire(digest)
        if acquired is None:
            return False
        sequence.adapter_slot = acquired.slot
        if acquired.must_load:
            self._loads.append(AdapterLoad(digest, acquired.slot))
        return True

    def _start(self, sequence: Sequence) -> None:
        sequence.cache_row = len(self._running)
        self._running.append(sequence)
        self._prompts.append(sequence)
        sequence.move_to(Status.PREFILL)

    def _release(self, sequence: Sequence) -> None:
        if sequence.status is Status.PREFILL:
            self._prompts.remove(sequence)
        sequence.move_to(Status.FINISHED)
        last = self._running.pop()
        if last is not sequence:
            self._moves.append(RowMove(last.cache_row, sequence.cache_row, last.num_cached))
            last.cache_row = sequence.cache_row
            self._running[last.cache_row] = last
        sequence.cache_row = -1
        if sequence.adapter_digest is not None:
            self._adapter_slots.release(sequence.adapter_digest)
