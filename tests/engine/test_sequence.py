"""The arrows a sequence may move along."""

from __future__ import annotations

import pytest

from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine.sequence import NEXT, Sequence, Status
from lmoe_ray.engine.stopping import Answer
from tests.engine.test_stopping import Letters


def make_sequence(num_prompt_tokens: int = 3, adapter: str | None = None, max_new_tokens: int = 100) -> Sequence:
    answer = Answer(Letters(), num_prompt_tokens=num_prompt_tokens, max_new_tokens=max_new_tokens)
    return Sequence("r", tuple(range(num_prompt_tokens)), SamplingParams(), answer, seed=0, adapter_digest=adapter)


def test_a_sequence_moves_along_the_arrows() -> None:
    sequence = make_sequence()
    for status in (Status.PREFILL, Status.DECODE, Status.FINISHED):
        sequence.move_to(status)
    assert sequence.is_finished


@pytest.mark.parametrize("status", list(Status))
def test_nothing_leads_out_of_finished(status: Status) -> None:
    sequence = make_sequence()
    sequence.move_to(Status.FINISHED)
    with pytest.raises(AssertionError, match="finished"):
        sequence.move_to(status)


def test_every_status_has_its_arrows() -> None:
    assert set(NEXT) == set(Status)


def test_prompt_tokens_left_do_not_count_answer_tokens() -> None:
    sequence = make_sequence(num_prompt_tokens=3)
    sequence.num_cached = 2
    assert sequence.num_prompt_left == 1
    sequence.num_cached = 5
    assert sequence.num_prompt_left == 0


def test_sequences_with_equal_contents_are_different_sequences() -> None:
    assert make_sequence() != make_sequence()
