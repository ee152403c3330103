"""Whether a message goes on with what was said before: the head, its file, and what the shipped one knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lmoe_ray.demo.turn_head_build import CONVERSATIONS, read_turns
from lmoe_ray.pretrained.model_source import resolve
from lmoe_ray.routing.embedder import Embedder
from lmoe_ray.routing.expert_index import Encoder
from lmoe_ray.routing.head_inputs import Inputs, head_inputs, text_inputs
from lmoe_ray.routing.query import Turn
from lmoe_ray.routing.task_head import FILE as TASK_FILE
from lmoe_ray.routing.turn_head import (
    FILE,
    TurnHead,
    TurnVectors,
    fit_turn_head,
    load_turn_head,
    save_turn_head,
    turn_inputs,
)
from lmoe_ray.settings import RouterSettings
from tests.fakes import HashingEncoder

#: Of the built-in embedder.
DIM = 384
FOLDER = Path(__file__).with_name("conversations")

GOES_ON = [
    Turn("shorter please", ("write a poem about rain",)),
    Turn("now make it rhyme please", ("write a poem about rain", "darker")),
    Turn("why does it fail on empty lists", ("sort a list in python", "and reverse it")),
    Turn("make it faster", ("sort a list in python",)),
]
TURNS = [
    Turn("what is the capital of Norway", ("write a poem about rain",)),
    Turn("translate this sentence into Latin: the farmer sleeps", ("write a poem about rain", "darker")),
    Turn("list five uses of vinegar", ("sort a list in python", "and reverse it")),
    Turn("who painted the Night Watch", ("sort a list in python",)),
]


def vectors_of(encoder: Encoder, turn: Turn) -> TurnVectors:
    return TurnVectors(*encoder.embed(turn.texts()))


def inputs_of(encoder: Encoder, turn: Turn) -> Inputs:
    return turn_inputs(turn, text_inputs([turn.message]), vectors_of(encoder, turn))


def stays_by(head: TurnHead, encoder: Encoder, turn: Turn) -> float:
    return head.stays(turn, text_inputs([turn.message]), vectors_of(encoder, turn))


@pytest.fixture(scope="module")
def head() -> TurnHead:
    encoder = HashingEncoder()
    inputs = [inputs_of(encoder, turn) for turn in (*GOES_ON, *TURNS)]
    return fit_turn_head(np.concatenate(inputs), [True] * 4 + [False] * 4)


def test_it_tells_going_on_from_turning(head: TurnHead) -> None:
    encoder = HashingEncoder()

    assert all(stays_by(head, encoder, turn) > 0.6 for turn in GOES_ON)
    assert all(stays_by(head, encoder, turn) < 0.4 for turn in TURNS)


def test_a_saved_head_is_read_again_and_serves_its_space_alone(
    head: TurnHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmoe_ray.routing.turn_head.FILE", tmp_path / "head.npz")
    save_turn_head(head, "mine", tmp_path / "head.npz")
    load_turn_head.cache_clear()

    again, other = load_turn_head("mine"), load_turn_head("another")
    load_turn_head.cache_clear()

    assert again is not None
    assert other is None
    saved, read = (stays_by(one, HashingEncoder(), GOES_ON[0]) for one in (head, again))
    assert read == pytest.approx(saved, abs=1e-3)


def test_words_are_looked_for_in_the_last_messages_and_their_beginnings() -> None:
    turn = Turn("shorter " * 250, ("rain",) * 4)
    longer = Turn("shorter " * 250 + "snow", ("shorter",) * 50 + ("rain" + " " * 2000 + "shorter",) * 4)

    encoder = HashingEncoder()
    assert np.array_equal(inputs_of(encoder, turn)[0, -5:], inputs_of(encoder, longer)[0, -5:])


def test_the_shipped_head_fits_the_features_and_the_space_of_the_shipped_task_head() -> None:
    with np.load(FILE, allow_pickle=False) as turns, np.load(TASK_FILE, allow_pickle=False) as tasks:
        spaces = (json.loads(str(turns["meta"]))["space"], json.loads(str(tasks["meta"]))["embedder"])
        shapes = turns["weight"].shape, tasks["weight"].shape

    vectors = TurnVectors(*np.zeros((3, DIM), np.float32))
    assert spaces[0] == spaces[1]
    assert shapes[0] == (turn_inputs(GOES_ON[0], text_inputs([""]), vectors).shape[1], 2)
    assert shapes[1][0] == head_inputs(["text"], np.zeros((1, DIM), np.float32)).shape[1]


def test_what_it_was_fitted_on_is_half_of_each_and_holds_no_test() -> None:
    turns, stays = read_turns(CONVERSATIONS)
    tested = {messages[-1] for messages, _ in _tested()}

    assert 0.45 < np.mean(stays) < 0.55
    assert len(turns) > 500
    assert not tested & {turn.message for turn in turns}


@pytest.fixture(scope="module")
def embedder(cache_dir: Path) -> Iterator[Embedder]:
    settings = RouterSettings()
    embedder = Embedder(resolve(settings.embedder, None, cache_dir), num_threads=1, cache_dir=cache_dir)
    yield embedder
    embedder.close()


@pytest.mark.model
def test_the_shipped_head_knows_turns_it_was_not_fitted_on(embedder: Embedder) -> None:
    shipped = load_turn_head(embedder.space)
    assert shipped is not None

    rows = [(Turn(messages[-1], tuple(messages[:-1])), stays) for messages, stays in _tested()]
    right = [(stays_by(shipped, embedder, turn) > 0.5) == stays for turn, stays in rows]

    assert np.mean(right) > 0.85


@pytest.mark.model
def test_after_a_long_conversation_it_knows_as_much_as_after_a_short_one(embedder: Embedder) -> None:
    shipped = load_turn_head(embedder.space)
    assert shipped is not None

    rows = [(Turn(messages[-1], tuple(messages[:-1] * 12)), stays) for messages, stays in _tested()]
    right = [(stays_by(shipped, embedder, turn) > 0.5) == stays for turn, stays in rows]

    for kind in (True, False):
        assert np.mean([is_right for is_right, (_, stays) in zip(right, rows, strict=True) if stays == kind]) > 0.8


@pytest.mark.model
def test_the_same_message_goes_on_with_one_thing_and_not_with_another(embedder: Embedder) -> None:
    shipped = load_turn_head(embedder.space)
    assert shipped is not None
    before = (
        "When was the treaty of Tordesillas signed, and by whom?",
        "Write a Rust macro that counts its arguments.",
    )

    on, off = (Turn("Which lands did the treaty give to Portugal?", (earlier,)) for earlier in before)

    assert stays_by(shipped, embedder, on) > 0.5 > stays_by(shipped, embedder, off)


def _tested() -> list[tuple[list[str], bool]]:
    """The user's messages of every conversation of the routing tests, and whether the last one goes on."""
    tested = []
    for name in ("stay", "turn"):
        for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            messages = [m["content"].strip() for m in json.loads(line)["messages"] if m["role"] == "user"]
            tested.append((messages, name == "stay"))
    return tested
