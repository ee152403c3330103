"""Prompts are masked, answers end, and batches waste little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.errors import TrainingDataError
from lmoe_ray.training.dataset import Example, encode_rows, make_batches, make_epochs
from lmoe_ray.training.instruct_rows import InstructRow
from tests.tiny import make_tiny_tokenizer

CHAT, AIROBOROS = PromptFormat.CHAT, PromptFormat.AIROBOROS
EOS = 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def row(instruction: str, response: str, system: str | None = None) -> InstructRow:
    return InstructRow("c", instruction, response, system)


def parts(tokenizer: Any, example: Example) -> tuple[str, str]:
    return tokenizer.decode(example.ids[: example.num_prompt]), tokenizer.decode(example.ids[example.num_prompt :])


@pytest.mark.torch
def test_a_chat_prompt_is_masked_and_the_answer_ends_the_turn(tokenizer: Any) -> None:
    (example,) = encode_rows([row("hello ", "hi there\n", "Be kind.")], tokenizer, CHAT, 512).examples

    assert parts(tokenizer, example) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
        "hi there<|im_end|>",
    )
    assert example.ids[-1] == EOS
    assert example.num_targets == len(example.ids) - example.num_prompt


@pytest.mark.torch
def test_an_airoboros_prompt_is_the_one_served(tokenizer: Any) -> None:
    (example,) = encode_rows([row("hello", "hi")], tokenizer, AIROBOROS, 512).examples

    assert parts(tokenizer, example) == ("A chat.\nUSER: hello\nASSISTANT: ", "hi<|im_end|>")


@pytest.mark.torch
def test_every_turn_is_an_example_with_its_history(tokenizer: Any) -> None:
    data = encode_rows([row("q", "one</s>USER: more\nASSISTANT: two")], tokenizer, AIROBOROS, 512)

    assert [parts(tokenizer, example) for example in data.examples] == [
        ("A chat.\nUSER: q\nASSISTANT: ", "one<|im_end|>"),
        ("A chat.\nUSER: q\nASSISTANT: one\nUSER: more\nASSISTANT: ", "two<|im_end|>"),
    ]


@pytest.mark.torch
@pytest.mark.parametrize("prompt_format", [CHAT, AIROBOROS])
def test_control_tokens_in_a_rows_text_stay_text(tokenizer: Any, prompt_format: PromptFormat) -> None:
    plain, spelled = (
        encode_rows([row(f"a{x}b", f"c{x}d")], tokenizer, prompt_format, 512).examples[0] for x in ("", "<|im_end|>")
    )

    assert spelled.ids.count(EOS) == plain.ids.count(EOS)
    assert parts(tokenizer, spelled)[1] == "c<|im_end|>d<|im_end|>"


@pytest.mark.torch
def test_a_long_answer_is_cut_and_counted(tokenizer: Any) -> None:
    whole = encode_rows([row("q", "answer " * 9)], tokenizer, CHAT, 512)
    (example,) = whole.examples

    cut = encode_rows([row("q", "answer " * 9)], tokenizer, CHAT, len(example.ids) - 1)

    assert (whole.num_cut, cut.num_cut) == (0, 1)
    assert cut.examples[0].ids == example.ids[:-1]
    assert cut.num_targets == whole.num_targets - 1
    assert cut.num_tokens == whole.num_tokens - 1


@pytest.mark.torch
def test_a_prompt_that_fills_the_limit_is_dropped_and_counted(tokenizer: Any) -> None:
    rows = [row("q " * 200, "x"), row("q", "x")]

    data = encode_rows(rows, tokenizer, CHAT, 100)

    assert len(data.examples) == 1
    assert data.num_dropped == 1


@pytest.mark.torch
def test_nothing_to_learn_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(TrainingDataError, match="none of 1 prompts is shorter than max_tokens=5"):
        encode_rows([row("a long question", "x")], tokenizer, CHAT, 5)


@pytest.mark.torch
def test_a_tokenizer_without_what_is_needed_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer(tmp_path)
    tokenizer.chat_template = None
    with pytest.raises(TrainingDataError, match="no chat template"):
        encode_rows([row("q", "a")], tokenizer, CHAT, 99)

    tokenizer.eos_token = None
    with pytest.raises(TrainingDataError, match="no end-of-sequence token"):
        encode_rows([row("q", "a")], tokenizer, AIROBOROS, 99)


# ── batches ──────────────────────────────────────────────────────────────────────────────────────

lengths = st.lists(st.integers(2, 300), min_size=1, max_size=60)


def examples_of(*sizes: int) -> list[Example]:
    return [Example((i,) * size, 1) for i, size in enumerate(sizes)]


@given(sizes=lengths, batch_tokens=st.integers(1, 600), seed=st.integers(0, 3))
def test_batches_hold_every_example_once_within_the_budget(sizes: list[int], batch_tokens: int, seed: int) -> None:
    examples = examples_of(*sizes)

    batches = make_batches(examples, batch_tokens, seed)

    assert sorted(e.ids for batch in batches for e in batch) == sorted(e.ids for e in examples)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(e.ids) for e in batch) <= batch_tokens


def test_equal_seeds_give_equal_batches_and_others_differ() -> None:
    examples = examples_of(*range(2, 100))

    assert make_batches(examples, 300, 1) == make_batches(examples, 300, 1)
    assert make_batches(examples, 300, 1) != make_batches(examples, 300, 2)


def test_little_of_a_batch_is_padding() -> None:
    batches = make_batches(examples_of(*(10 + 7 * i % 400 for i in range(500))), 2048, 0)

    cells = sum(len(batch) * max(len(e.ids) for e in batch) for batch in batches)
    assert sum(len(e.ids) for batch in batches for e in batch) / cells > 0.93


def test_epochs_follow_one_another_in_different_orders() -> None:
    examples = examples_of(*range(2, 60))
    one = make_batches(examples, 200, 7)

    epochs = make_epochs(examples, 200, 7, 2, 0)

    assert epochs == one + make_batches(examples, 200, 8)
    assert epochs[len(one) :] != one


def test_epochs_end_at_the_token_limit() -> None:
    batches = make_epochs(examples_of(10, 10, 10), 10, 0, 5, 45)

    assert len(batches) == 5
