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
    constraint = wishes.pop("constraint", None)
    answer = Answer(Letters(), num_prompt_tokens=len(prompt), max_new_tokens=50)
    sampling = SamplingParams(**wishes)
    return sequence_module.Sequence(
        "r", prompt, sampling, answer, 0, 50, constraint=constraint, output_ids=list(output)
    )


def processors() -> Any:
    return logits_module.LogitsProcessors(VOCAB, torch.device("cpu"))


def apply(logits: Any, *sequences: Any, to: Any = None) -> None:
    sample_rows = [logits_module.SampleRow(sequence, len(sequence.output_ids)) for sequence in sequences]
    (to or processors()).apply(logits, sample_rows)


def rows(num_rows: int) -> Any:
    return torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(0))


def test_a_row_that_asks_for_nothing_is_not_touched() -> None:
    logits = rows(1)
    processed = logits.clone()
    apply(processed, make())
    assert torch.equal(processed, logits)


@pytest.mark.parametrize("penalty", [0.5, 1.3, 10.0])
def test_the_repetition_penalty_is_transformers(penalty: float) -> None:
    logits = rows(1)
    expected = hf.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([[1, 2, 2, 5, 5, 7]]), logits.clone())
    apply(logits, make((1, 2, 2), (5, 5, 7), repetition_penalty=penalty))
    assert torch.allclose(logits, expected)


def test_presence_counts_a_token_once_and_frequency_every_time() -> None:
    logits = torch.zeros(1, VOCAB)
    apply(logits, make((1,), (5, 5, 7), presence_penalty=1.0, frequency_penalty=0.25))
    expected = torch.zeros(VOCAB)
    expected[5], expected[7] = -1.5, -1.25
    assert torch.equal(logits[0], expected)


@pytest.mark.parametrize("is_read", [True, False])
def test_penalties_follow_the_answer_as_it_grows(is_read: bool) -> None:
    kept, sequence = processors(), make((1,), (), frequency_penalty=1.0)
    for position in range(40):
        logits, rows = torch.zeros(1, VOCAB), [logits_module.SampleRow(sequence, position)]
        kept.apply(logits, rows)
        assert logits[0, 4].item() == -position
        kept.note(rows, torch.tensor([4]))
        if is_read:
            sequence.output_ids.append(4)


def test_tokens_that_were_not_noted_are_counted_from_the_hosts_copy() -> None:
    kept, sequence = processors(), make((1,), (5,), frequency_penalty=1.0)
    apply(torch.zeros(1, VOCAB), sequence, to=kept)
    sequence.output_ids += [5, 6]
    logits = torch.zeros(1, VOCAB)
    apply(logits, sequence, to=kept)
    assert logits[0, 5:7].tolist() == [-2, -1]


def test_tokens_neither_noted_nor_read_are_a_bug() -> None:
    row = logits_module.SampleRow(make((1,), (), frequency_penalty=1.0), 2)
    with pytest.raises(AssertionError, match="0 are read"):
        processors().apply(torch.zeros(1, VOCAB), [row])


def test_sequences_of_different_length_keep_their_own_counts() -> None:
    kept, growing = processors(), [make((1,) * n, (), repetition_penalty=2.0, frequency_penalty=0.5) for n in (1, 3, 9)]
    for position in range(6):
        tokens, together = [2 + (n * position) % 7 for n in (1, 2, 3)], rows(3)
        alone = together.clone()
        sample_rows = [logits_module.SampleRow(sequence, position) for sequence in growing]
        kept.apply(together, sample_rows)
        for row, sequence in enumerate(growing):
            apply(alone[row : row + 1], sequence)
            sequence.output_ids.append(tokens[row])
        assert torch.equal(together, alone)
        kept.note(sample_rows, torch.tensor(tokens))


def test_a_bias_is_added_to_its_token_alone() -> None:
    logits = torch.zeros(1, VOCAB)
    apply(logits, make(logit_bias=((3, 5.0), (4, -100.0))))
    assert logits[0, 2:5].tolist() == [0, 5, -100]


def test_every_row_has_its_own_wishes() -> None:
    logits = rows(3)
    together = logits.clone()
    sequences = [make(repetition_penalty=2.0), make(), make(logit_bias=((0, 1.0),))]
    apply(together, *sequences)
    for row, sequence in enumerate(sequences):
        alone = logits[row : row + 1].clone()
        apply(alone, sequence)
        assert torch.equal(together[row], alone[0])


def test_what_a_sequence_kept_is_free_again_when_it_is_gone() -> None:
    kept = processors()
    for _ in range(3):
        sequence = make((1,), (5,) * 30, frequency_penalty=1.0)
        logits = torch.zeros(1, VOCAB)
        apply(logits, sequence, to=kept)
        assert logits.sum().item() == -30
        del sequence
        assert len(kept._seen._places) == 0
    assert len(kept._seen._counts) == 1
