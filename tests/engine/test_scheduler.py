"""Who computes what, who waits, and which row and slot each holds."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from lmoe_ray.engine.adapter_slots import AdapterSlots
from lmoe_ray.engine.scheduler import AdapterLoad, RowMove, Scheduler, Step
from lmoe_ray.engine.sequence import Sequence, Status
from tests.engine.test_sequence import make_sequence


def make_scheduler(*, num_rows: int = 4, max_batch_tokens: int = 8, num_slots: int = 2) -> Scheduler:
    return Scheduler(num_rows=num_rows, max_batch_tokens=max_batch_tokens, adapter_slots=AdapterSlots(num_slots))


def turn(scheduler: Scheduler, *finished: Sequence) -> Step:
    """One step in which every sampled sequence gets a token and ``finished`` ones end."""
    step = scheduler.schedule()
    for sequence in step.sampled:
        sequence.output_ids.append(7)
    scheduler.commit(step, finished)
    return step


def lengths(step: Step) -> list[int]:
    return [chunk.num_tokens for chunk in step.prefill]


def add(scheduler: Scheduler, *sequences: Sequence) -> None:
    for sequence in sequences:
        scheduler.add(sequence)


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


def test_several_short_prompts_share_a_step() -> None:
    scheduler = make_scheduler(max_batch_tokens=8)
    add(scheduler, make_sequence(3), make_sequence(3), make_sequence(2))
    assert lengths(turn(scheduler)) == [3, 3, 2]


def test_a_long_prompt_leaves_half_of_the_budget_to_short_ones_behind_it() -> None:
    scheduler = make_scheduler(max_batch_tokens=8)
    add(scheduler, make_sequence(100), make_sequence(3))
    assert lengths(turn(scheduler)) == [5, 3]
    assert lengths(turn(scheduler)) == [7]


def test_a_sequence_without_a_free_row_waits() -> None:
    scheduler, first, second = make_scheduler(num_rows=1), make_sequence(2), make_sequence(2)
    add(scheduler, first, second)
    assert lengths(turn(scheduler)) == [2]
    assert (scheduler.num_running, scheduler.num_waiting, scheduler.num_free_rows) == (1, 1, 0)
    turn(scheduler, first)
    assert turn(scheduler).sampled == (second,)


def test_the_last_row_moves_into_the_place_of_a_sequence_that_ended() -> None:
    scheduler, sequences = make_scheduler(), [make_sequence(2) for _ in range(3)]
    add(scheduler, *sequences)
    turn(scheduler)
    turn(scheduler, sequences[0])
    assert [s.cache_row for s in sequences] == [-1, 1, 0]
    assert turn(scheduler).moves == (RowMove(2, 0, 3),)
    assert turn(scheduler).moves == ()


def test_ending_the_last_row_moves_nothing() -> None:
    scheduler, sequences = make_scheduler(), [make_sequence(2) for _ in range(2)]
    add(scheduler, *sequences)
    turn(scheduler, sequences[1])
    assert turn(scheduler).moves == ()


def test_decoding_sequences_are_listed_by_row() -> None:
    scheduler, sequences = make_scheduler(), [make_sequence(2) for _ in range(4)]
    add(scheduler, *sequences)
    turn(scheduler, sequences[0])
    assert [s.cache_row for s in turn(scheduler).decode] == [0, 1, 2]


def test_a_waiting_sequence_can_be_aborted() -> None:
    scheduler, sequence = make_scheduler(), make_sequence()
    add(scheduler, sequence)
    scheduler.abort(sequence)
    assert sequence.is_finished
    assert not scheduler.has_work


def test_a_sequence_can_be_aborted_in_the_middle_of_its_prompt() -> None:
    scheduler, long, short = make_scheduler(max_batch_tokens=4, num_rows=2), make_sequence(10, "a"), make_sequence(1)
    add(scheduler, long, short)
    turn(scheduler)
    scheduler.abort(long)
    assert scheduler.num_running == 1
    assert turn(scheduler).decode == (short,)
    assert short.cache_row == 0


def test_aborting_a_finished_sequence_is_harmless() -> None:
    scheduler, sequence = make_scheduler(), make_sequence()
    add(scheduler, sequence)
    turn(scheduler, sequence)
    scheduler.abort(sequence)
    assert scheduler.num_free_rows == 4


def test_the_first_use_of_an_adapter_loads_it_and_later_ones_do_not() -> None:
    scheduler = make_scheduler()
    add(scheduler, make_sequence(2, "a"), make_sequence(2, "a"), make_sequence(2))
    step = turn(scheduler)
    assert step.loads == (AdapterLoad("a", 1),)
    assert [chunk.sequence.adapter_slot for chunk in step.prefill] == [1, 1, 0]
    assert turn(scheduler).loads == ()


def test_a_sequence_whose_adapter_finds_no_slot_lets_others_pass() -> None:
    scheduler = make_scheduler(num_slots=1)
    first, blocked, same, base = (make_sequence(1, a) for a in ("a", "b", "a", None))
    add(scheduler, first, blocked, same, base)
    assert turn(scheduler).sampled == (first, same, base)
    assert blocked.status is Status.WAITING
    turn(scheduler, first, same)
    assert turn(scheduler).loads == (AdapterLoad("b", 1),)


def test_a_sequence_is_passed_only_so_often() -> None:
    scheduler = make_scheduler(num_rows=2, num_slots=1)
    blocked = make_sequence(1, "b")
    add(scheduler, make_sequence(1, "a"), blocked)
    turn(scheduler)
    for _ in range(8):
        add(scheduler, make_sequence(1, "a"))
        oldest = turn(scheduler).sampled[0]
        turn(scheduler, oldest)
    assert blocked.status is not Status.WAITING


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_whatever_happens_rows_are_compact_and_everything_is_given_back(seed: int) -> None:
    chance = random.Random(seed)
    slots = AdapterSlots(2)
    scheduler = Scheduler(num_rows=3, max_batch_tokens=5, adapter_slots=slots)
    alive: list[Sequence] = []
    cache: dict[int, tuple[Sequence, int]] = {}
    for _ in range(60):
        if chance.random() < 0.4:
            alive.append(make_sequence(chance.randint(1, 12), chance.choice(["a", "b", "c", None])))
            scheduler.add(alive[-1])
        if alive and chance.random() < 0.1:
            scheduler.abort(alive.pop(chance.randrange(len(alive))))
        step = scheduler.schedule()
        for move in step.moves:
            cache[move.target] = (cache[move.source][0], move.num_tokens)
        computed = [(s, s.num_cached, 1) for s in step.decode]
        computed += [(c.sequence, c.start, c.num_tokens) for c in step.prefill]
        assert sum(num_tokens for *_, num_tokens in computed) <= 5
        for sequence, start, num_tokens in computed:
            assert start == 0 or cache[sequence.cache_row] == (sequence, start)
            cache[sequence.cache_row] = (sequence, start + num_tokens)
        running = {s.cache_row for s in alive if s.status in (Status.PREFILL, Status.DECODE)}
        assert running == set(range(scheduler.num_running))
        finished = [s for s in step.sampled if chance.random() < 0.2]
        scheduler.commit(step, finished)
        alive = [s for s in alive if not s.is_finished]
    for sequence in alive:
        scheduler.abort(sequence)
    assert not scheduler.has_work
    assert (scheduler.num_free_rows, slots.num_pinned) == (3, 0)
