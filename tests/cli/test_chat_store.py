"""Conversations on disk: private, whole, and readable as a body of the API."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from lmoe_ray.cli.chat_history import Turn, estimate
from lmoe_ray.cli.chat_store import MAX_KEPT, ChatStore, Conversation, decoded, encoded
from lmoe_ray.domain.chat import Message
from lmoe_ray.errors import ConversationUnusable


def turn(role: str, text: str, expert: str | None = None) -> Turn:
    return Turn(Message(role, text), estimate(text), expert)  # type: ignore[arg-type]


TALK = Conversation(
    "demo",
    "Be kind.",
    (turn("user", "Größe?"), turn("assistant", "Groß\x1b[0m.", "code")),
    "code",
    {"temperature": 0.5, "seed": 4},
)


def test_what_is_encoded_comes_back() -> None:
    assert decoded(encoded(TALK), "x") == TALK
    assert decoded(encoded(Conversation("demo")), "x") == Conversation("demo")


def test_a_saved_conversation_is_a_chat_body() -> None:
    body = json.loads(encoded(TALK))

    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant"]
    assert (body["model"], body["expert"], body["temperature"], body["seed"]) == ("demo", "code", 0.5, 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"model": "demo", "messages": [{"role": "tool", "content": "x"}]}',
        '{"model": "demo", "messages": [{"role": "user", "content": [1]}]}',
        '{"model": "demo", "messages": "hi"}',
        '{"model": 4, "messages": []}',
        '{"model": "demo", "messages": [], "temperature": 9}',
        "[" * 100_000,
    ],
)
def test_anything_else_is_refused_with_the_files_name(text: str) -> None:
    with pytest.raises(ConversationUnusable, match=r"talk\.json: is no conversation"):
        decoded(text, "talk.json")


def test_only_the_owner_can_read_what_is_kept(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ChatStore(tmp_path / "state" / "chats").keep(TALK)
    finally:
        os.umask(before)
    (file,) = (tmp_path / "state" / "chats").iterdir()

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_keeping_again_replaces_and_starting_makes_another(tmp_path: Path) -> None:
    store = ChatStore(tmp_path)
    store.keep(TALK)
    store.keep(TALK)
    store.start()
    store.keep(Conversation("other", turns=TALK.turns))

    assert len(list(tmp_path.iterdir())) == 2
    assert ChatStore(tmp_path).take_up().model == "other"


def test_a_conversation_taken_up_goes_on_in_its_own_file(tmp_path: Path) -> None:
    ChatStore(tmp_path).keep(TALK)
    store = ChatStore(tmp_path)
    store.keep(store.take_up())

    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_conversation_leaves_nothing_behind(tmp_path: Path) -> None:
    store = ChatStore(tmp_path)
    store.keep(TALK)
    store.keep(Conversation("demo"))

    assert list(tmp_path.iterdir()) == []


def test_the_oldest_make_room(tmp_path: Path) -> None:
    for number in range(MAX_KEPT):
        (tmp_path / f"{number}.json").write_text("{}")
        os.utime(tmp_path / f"{number}.json", (number, number))
    ChatStore(tmp_path).keep(TALK)

    assert len(list(tmp_path.iterdir())) == MAX_KEPT
    assert not (tmp_path / "0.json").exists()
    assert (tmp_path / "1.json").exists()


def test_without_a_conversation_there_is_nothing_to_continue(tmp_path: Path) -> None:
    with pytest.raises(ConversationUnusable, match="holds no conversation to continue"):
        ChatStore(tmp_path / "none").take_up()
