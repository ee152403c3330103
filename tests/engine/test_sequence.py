"""The arrows a sequence may move along, and how it counts its tokens."""

from __future__ import annotations

import pytest

from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine.sequence import NEXT, Sequence, Status
from lmoe_ray.engine.stopping import Answer
from tests.engine.test_stopping import Letters


def make_sequence(
    num_prompt_tokens: int = 3,
    adapter: str | None = None,
    max_new_tokens: int = 100,
    *,
    prompt_ids: tuple[int, ...] = (),
) -> Sequence:
    """A sequence with the prompt 0, 1, 2, … or the one given."""
    prompt_ids = prompt_ids or tuple(range(num_prompt_tokens))
    answer = Answer(Letters(), num_prompt_tokens=len(prompt_ids), max_new_tokens=max_new_tokens)
    return Sequence("r", prompt_ids, SamplingParams(), answer, 0, max_new_tokens, adapter)


def test_a_sequence_moves_along_the_arrows() -> None:
    sequence = make_sequence()
    for status in (Status.PREFILL, Status.DECODE, Status.FINISHED):
        sequence.move_to(status)
    assert sequence.is_finished


@pytest.mark.parametrize("status", [Status.PREFILL, Status.DECODE])
def test_a_running_sequence_can_be_sent_back_to_wait(status: Status) -> None:
    sequence = make_sequence()
    sequence.move_to(Status.PREFILL)
    if status is Status.DECODE:
        sequence.move_to(Status.DECODE)
    assert sequence.is_running
    sequence.move_to(Status.WAITING)
    assert not sequence.is_running


@pytest.mark.parametrize("status", list(Status))
def test_nothing_leads_out_of_finished(status: Status) -> None:
    sequence = make_sequence()
    sequence.move_to(Status.FINISHED)
    with pytest.raises(AssertionError, match="finished"):
        sequence.move_to(status)


def test_every_status_has_its_arrows() -> None:
    assert set(NEXT) == set(Status)


def test_tokens_left_are_those_not_computed_yet() -> None:
    sequence = make_sequence(3)
    assert sequence.num_left == 3
    sequence.num_cached = 3
    sequence.output_ids.append(7)
    assert (sequence.num_tokens, sequence.num_left, sequence.last_id) == (4, 1, 7)


def test_a_token_in_flight_counts_but_is_not_known() -> None:
    sequence = make_sequence(3)
    sequence.num_cached, sequence.num_in_flight = 3, 1
    assert (sequence.num_known, sequence.num_tokens, sequence.num_left) == (3, 4, 1)


def test_an_answer_is_all_sampled_with_its_last_token_in_flight() -> None:
    sequence = make_sequence(3, max_new_tokens=2)
    sequence.output_ids.append(7)
    assert not sequence.is_all_sampled
    sequence.num_in_flight = 1
    assert sequence.is_all_sampled


def test_token_ids_run_from_the_prompt_into_the_answer() -> None:
    sequence = make_sequence(prompt_ids=(1, 2, 3))
    sequence.output_ids += [7, 8, 9]
    every = (1, 2, 3, 7, 8, 9)
    for start in range(7):
        for stop in range(start, 7):
            assert sequence.token_ids(start, stop) == every[start:stop]


def test_sequences_with_equal_contents_are_different_sequences() -> None:
    assert make_sequence() != make_sequence()
