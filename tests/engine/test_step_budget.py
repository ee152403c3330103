"""The budget of prompt tokens follows what steps really last."""

from __future__ import annotations

import random

import pytest

from lmoe_ray.engine.step_budget import MIN_PROMPT_TOKENS, StepBudget


def watched(
    *, target_s: float, decode_s: float, token_s: float, num_steps: int = 100, noise: float = 0.0, seed: int = 0
) -> StepBudget:
    """A budget after steps of a machine with these costs, some of them without prompts."""
    budget, chance = StepBudget(target_s, 512), random.Random(seed)
    for number in range(num_steps):
        num_prompt_tokens = 0 if number % 3 == 0 else budget.prompt_tokens(8)
        duration_s = decode_s + num_prompt_tokens * token_s
        budget.observe(8, num_prompt_tokens, duration_s * chance.uniform(1 - noise, 1 + noise))
    return budget


def test_with_nothing_decoding_a_prompt_may_have_all() -> None:
    budget = watched(target_s=0.01, decode_s=0.02, token_s=0.001)
    assert budget.prompt_tokens(0) == 512


def test_before_the_first_prompt_the_budget_is_a_quarter() -> None:
    budget = StepBudget(0.05, 512)
    assert budget.prompt_tokens(1) == 128
    budget.observe(1, 0, 0.01)
    assert budget.prompt_tokens(1) == 128


def test_the_budget_fills_the_target() -> None:
    assert watched(target_s=0.1, decode_s=0.02, token_s=0.001).prompt_tokens(8) == pytest.approx(80, abs=1)


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_carry_the_budget_away(seed: int) -> None:
    budget = watched(target_s=0.1, decode_s=0.02, token_s=0.001, noise=0.3, seed=seed)
    assert budget.prompt_tokens(8) == pytest.approx(80, rel=0.25)


def test_the_budget_is_right_without_any_step_that_only_decodes() -> None:
    budget = StepBudget(0.1, 512)
    for _ in range(100):
        num_prompt_tokens = budget.prompt_tokens(8)
        budget.observe(8, num_prompt_tokens, 0.02 + 0.001 * num_prompt_tokens)
    assert budget.prompt_tokens(8) == pytest.approx(80, abs=2)


@pytest.mark.parametrize("token_s", [0.001, 0.0])
def test_a_target_that_cannot_be_met_leaves_prompts_a_trickle(token_s: float) -> None:
    assert watched(target_s=0.01, decode_s=0.02, token_s=token_s).prompt_tokens(8) == MIN_PROMPT_TOKENS


def test_streams_that_miss_the_target_by_themselves_get_no_quarter_beside_them() -> None:
    budget = StepBudget(0.01, 512)
    budget.observe(8, 0, 0.02)
    assert budget.prompt_tokens(8) == MIN_PROMPT_TOKENS


@pytest.mark.parametrize("token_s", [1e-9, 0.0, -1e-6])
def test_prompts_that_cost_next_to_nothing_may_have_all_the_room(token_s: float) -> None:
    assert watched(target_s=0.1, decode_s=0.02, token_s=token_s).prompt_tokens(8) == 512 - 8


def test_decoding_sequences_come_out_of_the_same_batch() -> None:
    budget = StepBudget(0.05, 20)
    assert [budget.prompt_tokens(num_decode) for num_decode in (1, 10, 20)] == [16, 10, 0]


def test_a_single_slow_step_changes_little() -> None:
    budget = watched(target_s=0.1, decode_s=0.02, token_s=0.001)
    budget.observe(8, 80, 10.0)
    assert budget.prompt_tokens(8) > 60


def test_a_slow_first_step_is_forgotten() -> None:
    budget = StepBudget(0.1, 512)
    budget.observe(8, 0, 5.0)
    budget.observe(8, 128, 5.0)
    for number in range(100):
        num_prompt_tokens = 0 if number % 3 == 0 else budget.prompt_tokens(8)
        budget.observe(8, num_prompt_tokens, 0.02 + 0.001 * num_prompt_tokens)
    assert budget.prompt_tokens(8) == pytest.approx(80, rel=0.15)


def test_a_machine_that_becomes_slower_gets_smaller_steps() -> None:
    budget = watched(target_s=0.1, decode_s=0.02, token_s=0.001)
    for number in range(200):
        num_prompt_tokens = 0 if number % 3 == 0 else budget.prompt_tokens(8)
        budget.observe(8, num_prompt_tokens, 0.04 + 0.002 * num_prompt_tokens)
    assert budget.prompt_tokens(8) == pytest.approx(30, abs=2)


def test_what_a_prompt_costs_is_remembered_while_none_comes() -> None:
    budget = watched(target_s=0.1, decode_s=0.02, token_s=0.001)
    for _ in range(50_000):
        budget.observe(8, 0, 0.02)
    assert budget.prompt_tokens(8) == pytest.approx(80, abs=1)


def test_steps_without_decoding_teach_nothing() -> None:
    budget = StepBudget(0.1, 512)
    budget.observe(0, 512, 9.0)
    assert budget.prompt_tokens(8) == 128
