"""The shipped task head: what it knows, whom it serves, and how experts come by their tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lmoe_ray.routing.head_inputs import head_inputs
from lmoe_ray.routing.task_head import FILE, fit_task_head, load_task_head, profile_of, save_task_head
from tests.fakes import HashingEncoder

PROMPTS = ("write a regex for dates", "write a regex for names", "a riddle about ducks", "a riddle about doors")
TASKS = ("regex", "regex", "riddle", "riddle")


def test_another_embedder_is_not_served() -> None:
    assert load_task_head("some other model") is None


def test_a_saved_head_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = head_inputs(PROMPTS, HashingEncoder().embed(PROMPTS))
    head = fit_task_head(inputs, PROMPTS, TASKS, "mine")
    load_task_head.cache_clear()
    monkeypatch.setattr("lmoe_ray.routing.task_head.FILE", tmp_path / "head.npz")
    save_task_head(head, tmp_path / "head.npz")

    again = load_task_head("mine")
    load_task_head.cache_clear()

    assert again is not None
    assert again.tasks == ("regex", "riddle")
    assert again.probabilities(inputs) == pytest.approx(head.probabilities(inputs), abs=1e-2)
    assert (again.probabilities(inputs).argmax(axis=1) == [0, 0, 1, 1]).all()
    assert [again.has_seen(prompt) for prompt in (*PROMPTS, "a riddle about dogs")] == [True] * 4 + [False]


def test_a_prompt_it_was_fitted_on_is_known_again_to_the_letter() -> None:
    prompts = (*PROMPTS[:3], "half a pair \ud83d")
    head = fit_task_head(head_inputs(PROMPTS, HashingEncoder().embed(PROMPTS)), prompts, TASKS, "mine")

    assert all(head.has_seen(prompt) for prompt in prompts)
    assert not any(head.has_seen(text) for text in ("write a regex for dates ", "Write a regex for dates", "", "regex"))


def test_the_shipped_head_names_over_two_hundred_tasks() -> None:
    with np.load(FILE, allow_pickle=False) as arrays:
        assert arrays["weight"].shape[1] == len(arrays["bias"]) > 200
        assert np.abs(arrays["weight"]).max() > 0.1
        assert len(arrays["seen"]) > 10 * len(arrays["bias"])


def test_an_expert_owns_the_tasks_that_its_samples_show() -> None:
    tasks = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0]])

    profile = profile_of(tasks, np.array([0, 0, 1]), num_experts=3)

    assert profile.shares.sum(axis=0) == pytest.approx(1)
    assert profile.shares[0, 0] > 0.85
    assert profile.shares[1, 1] > 0.8
    # Nobody shows the third task: whoever has samples may have it, and whoever has none has nothing.
    assert profile.shares[:, 2] == pytest.approx([0.5, 0.5, 0.0])


def test_many_samples_give_no_louder_voice() -> None:
    tasks = np.array([[1.0, 0.0]] * 50 + [[0.0, 1.0]])

    profile = profile_of(tasks, np.array([0] * 50 + [1]), num_experts=2)

    assert profile.shares[0, 0] == pytest.approx(profile.shares[1, 1], abs=1e-3)
