"""Each logits processor against transformers', one row per request."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.generation import logits_process as hf

from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine import logits as logits_module
from lmoe_ray.engine import sequence as sequence_module
from lmoe_ray.engine.stopping import Answer
from tests.engine.test_stopping import Letters

pytestmark = pytest.mark.torch

VOCAB, EOS = 12, 11


def make(prompt: tuple[int, ...] = (1, 2, 2), output: tuple[int, ...] = (), **wishes: Any) -> Any:
    choices = wishes.pop("choices", ())
    answer = Answer(Letters(), num_prompt_tokens=len(prompt), max_new_tokens=50)
    sampling = SamplingParams(**wishes)
    return sequence_module.Sequence("r", prompt, sampling, answer, seed=0, choices=choices, output_ids=list(output))


def processors() -> Any:
    return logits_module.LogitsProcessors(VOCAB, {EOS}, torch.device("cpu"))


def rows(num_rows: int) -> Any:
    return torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(0))


def test_a_row_that_asks_for_nothing_is_not_touched() -> None:
    logits = rows(1)
    processed = logits.clone()
    processors().apply(processed, [make()])
    assert torch.equal(processed, logits)


@pytest.mark.parametrize("penalty", [0.5, 1.3, 10.0])
def test_the_repetition_penalty_is_transformers(penalty: float) -> None:
    logits = rows(1)
    expected = hf.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([[1, 2, 2, 5, 5, 7]]), logits.clone())
    processors().apply(logits, [make((1, 2, 2), (5, 5, 7), repetition_penalty=penalty)])
    assert torch.allclose(logits, expected)


def test_presence_counts_a_token_once_and_frequency_every_time() -> None:
    logits = torch.zeros(1, VOCAB)
    processors().apply(logits, [make((1,), (5, 5, 7), presence_penalty=1.0, frequency_penalty=0.25)])
    expected = torch.zeros(VOCAB)
    expected[5], expected[7] = -1.5, -1.25
    assert torch.equal(logits[0], expected)


def test_penalties_follow_the_answer_as_it_grows() -> None:
    apply, sequence = processors(), make((1,), (), frequency_penalty=1.0)
    for step in range(3):
        logits = torch.zeros(1, VOCAB)
        apply.apply(logits, [sequence])
        assert logits[0, 4].item() == -step
        sequence.output_ids.append(4)


def test_a_bias_is_added_to_its_token_alone() -> None:
    logits = torch.zeros(1, VOCAB)
    processors().apply(logits, [make(logit_bias=((3, 5.0), (4, -100.0)))])
    assert logits[0, 2:5].tolist() == [0, 5, -100]


def test_every_row_has_its_own_wishes() -> None:
    logits = rows(3)
    together = logits.clone()
    sequences = [make(repetition_penalty=2.0), make(), make(logit_bias=((0, 1.0),))]
    processors().apply(together, sequences)
    for row, sequence in enumerate(sequences):
        alone = logits[row : row + 1].clone()
        processors().apply(alone, [sequence])
        assert torch.equal(together[row], alone[0])


def test_counts_are_forgotten_with_their_sequence() -> None:
    apply, sequence = processors(), make(repetition_penalty=2.0)
    apply.apply(rows(1), [sequence])
    assert len(apply._counts) == 1
    del sequence
    assert len(apply._counts) == 0


CHOICES = ((3, 4), (3, 5, 6), (7,))


@pytest.mark.parametrize(
    ("output", "allowed"),
    [((), {3, 7}), ((3,), {4, 5}), ((3, 4), {EOS}), ((3, 5), {6}), ((7,), {EOS}), ((9,), {EOS})],
)
def test_choices_allow_only_what_leads_to_one_of_them(output: tuple[int, ...], allowed: set[int]) -> None:
    assert logits_module.allowed_next(CHOICES, output, (EOS,)) == allowed
    logits = rows(1)
    before = logits.clone()
    processors().apply(logits, [make((1,), output, choices=CHOICES)])
    assert set(torch.isfinite(logits[0]).nonzero()[:, 0].tolist()) == allowed
    assert all(logits[0, token] == before[0, token] for token in allowed)


def test_a_choice_that_begins_another_may_end_or_go_on() -> None:
    assert logits_module.allowed_next(((3,), (3, 4)), (3,), (EOS,)) == {EOS, 4}
