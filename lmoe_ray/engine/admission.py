"""Who runs and who waits. To run takes a place, blocks and an adapter that is loaded: all three or none.

A slot is reserved for the adapters of those first in line. One that is in no slot is ordered and comes
in while others compute. The first sequence to use it takes the reservation's pin over, so the adapter
cannot be lost before; nor does the pin outlast those who wait for it, so slots never stay pinned for nobody.

Nobody is sent away to admit another. A running sequence whose next token finds no block sends away
the one admitted last, so the oldest always comes to its end and makes room for the rest.
"""

from __future__ import annotations

from itertools import islice

from lmoe_ray.engine.adapter_slots import BASE_SLOT, AdapterSlots
from lmoe_ray.engine.block_manager import BlockManager
from lmoe_ray.engine.sequence import Sequence, Status
from lmoe_ray.engine.step import AdapterLoad
from lmoe_ray.engine.waiting_queue import WaitingQueue

#: How many of those first in line have a slot reserved before there is a place for them.
NUM_PREFETCHED = 2


class Admission:
    """Moves sequences into and out of WAITING.

    Attributes:
        running: in order of admission.
        waiting: whoever is neither running nor finished.
        num_preempted: how often a running sequence was sent back to wait.
    """

    def __init__(self, blocks: BlockManager, adapter_slots: AdapterSlots, max_num_seqs: int) -> None:
        self._blocks = blocks
        self._adapter_slots = adapter_slots
        self._max_num_seqs = max_num_seqs
        self._orders: list[AdapterLoad] = []
        self._reserved: dict[str, int] = {}  # slots pinned for somebody who waits
        self._coming: set[str] = set()  # those of them that are not loaded yet
        self._num_passes = 0
        self.running: list[Sequence] = []
        self.waiting = WaitingQueue()
        self.num_preempted = 0

    @property
    def num_free_rows(self) -> int:
        return self._max_num_seqs - len(self.running)

    def admit_next(self) -> Sequence | None:
        """Start the first waiting sequence that can be had.

        A sequence whose adapter finds no slot may be passed by later ones, but only so often. Then
        only those pass who have a slot reserved, for it cannot be had before they have used it. One
        whose adapter is on its way is not held up by who passes, and one that finds no blocks is
        never passed: short prompts would keep a long one out for good.
        """
        if not self.num_free_rows:
            return None
        is_passing = False
        for sequence in self.waiting:
            digest = sequence.adapter_digest
            if is_passing and self._num_passes >= 2 * self._max_num_seqs and digest not in self._reserved:
                continue
            # One block for each that runs, or their next tokens would send the newcomer away again.
            if not self._blocks.can_admit(sequence, num_kept=len(self.running)):
                return None
            if self._take_slot(sequence):
                self._num_passes = self._num_passes + 1 if is_passing else 0
                self._start(sequence)
                return sequence
            is_passing = is_passing or digest not in self._coming
        return None

    def prefetch(self) -> None:
        """Reserve slots for those first in line, so that their adapters are there when a place is.

        Nobody is served before those ahead: their adapters are pinned by then, so a later one evicts none of them.
        """
        for sequence in islice(self.waiting, NUM_PREFETCHED):
            digest = sequence.adapter_digest
            if digest is not None and not self._reserve(digest):
                return

    def take_orders(self) -> tuple[AdapterLoad, ...]:
        """What must be loaded, since the last call."""
        orders, self._orders = tuple(self._orders), []
        return orders

    def mark_loaded(self, digest: str) -> None:
        """What was ordered is in its slot."""
        self._coming.remove(digest)
        self._drop_unwanted(digest)

    def make_room(self, sequence: Sequence) -> bool:
        """Find a block for a running sequence's next token; ``False``: it was the youngest and had to go itself."""
        while not self._blocks.grow(sequence, sequence.num_tokens):
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def leave(self, sequence: Sequence) -> None:
        """End a sequence, wherever it stands; harmless if it has ended."""
        if sequence.is_finished:
            return
        if sequence.is_running:
            self._give_back(sequence)
        else:
            self.waiting.remove(sequence)
            self._drop_unwanted(sequence.adapter_digest)
        sequence.move_to(Status.FINISHED)

    def _preempt(self, sequence: Sequence) -> None:
        self._give_back(sequence)
        # A token in flight is dropped and sampled again later, by the same random number.
        sequence.num_in_flight = 0
        sequence.move_to(Status.WAITING)
        self.waiting.add_first(sequence)
        self.num_preempted += 1

    def _take_slot(self, sequence: Sequence) -> bool:
        """Pin the slot of a sequence's adapter; ``False``: there is none, or the adapter is on its way."""
        digest = sequence.adapter_digest
        if digest is None:
            sequence.adapter_slot = BASE_SLOT
            return True
        if not self._reserve(digest) or digest in self._coming:
            return False
        sequence.adapter_slot = self._reserved.pop(digest)  # the pin is the sequence's from now on
        return True

    def _reserve(self, digest: str) -> bool:
        """Pin a slot for whoever uses an adapter next, and order what is not there; ``False``: all are pinned."""
        if digest in self._reserved:
            return True
        acquired = self._adapter_slots.acquire(digest)
        if acquired is None:
            return False
        self._reserved[digest] = acquired.slot
        if acquired.must_load:
            self._orders.append(AdapterLoad(digest, acquired.slot))
            self._coming.add(digest)
        return True

    def _drop_unwanted(self, digest: str | None) -> None:
        """Give up the reservation of an adapter nobody waits for; one on its way is written to the end first."""
        if digest in self._reserved and digest not in self._coming and not self.waiting.has(digest):
            del self._reserved[digest]
            self._adapter_slots.release(digest)

    def _start(self, sequence: Sequence) -> None:
        self.waiting.pop(sequence)
        self._blocks.admit(sequence)
        self.waiting.charge(sequence.adapter_digest, sequence.num_left)
        self.running.append(sequence)
        sequence.move_to(Status.PREFILL)

    def _give_back(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._blocks.release(sequence)
        if sequence.adapter_digest is not None:
            self._adapter_slots.release(sequence.adapter_digest)
