"""Drawing from a row: every way to the threshold finds the same token, and tokens come as often as they should."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine import drawing

pytestmark = pytest.mark.torch

WISHES = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.1, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 2, 5, 50, 400, 10_000]),
    top_p=st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.001, 0.1, 1.0]),
)


def rows(num_rows: int, vocab_size: int, seed: int, *, step: float = 0.0) -> Any:
    """Random logits; with a step they are its multiples, so that many are equal."""
    logits = 3 * torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed))
    return (logits / step).round() * step if step else logits


@settings(max_examples=300, deadline=None)
@given(
    wishes=st.lists(WISHES, min_size=4, max_size=4),
    numbers=st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4),
    vocab_size=st.sampled_from([1, 3, 63, 64, 129, 1000, 4096]),
    seed=st.integers(0, 1000),
    step=st.sampled_from([0.0, 0.5, 4.0]),
    num_allowed=st.sampled_from([1, 7, 60, 4096]),
)
def test_row_by_row_and_all_together_pick_the_same_tokens(
    wishes: list[SamplingParams], numbers: list[float], vocab_size: int, seed: int, step: float, num_allowed: int
) -> None:
    logits = rows(4, vocab_size, seed, step=step)
    logits[:, num_allowed:] = float("-inf")  # as constraints do
    one_by_one = drawing.pick_one_by_one(logits, wishes, numbers).tolist()
    assert one_by_one == drawing.pick_together(logits, wishes, numbers).tolist()


@settings(max_examples=300, deadline=None)
@given(
    wish=WISHES, number=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 1000), step=st.sampled_from([0.0, 0.5])
)
def test_looking_at_the_head_first_changes_no_token(
    wish: SamplingParams, number: float, seed: int, step: float
) -> None:
    logits = rows(1, 2000, seed, step=step)
    head_first = drawing.pick_one_by_one(logits, [wish], [number])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "GROUP_SIZE", 10_000)
        assert torch.equal(head_first, drawing.pick_one_by_one(logits, [wish], [number]))


def test_the_head_is_a_small_part_of_a_row_and_has_its_likeliest_tokens() -> None:
    weights = torch.softmax(rows(1, 49152, 0)[0], -1).numpy()
    head = weights[weights >= drawing._head_floor(weights)]
    assert 300 < len(head) < 1000
    assert np.array_equal(np.sort(head), np.sort(weights)[-len(head) :])


@pytest.mark.parametrize("pick", [drawing.pick_one_by_one, drawing.pick_together])
@pytest.mark.parametrize(
    ("wishes", "kept"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_k": 2}, [0.4, 0.3]),
        ({"top_p": 0.7}, [0.4, 0.3]),
        ({"top_p": 0.75}, [0.4, 0.3, 0.2]),
        ({"top_k": 3, "top_p": 0.5}, [0.4, 0.3]),
        ({"min_p": 0.4}, [0.4, 0.3, 0.2]),
        ({"temperature": 0.5}, [0.16, 0.09, 0.04, 0.01]),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_their_exact_probabilities_say(
    pick: Any, wishes: dict[str, Any], kept: list[float]
) -> None:
    num_draws = 20_000
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log().expand(num_draws, -1)
    numbers = np.random.default_rng(0).random(num_draws).tolist()
    wish = SamplingParams(**{"temperature": 1.0, "top_k": 0, **wishes})
    counts = Counter(pick(logits, [wish] * num_draws, numbers).tolist())
    expected = [num_draws * weight / sum(kept) for weight in kept]
    observed = [counts.pop(token, 0) for token in (1, 3, 2, 0)[: len(kept)]]
    assert not counts
    chi_square = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    assert chi_square < 16.3  # 1 in 1000 for three degrees of freedom


@pytest.mark.parametrize("pick", [drawing.pick_one_by_one, drawing.pick_together])
@pytest.mark.parametrize(("number", "token"), [(0.0, 2), (1 - 2**-53, 3)])
def test_the_ends_of_the_interval_pick_tokens_that_have_weight(pick: Any, number: float, token: int) -> None:
    logits = torch.tensor([[-math.inf, -math.inf, 0.3, 0.7, -math.inf]])
    assert pick(logits, [SamplingParams(temperature=1.0, top_k=0)], [number]).tolist() == [token]


@pytest.mark.parametrize("wishes", [{"temperature": 0.0}, {"top_k": 50}, {"top_k": 0}, {"top_p": 0.9}], ids=str)
@pytest.mark.parametrize("pick", [drawing.pick_one_by_one, drawing.pick_together])
def test_a_row_that_is_no_number_gives_some_token_and_spares_the_others(pick: Any, wishes: dict[str, Any]) -> None:
    logits = torch.cat([torch.full((1, 200), math.nan), rows(1, 200, 1)])
    wish = SamplingParams(**wishes)
    broken, sound = pick(logits, [wish, wish], [0.5, 0.5]).tolist()
    assert 0 <= broken < 200
    assert sound == pick(logits[1:], [wish], [0.5]).item()
