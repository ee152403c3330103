"""Asking a tiny model which of a tiny package's experts suits."""

from __future__ import annotations

import asyncio
import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.bench.labelled_prompts import read_experts
from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.errors import PackageError

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

QUESTION = (Message("user", "who writes some code for me?"),)
NAMES = ("code", "function")


@pytest.fixture(scope="module")
def engine_ask() -> Any:
    return importlib.import_module("lmoe_ray.bench.engine_ask")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experts, ``code`` and ``function``, and the tiny base they are made for."""
    tiny = importlib.import_module("tests.tiny")
    folder = tmp_path_factory.mktemp("asked")
    base = tiny.make_tiny_model(folder / "base")
    root: Path = tiny.make_tiny_package(folder / "package", base, NAMES)
    (root / "lmoe.yaml").write_text(f"base: {base}\nprompt_format: chat\n")
    return root


def answer(engine_ask: Any, asked: Any, cache_dir: Path) -> tuple[str, float]:
    with engine_ask.open_ask(asked, 1, cache_dir) as ask:
        found: tuple[str, float] = asyncio.run(ask(QUESTION, NAMES))
        assert len(ask.num_prompt_tokens) == 1
        assert ask.num_prompt_tokens[0] > 6  # words
    return found


def test_the_function_experts_adapter_answers_with_a_name_and_its_probability(
    engine_ask: Any, package: Path, cache_dir: Path
) -> None:
    asked = engine_ask.choose_asked(package, read_experts(package, 256))
    base = engine_ask.choose_asked(package, read_experts(package, 256), asked.base)

    name, probability = answer(engine_ask, asked, cache_dir)
    base_name, base_probability = answer(engine_ask, base, cache_dir)

    assert {name, base_name} <= set(NAMES)
    assert 0 < probability <= 1
    # Without the adapter the same question is answered otherwise, or less or more surely.
    assert name != base_name or probability != pytest.approx(base_probability)


def test_a_packages_base_is_asked_as_its_function_expert_about_its_descriptions(engine_ask: Any, package: Path) -> None:
    asked = engine_ask.choose_asked(package, read_experts(package, 256))

    assert (asked.base, asked.expert.name) == (str(package.parent / "base"), "function")
    assert [expert.description for expert in asked.model.experts] == [
        "Answers questions about code.",
        "Answers questions about function.",
    ]
    assert str(asked).endswith("with the adapter of function; it is told the experts' names and descriptions")


def test_a_named_base_is_asked_without_adapter(engine_ask: Any, package: Path) -> None:
    asked = engine_ask.choose_asked(package, read_experts(package, 256), "some/model")

    assert (asked.base, asked.expert, asked.prompt_format) == ("some/model", None, PromptFormat.CHAT)


def test_a_file_of_samples_knows_names_alone_and_says_so(engine_ask: Any, package: Path) -> None:
    file = package / "routing_data" / "expert_code.jsonl"
    samples = package.parent / "samples.jsonl"
    samples.write_text(file.read_text().replace("{", '{"expert": "code", '))

    asked = engine_ask.choose_asked(samples, read_experts(samples, 256))

    assert (asked.base, asked.expert, asked.model.expert_names) == (engine_ask.DEFAULT_BASE, None, ("code",))
    assert str(asked).endswith("without an adapter; it is told the experts' names alone of code")


def test_a_package_that_names_no_base_needs_one(engine_ask: Any, package: Path, tmp_path: Path) -> None:
    homeless = shutil.copytree(package, tmp_path / "package")
    (homeless / "lmoe.yaml").unlink()

    with pytest.raises(PackageError, match="give --agent-model"):
        engine_ask.choose_asked(homeless, read_experts(package, 256))
