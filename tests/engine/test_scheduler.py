"""Who computes what, who waits, who is sent back to wait, and what each holds meanwhile."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmoe_ray.engine.adapter_slots import AdapterSlots
from lmoe_ray.engine.block_manager import BlockManager
from lmoe_ray.engine.scheduler import Scheduler
from lmoe_ray.engine.sequence import Sequence, Status
from lmoe_ray.engine.step import AdapterLoad, Step
from tests.engine.test_sequence import make_sequence


def make_scheduler(
    *,
    max_num_seqs: int = 4,
    max_batch_tokens: int = 8,
    num_slots: int = 2,
    slots: AdapterSlots | None = None,
    num_blocks: int = 1000,
    block_size: int = 4,
) -> Scheduler:
    return Scheduler(
        blocks=BlockManager(num_blocks, block_size),
        adapter_slots=slots or AdapterSlots(num_slots),
        max_num_seqs=max_num_seqs,
        max_batch_tokens=max_batch_tokens,
        step_target_s=1.0,
    )


def turn(scheduler: Scheduler, *finished: Sequence) -> Step:
    """One step in which every sampled sequence gets a token and ``finished`` ones end."""
    step = scheduler.schedule()
    assert step is not None
    for sequence in step.sampled:
        sequence.output_ids.append(7)
    scheduler.commit(step, finished)
    return step


def load_all(scheduler: Scheduler) -> tuple[AdapterLoad, ...]:
    """Whatever was ordered comes in."""
    orders = scheduler.take_orders()
    for order in orders:
        scheduler.mark_loaded(order.digest)
    return orders


def lengths(step: Step) -> list[int]:
    return [chunk.num_tokens for chunk in step.prefill]


def add(scheduler: Scheduler, *sequences: Sequence) -> None:
    for sequence in sequences:
        scheduler.add(sequence)


def add_loaded(scheduler: Scheduler, *sequences: Sequence) -> tuple[AdapterLoad, ...]:
    """Add to a scheduler where nobody runs; the adapters come in before the next step."""
    add(scheduler, *sequences)
    assert scheduler.schedule() is None
    return load_all(scheduler)


# ── prompts and tokens ───────────────────────────────────────────────────────────────────────────


def test_a_short_prompt_is_computed_in_one_step_and_decodes_in_the_next() -> None:
    scheduler, sequence = make_scheduler(), make_sequence(3)
    add(scheduler, sequence)
    step = turn(scheduler)
    assert lengths(step) == [3]
    assert step.sampled == (sequence,)
    assert (sequence.status, sequence.num_cached) == (Status.DECODE, 3)
    assert turn(scheduler).decode == (sequence,)
    assert sequence.num_cached == 4


def test_a_long_prompt_is_cut_into_chunks_and_sampled_only_at_its_end() -> None:
    scheduler, sequence = make_scheduler(max_batch_tokens=4), make_sequence(10)
    add(scheduler, sequence)
    steps = [turn(scheduler) for _ in range(3)]
    assert [lengths(step) for step in steps] == [[4], [4], [2]]
    assert [step.sampled for step in steps] == [(), (), (sequence,)]
    assert [step.prefill[0].start for step in steps] == [0, 4, 8]


def test_decoding_sequences_get_their_token_before_any_prompt() -> None:
    scheduler, first, second = make_scheduler(max_batch_tokens=4), make_sequence(2), make_sequence(9)
    add(scheduler, first)
    turn(scheduler)
    add(scheduler, second)
    step = turn(scheduler)
    assert step.decode == (first,)
    assert lengths(step) == [3]


def test_a_prompt_waits_when_streams_need_the_whole_step() -> None:
    scheduler, first, second = make_scheduler(max_batch_tokens=1), make_sequence(1), make_sequence(1)
    add(scheduler, first, second)
    turn(scheduler)
    step = turn(scheduler)
    assert (step.decode, step.prefill) == ((first,), ())
    assert second.status is Status.WAITING


def test_several_short_prompts_share_a_step() -> None:
    scheduler = make_scheduler(max_batch_tokens=8)
    add(scheduler, make_sequence(3), make_sequence(3), make_sequence(2))
    assert lengths(turn(scheduler)) == [3, 3, 2]


def test_a_long_prompt_leaves_half_of_the_budget_to_short_ones_behind_it() -> None:
    scheduler = make_scheduler(max_batch_tokens=8)
    add(scheduler, make_sequence(100), make_sequence(3))
    assert lengths(turn(scheduler)) == [5, 3]
    assert lengths(turn(scheduler)) == [7]


def test_prompts_shrink_beside_streams_when_steps_last_too_long() -> None:
    scheduler, stream = make_scheduler(max_batch_tokens=256), make_sequence(2)
    add(scheduler, stream)
    turn(scheduler)
    add(scheduler, make_sequence(1000, max_new_tokens=1))
    step = turn(scheduler)
    assert lengths(step) == [64]
    scheduler.observe(step, duration_s=2.0)
    assert lengths(turn(scheduler)) == [32]
    turn(scheduler, stream)
    assert lengths(turn(scheduler)) == [256]


def test_decoding_sequences_of_one_adapter_lie_together() -> None:
    scheduler = make_scheduler(max_num_seqs=5)
    first, second, third, fourth = (make_sequence(1, adapter) for adapter in ("a", None, "b", "a"))
    add_loaded(scheduler, first, third, fourth)
    add(scheduler, second)
    turn(scheduler)
    decode = turn(scheduler).decode
    assert [sequence.adapter_slot for sequence in decode] == [0, 1, 1, 2]
    assert decode == (second, first, fourth, third)


def test_an_equal_beginning_is_not_computed_twice() -> None:
    scheduler, first, second = make_scheduler(max_batch_tokens=16), make_sequence(9), make_sequence(10)
    add(scheduler, first)
    turn(scheduler)
    add(scheduler, second)
    step = turn(scheduler)
    assert [(chunk.start, chunk.num_tokens, chunk.is_last) for chunk in step.prefill] == [(8, 2, True)]


def test_without_work_there_is_no_step() -> None:
    scheduler = make_scheduler()
    assert not scheduler.has_work
    assert scheduler.schedule() is None


# ── places and fairness ─────────────────────────────────────────────────────────────────────


def test_a_sequence_without_a_free_place_waits() -> None:
    scheduler, first, second = make_scheduler(max_num_seqs=1), make_sequence(2), make_sequence(2)
    add(scheduler, first, second)
    assert lengths(turn(scheduler)) == [2]
    assert (scheduler.num_running, scheduler.num_waiting, scheduler.num_free_rows) == (1, 1, 0)
    turn(scheduler, first)
    assert turn(scheduler).sampled == (second,)


def test_a_waiting_sequence_can_be_aborted() -> None:
    scheduler, sequence = make_scheduler(), make_sequence()
    add(scheduler, sequence)
    scheduler.abort(sequence)
    assert sequence.is_finished
    assert not scheduler.has_work


def test_a_sequence_can_be_aborted_in_the_middle_of_its_prompt() -> None:
    scheduler = make_scheduler(max_batch_tokens=4, max_num_seqs=2)
    long, short = make_sequence(10, "a"), make_sequence(1)
    add_loaded(scheduler, long)
    add(scheduler, short)
    turn(scheduler)
    turn(scheduler)
    scheduler.abort(long)
    assert (scheduler.num_running, long.block_table) == (1, [])
    assert turn(scheduler).decode == (short,)


def test_aborting_a_finished_sequence_is_harmless() -> None:
    scheduler, sequence = make_scheduler(), make_sequence()
    add(scheduler, sequence)
    turn(scheduler, sequence)
    scheduler.abort(sequence)
    assert scheduler.num_free_rows == 4


def test_a_sequence_aborted_while_its_step_runs_is_left_alone_by_commit() -> None:
    scheduler, sequence = make_scheduler(), make_sequence(4)
    add(scheduler, sequence)
    step = scheduler.schedule()
    assert step is not None
    scheduler.abort(sequence)
    scheduler.commit(step, [])
    assert (sequence.block_table, sequence.num_published) == ([], 0)


def test_a_crowd_for_one_adapter_does_not_stand_before_the_first_request_for_another() -> None:
    scheduler = make_scheduler(max_num_seqs=1)
    add_loaded(scheduler, *(make_sequence(1, "hot") for _ in range(20)))
    turn(scheduler, turn(scheduler).sampled[0])
    cold = make_sequence(1, "cold")
    add(scheduler, cold)
    turn(scheduler, turn(scheduler).sampled[0])
    load_all(scheduler)
    assert turn(scheduler).sampled == (cold,)


def test_prompts_admitted_count_as_service_of_their_adapter() -> None:
    scheduler = make_scheduler(max_num_seqs=2)
    first, second, other = (make_sequence(2, adapter) for adapter in ("a", "a", "b"))
    add_loaded(scheduler, first, second, other)
    assert turn(scheduler).sampled == (first, other)
    assert second.status is Status.WAITING


def test_tokens_generated_count_as_service_of_their_adapter() -> None:
    scheduler = make_scheduler(max_num_seqs=1)
    first, second, other = (make_sequence(2, adapter) for adapter in ("a", "a", "b"))
    add_loaded(scheduler, first)
    turn(scheduler)
    add(scheduler, second, other)
    turn(scheduler, first)
    load_all(scheduler)
    assert turn(scheduler).sampled == (other,)


# ── adapters and their slots ─────────────────────────────────────────────────────────────────────


def test_a_sequence_waits_for_its_adapter_while_others_compute() -> None:
    scheduler, base, expert = make_scheduler(), make_sequence(2), make_sequence(2, "a")
    add(scheduler, base, expert)
    assert turn(scheduler).sampled == (base,)
    assert scheduler.take_orders() == (AdapterLoad("a", 1),)
    for _ in range(3):
        assert turn(scheduler).sampled == (base,)
    scheduler.mark_loaded("a")
    step = turn(scheduler)
    assert (step.decode, lengths(step)) == ((base,), [2])
    assert (step.sampled[1], expert.adapter_slot) == (expert, 1)


def test_an_adapter_is_ordered_once_however_many_wait_for_it() -> None:
    scheduler = make_scheduler()
    add(scheduler, make_sequence(2, "a"), make_sequence(2, "a"))
    assert scheduler.schedule() is None
    assert load_all(scheduler) == (AdapterLoad("a", 1),)
    add(scheduler, make_sequence(2, "a"))
    assert [chunk.sequence.adapter_slot for chunk in turn(scheduler).prefill] == [1, 1, 1]
    assert scheduler.take_orders() == ()


def test_every_adapter_that_finds_a_slot_is_ordered_at_once() -> None:
    scheduler = make_scheduler(num_slots=4)
    orders = add_loaded(scheduler, *(make_sequence(1, adapter) for adapter in "abcde"))
    assert [order.digest for order in orders] == ["a", "b", "c", "d"]


def test_all_who_wait_for_an_adapter_run_once_it_is_in_and_leave_no_pin() -> None:
    slots = AdapterSlots(1)
    scheduler, first, second = make_scheduler(slots=slots), make_sequence(1, "a"), make_sequence(1, "a")
    add_loaded(scheduler, first, second)
    assert turn(scheduler).sampled == (first, second)
    turn(scheduler, first)
    assert slots.num_pinned == 1
    turn(scheduler, second)
    assert slots.num_pinned == 0


def test_an_adapter_on_its_way_keeps_its_slot_when_the_last_who_wanted_it_leaves() -> None:
    slots = AdapterSlots(1)
    scheduler, leaver, other = make_scheduler(slots=slots), make_sequence(1, "a"), make_sequence(1, "b")
    add(scheduler, leaver)
    assert scheduler.schedule() is None
    scheduler.abort(leaver)
    add(scheduler, other)
    assert scheduler.schedule() is None
    assert scheduler.take_orders() == (AdapterLoad("a", 1),)
    scheduler.mark_loaded("a")
    assert slots.num_pinned == 0
    assert scheduler.schedule() is None
    assert load_all(scheduler) == (AdapterLoad("b", 1),)
    assert turn(scheduler).sampled == (other,)


def test_an_adapter_that_is_in_gives_up_its_slot_when_the_last_who_wanted_it_leaves() -> None:
    slots = AdapterSlots(1)
    scheduler, leaver, other = make_scheduler(slots=slots), make_sequence(1, "a"), make_sequence(1, "b")
    add_loaded(scheduler, leaver)
    scheduler.abort(leaver)
    assert (slots.num_pinned, slots.resident) == (0, frozenset("a"))
    assert add_loaded(scheduler, other) == (AdapterLoad("b", 1),)


@pytest.mark.parametrize("is_in", [False, True])
def test_who_still_waits_for_an_adapter_takes_over_what_another_had_ordered(is_in: bool) -> None:
    slots = AdapterSlots(1)
    scheduler, leaver, heir = make_scheduler(slots=slots), make_sequence(1, "a"), make_sequence(1, "a")
    add(scheduler, leaver, heir)
    assert scheduler.schedule() is None
    if is_in:
        load_all(scheduler)
    scheduler.abort(leaver)
    load_all(scheduler)
    assert slots.num_pinned == 1
    turn(scheduler, heir)
    assert (heir.adapter_slot, slots.num_pinned) == (1, 0)


def test_who_comes_back_while_an_adapter_is_on_its_way_orders_no_second_one() -> None:
    scheduler, leaver, late = make_scheduler(), make_sequence(1, "a"), make_sequence(1, "a")
    add(scheduler, leaver)
    scheduler.schedule()
    scheduler.abort(leaver)
    add(scheduler, late)
    scheduler.schedule()
    assert load_all(scheduler) == (AdapterLoad("a", 1),)
    assert turn(scheduler).sampled == (late,)


def test_adapters_of_the_first_two_in_line_are_ordered_before_there_is_a_place() -> None:
    scheduler = make_scheduler(max_num_seqs=1, num_slots=3)
    add(scheduler, make_sequence(1), *(make_sequence(1, adapter) for adapter in "abc"))
    turn(scheduler)
    assert scheduler.take_orders() == (AdapterLoad("a", 1), AdapterLoad("b", 2))


def test_an_adapter_ordered_ahead_evicts_none_of_those_before_it_in_line() -> None:
    scheduler = make_scheduler(max_num_seqs=1, num_slots=1)
    once, first, second = (make_sequence(1, adapter) for adapter in "aab")
    add_loaded(scheduler, once)
    turn(scheduler, once)
    base = make_sequence(1)
    add(scheduler, base)
    turn(scheduler)
    add(scheduler, first, second)
    turn(scheduler)
    assert scheduler.take_orders() == ()
    turn(scheduler, base)
    assert turn(scheduler, first).sampled == (first,)
    assert scheduler.schedule() is None
    assert scheduler.take_orders() == (AdapterLoad("b", 1),)


def test_a_sequence_whose_adapter_finds_no_slot_lets_others_pass() -> None:
    scheduler = make_scheduler(num_slots=1)
    first, blocked, same, base = (make_sequence(1, adapter) for adapter in ("a", "b", "a", None))
    add_loaded(scheduler, first)
    turn(scheduler)
    add(scheduler, blocked, same, base)
    assert set(turn(scheduler).sampled) == {first, same, base}
    assert blocked.status is Status.WAITING
    turn(scheduler, first, same)
    assert turn(scheduler).sampled == (base,)
    assert load_all(scheduler) == (AdapterLoad("b", 1),)
    assert blocked in turn(scheduler).sampled


def test_a_sequence_is_passed_only_so_often_and_the_next_one_too() -> None:
    scheduler = make_scheduler(max_num_seqs=2, num_slots=1)
    for _ in range(2):
        first, blocked = make_sequence(1, "a"), make_sequence(1, "b")
        add_loaded(scheduler, first)
        turn(scheduler)
        add(scheduler, blocked)
        passers, refused = pass_until_refused(scheduler, first, "a")
        assert len(passers) == 4
        assert scheduler.schedule() is None
        assert load_all(scheduler) == (AdapterLoad("b", 1),)
        turn(scheduler, blocked)
        scheduler.abort(refused)


def test_who_waits_for_an_adapter_on_its_way_does_not_hold_up_the_others() -> None:
    scheduler = make_scheduler(max_num_seqs=2)
    expert, running = make_sequence(1, "a"), make_sequence(1)
    add(scheduler, expert, running)
    turn(scheduler)
    for _ in range(20):
        newcomer = make_sequence(1)
        add(scheduler, newcomer)
        assert newcomer in turn(scheduler, running).sampled
        running = newcomer
    load_all(scheduler)
    assert expert in turn(scheduler, running).sampled


def test_an_adapter_on_its_way_in_between_does_not_change_who_is_passed() -> None:
    scheduler = make_scheduler(max_num_seqs=2, num_slots=2)
    running, early, blocked, coming = (make_sequence(1, adapter) for adapter in "acbc")
    add_loaded(scheduler, running)
    turn(scheduler)
    add(scheduler, early)
    turn(scheduler)
    scheduler.abort(early)
    add(scheduler, blocked, coming)
    passers, _ = pass_until_refused(scheduler, running, "a")
    assert len(passers) == 4
    assert scheduler.schedule() is None
    assert scheduler.take_orders() == (AdapterLoad("c", 2), AdapterLoad("b", 1))


def pass_until_refused(scheduler: Scheduler, running: Sequence, adapter: str) -> tuple[list[Sequence], Sequence]:
    """Send in one sequence after another as the one before ends: those admitted, and the first that was not."""
    passers: list[Sequence] = []
    while len(passers) < 20:
        newcomer = make_sequence(1, adapter)
        add(scheduler, newcomer)
        turn(scheduler, running)
        if newcomer.status is Status.WAITING:
            return passers, newcomer
        passers.append(running := newcomer)
    pytest.fail("nobody is ever refused")


def test_who_has_a_slot_reserved_passes_even_when_nobody_else_may() -> None:
    """Or nobody would ever run: the slot is kept for somebody who is kept from it."""
    scheduler = make_scheduler(max_num_seqs=1, num_slots=1)
    for _ in range(3):  # others may pass twice
        early, blocked, passer = (make_sequence(1, adapter) for adapter in "aba")
        add(scheduler, early)
        assert scheduler.schedule() is None
        scheduler.abort(early)
        add(scheduler, blocked, passer)
        assert load_all(scheduler) == (AdapterLoad("a", 1),)
        assert turn(scheduler, passer).sampled == (passer,)
        assert scheduler.schedule() is None
        scheduler.abort(blocked)
        assert load_all(scheduler) == (AdapterLoad("b", 1),)


# ── blocks and preemption ────────────────────────────────────────────────────────────────────────


def test_what_can_never_fit_is_our_own_mistake() -> None:
    scheduler = make_scheduler(num_blocks=2, block_size=4)
    scheduler.add(make_sequence(3, max_new_tokens=5))
    with pytest.raises(AssertionError, match="never fit"):
        scheduler.add(make_sequence(3, max_new_tokens=6))


def test_a_prompt_without_room_waits_and_nobody_makes_way_for_it() -> None:
    scheduler = make_scheduler(num_blocks=4, block_size=2)
    first, second = (make_sequence(4, max_new_tokens=4) for _ in range(2))
    add(scheduler, first, second)
    assert turn(scheduler).sampled == (first,)
    assert (scheduler.num_waiting, scheduler.num_preempted) == (1, 0)
    turn(scheduler, first)
    assert turn(scheduler).sampled == (second,)


def test_a_long_prompt_without_room_is_not_passed_by_short_ones() -> None:
    scheduler = make_scheduler(num_blocks=5, block_size=2)
    add(scheduler, make_sequence(4, max_new_tokens=6))
    turn(scheduler)
    long, short = make_sequence(8, "a", max_new_tokens=2), make_sequence(1, max_new_tokens=1)
    add(scheduler, long, short)
    turn(scheduler)
    assert scheduler.num_waiting == 2
    scheduler.abort(long)
    assert short in turn(scheduler).sampled


def crowded(*later: Sequence) -> tuple[Scheduler, Sequence, Sequence]:
    """Two sequences of seven tokens, six of them in the cache, which has 3 blocks of 2 for each.

    ``later`` ones wait for blocks; their adapters are in.
    """
    scheduler = make_scheduler(num_blocks=6, block_size=2)
    first, second = (make_sequence(prompt_ids=(n, n, n, n), max_new_tokens=8) for n in (1, 2))
    add(scheduler, first, second)
    turn(scheduler)
    turn(scheduler)
    add(scheduler, *later)
    assert turn(scheduler).sampled == (first, second)
    load_all(scheduler)
    return scheduler, first, second


def test_when_blocks_run_out_the_youngest_gives_its_own_to_the_oldest() -> None:
    scheduler, first, second = crowded()
    step = turn(scheduler)
    assert step.sampled == (first,)
    assert (second.status, second.num_cached, second.block_table) == (Status.WAITING, 0, [])
    assert second.output_ids == [7, 7, 7]
    assert scheduler.num_preempted == 1


def test_a_preempted_sequence_computes_prompt_and_answer_again_and_goes_on() -> None:
    scheduler, first, second = crowded()
    turn(scheduler, first)
    step = turn(scheduler)
    assert [(chunk.sequence, chunk.start + chunk.num_tokens) for chunk in step.prefill] == [(second, 7)]
    assert step.sampled == (second,)
    assert second.output_ids == [7, 7, 7, 7]


def test_a_preempted_sequence_goes_before_others_of_its_adapter() -> None:
    scheduler, first, second = crowded()
    add(scheduler, make_sequence(1, max_new_tokens=1))
    turn(scheduler, first)
    assert turn(scheduler).prefill[0].sequence is second


def test_a_preempted_sequence_finds_what_is_left_of_its_blocks() -> None:
    scheduler, first, _ = crowded()
    turn(scheduler, first)
    assert turn(scheduler).prefill[0].start == 4


def test_nobody_is_admitted_in_the_step_that_sent_somebody_away() -> None:
    third = make_sequence(1, "a", max_new_tokens=1)
    scheduler, first, second = crowded(third)
    assert turn(scheduler).sampled == (first,)
    assert turn(scheduler).sampled == (first, third)
    assert second.status is Status.WAITING


def test_a_preempted_sequence_has_its_slot_reserved_only_while_it_waits() -> None:
    slots = AdapterSlots(2)
    scheduler = make_scheduler(slots=slots, num_blocks=6, block_size=2)
    first, second = (make_sequence(4, adapter, max_new_tokens=8) for adapter in "ab")
    add_loaded(scheduler, first, second)
    for _ in range(4):
        turn(scheduler)
    assert (second.status, slots.num_pinned) == (Status.WAITING, 2)
    scheduler.abort(second)
    assert slots.num_pinned == 1


# ── tokens in flight ─────────────────────────────────────────────────────────────────────────────


def test_a_sequence_decodes_again_before_its_last_token_is_read() -> None:
    scheduler, sequence = make_scheduler(), make_sequence(3)
    add(scheduler, sequence)
    scheduler.schedule()
    sequence.num_in_flight = 1
    step = scheduler.schedule()
    assert step is not None
    assert step.decode == (sequence,)
    assert sequence.num_cached == 4


def test_a_sequence_whose_last_token_is_in_flight_is_not_scheduled_again() -> None:
    scheduler, sequence = make_scheduler(), make_sequence(3, max_new_tokens=1)
    add(scheduler, sequence)
    scheduler.schedule()
    sequence.num_in_flight = 1
    assert scheduler.schedule() is None
    assert scheduler.has_work


def test_a_preempted_sequence_drops_its_token_in_flight() -> None:
    scheduler, _, second = crowded()
    second.num_in_flight = len([second.output_ids.pop()])
    scheduler.schedule()
    assert (second.status, second.num_in_flight) == (Status.WAITING, 0)
    assert second.output_ids == [7, 7]


# ── everything at once ───────────────────────────────────────────────────────────────────────────

END = 0


def next_id(adapter: str | None, ids: tuple[int, ...]) -> int:
    """The model: what follows is a function of the adapter and of everything before."""
    return zlib.crc32(repr((adapter, ids)).encode()) % 6


def is_over(sequence: Sequence) -> bool:
    return sequence.output_ids[-1:] == [END] or len(sequence.output_ids) == sequence.max_new_tokens


def alone(sequence: Sequence) -> list[int]:
    """The answer as computed without anybody else."""
    answer: list[int] = []
    while answer[-1:] != [END] and len(answer) < sequence.max_new_tokens:
        answer.append(next_id(sequence.adapter_digest, (*sequence.prompt_ids, *answer)))
    return answer


class Device:
    """A cache and a bank that remember what was written where, and check what is read.

    Attributes:
        writes: adapters on their way into the bank.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._cache: dict[tuple[int, int], tuple[str | None, tuple[int, ...]]] = {}
        self._bank: dict[int, str | None] = {0: None}
        self.writes: list[AdapterLoad] = []
        self._newest: dict[Sequence, int] = {}
        self._num_computed: dict[Sequence, int] = {}

    def run(self, step: Step) -> list[int]:
        """The ids sampled, in the order of ``step.sampled``."""
        for sequence in step.decode:
            self._compute(sequence, sequence.num_cached - 1, 1)
        for chunk in step.prefill:
            self._compute(chunk.sequence, chunk.start, chunk.num_tokens)
        sampled = [next_id(s.adapter_digest, self._ids(s)) for s in step.sampled]
        self._newest |= zip(step.sampled, sampled, strict=True)
        return sampled

    def forget(self, sequence: Sequence) -> None:
        self._num_computed.pop(sequence, None)

    def begin_writes(self, orders: Iterable[AdapterLoad], running: Iterable[Sequence]) -> None:
        for order in orders:
            assert self._bank.get(order.slot) != order.digest, "it is there"
            assert order.slot not in self._written_slots, "two writers"
            self._bank[order.slot] = None
            self.writes.append(order)
        assert not self._written_slots & {sequence.adapter_slot for sequence in running}

    def end_write(self, order: AdapterLoad) -> None:
        self.writes.remove(order)
        self._bank[order.slot] = order.digest

    @property
    def _written_slots(self) -> set[int]:
        return {order.slot for order in self.writes}

    def _compute(self, sequence: Sequence, start: int, num_tokens: int) -> None:
        # Once and in order; only an admission begins anew, after whole blocks that were found.
        assert start == self._num_computed.get(sequence, start // self._block_size * self._block_size)
        self._num_computed[sequence] = start + num_tokens
        assert self._bank[sequence.adapter_slot] == sequence.adapter_digest
        ids = self._ids(sequence)
        for position in range(start, start + num_tokens):
            self._cache[self._place(sequence, position)] = (sequence.adapter_digest, ids[: position + 1])
        for position in range(start):
            assert self._cache[self._place(sequence, position)] == (sequence.adapter_digest, ids[: position + 1])

    def _ids(self, sequence: Sequence) -> tuple[int, ...]:
        known = sequence.token_ids(0, sequence.num_known)
        return (*known, self._newest[sequence]) if sequence.num_in_flight else known

    def _place(self, sequence: Sequence, position: int) -> tuple[int, int]:
        index, offset = divmod(position, self._block_size)
        return sequence.block_table[index], offset


class Loop:
    """An engine without a model. ``is_overlapped``: tokens are read when the next step is on its way."""

    def __init__(self, chance: random.Random, *, is_overlapped: bool) -> None:
        self.chance = chance
        self.blocks = BlockManager(num_blocks=chance.randint(8, 20), block_size=chance.randint(1, 4))
        self.slots = AdapterSlots(chance.randint(1, 3))
        self.max_batch_tokens = chance.randint(4, 12)
        self.scheduler = Scheduler(
            blocks=self.blocks,
            adapter_slots=self.slots,
            max_num_seqs=4,
            max_batch_tokens=self.max_batch_tokens,
            step_target_s=1.0,
        )
        self.device = Device(self.blocks.block_size)
        self.alive: list[Sequence] = []
        self.finished: list[Sequence] = []
        self._is_overlapped = is_overlapped
        self._on_its_way: tuple[Step, list[int]] | None = None

    @property
    def has_step_on_its_way(self) -> bool:
        return self._on_its_way is not None

    def add_one(self) -> None:
        capacity = self.blocks.num_blocks * self.blocks.block_size
        max_new_tokens = self.chance.randint(1, min(12, capacity - 1))
        num_prompt_tokens = self.chance.randint(1, min(14, capacity - max_new_tokens))
        prompt_ids = tuple(self.chance.choices((1, 2), weights=(5, 1), k=num_prompt_tokens))
        adapter = self.chance.choice(["a", "b", "c", "d", None])
        sequence = make_sequence(adapter=adapter, max_new_tokens=max_new_tokens, prompt_ids=prompt_ids)
        self.alive.append(sequence)
        self.scheduler.add(sequence)

    def abort_one(self) -> None:
        sequence = self.alive.pop(self.chance.randrange(len(self.alive)))
        self.scheduler.abort(sequence)
        self.device.forget(sequence)

    def load_some(self) -> None:
        """What is on its way comes in, in any order, or takes longer."""
        for order in self.chance.sample(self.device.writes, len(self.device.writes)):
            if self.chance.random() < 0.3:
                self.device.end_write(order)
                self.scheduler.mark_loaded(order.digest)

    def turn(self) -> None:
        self.load_some()
        step = self.scheduler.schedule()
        self.device.begin_writes(self.scheduler.take_orders(), (s for s in self.alive if s.is_running))
        assert step or self._on_its_way or self.device.writes or not self.alive, "nothing will ever happen again"
        for sequence in self.alive:
            if sequence.status is Status.WAITING:
                self.device.forget(sequence)
        sampled = self._check_and_run(step) if step else []
        launched = (step, sampled) if step else None
        before, self._on_its_way = (self._on_its_way, launched) if self._is_overlapped else (launched, None)
        if before:
            self._commit(*before)
        if self._on_its_way:
            for sequence in self._on_its_way[0].sampled:
                sequence.num_in_flight = int(sequence.is_running)

    def _check_and_run(self, step: Step) -> list[int]:
        num_tokens = len(step.decode) + step.num_prompt_tokens
        assert 0 < num_tokens <= self.max_batch_tokens
        assert self.scheduler.num_running <= 4
        return self.device.run(step)

    def _commit(self, step: Step, sampled: list[int]) -> None:
        read = [(s, token_id) for s, token_id in zip(step.sampled, sampled, strict=True) if s.is_running]
        for sequence, token_id in read:
            sequence.output_ids.append(token_id)
            sequence.num_in_flight = 0
        over = [sequence for sequence, _ in read if is_over(sequence)]
        self.scheduler.commit(step, over)
        self.finished += over
        self.alive = [sequence for sequence in self.alive if not sequence.is_finished]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1_000_000), st.booleans())
def test_whatever_happens_every_answer_is_as_if_computed_alone_and_all_is_given_back(
    seed: int, is_overlapped: bool
) -> None:
    loop = Loop(random.Random(seed), is_overlapped=is_overlapped)
    for _ in range(60):
        if loop.chance.random() < 0.5:
            loop.add_one()
        if loop.alive and loop.chance.random() < 0.05:
            loop.abort_one()
        loop.turn()
    for _ in range(1000):
        loop.turn()
        if not loop.alive:
            break
    assert not loop.alive, "somebody starves"
    while loop.device.writes or loop.has_step_on_its_way:
        loop.turn()
    for sequence in loop.finished:
        assert sequence.output_ids == alone(sequence)
    assert not loop.scheduler.has_work
    assert (loop.scheduler.num_free_rows, loop.slots.num_pinned) == (4, 0)
    assert loop.blocks.num_free == loop.blocks.num_blocks


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1_000_000), st.booleans())
def test_under_a_load_that_never_ends_everyone_is_served_some_day(seed: int, is_overlapped: bool) -> None:
    loop = Loop(random.Random(seed), is_overlapped=is_overlapped)
    one = None
    for turn_number in range(1000):
        while len(loop.alive) < 8:
            loop.add_one()
        if turn_number == 20:
            one = loop.alive[-1]
        loop.turn()
        if one is not None and one.is_finished:
            return
    pytest.fail("somebody starves")


def test_the_random_loop_preempts_and_finds_prefixes_and_lets_adapters_be_awaited() -> None:
    """Otherwise the tests above would be empty."""
    num_preempted = num_hit_tokens = num_turns_with_two_writes = 0
    for seed in range(10):
        loop = Loop(random.Random(seed), is_overlapped=True)
        for _ in range(60):
            loop.add_one()
            loop.turn()
            num_turns_with_two_writes += len(loop.device.writes) > 1
        num_preempted += loop.scheduler.num_preempted
        num_hit_tokens += loop.blocks.num_hit_tokens
    assert num_preempted > 10
    assert num_hit_tokens > 100
    assert num_turns_with_two_writes > 20
