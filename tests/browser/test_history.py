"""Chats are kept in this browser, can be taken out of it, and are gone when they are deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.browser.held_backend import HeldBackend
from tests.fakes import FakeBackend

pytestmark = pytest.mark.browser


def downloaded(page: Any, folder: Path, pattern: str) -> str:
    """The file that appears, once it is whole."""
    found: Path = page.wait(lambda: next(folder.glob(pattern), None))
    text: str = page.wait(lambda: found.read_text(encoding="utf-8"))
    return text


def test_a_chat_survives_a_reload_and_is_opened_again(read: Any) -> None:
    page = read(FakeBackend("Good **morning**")).connected()
    page.ask("Say something")
    page.answered()
    page.wait(lambda: page.elements(".route"))

    page.browser.refresh()
    page.connected()
    assert page.text("#turns .question p") == ""
    page.click(".chat-title")

    assert page.texts(".question p") == ["Say something"]
    assert page.text(".prose strong") == "morning"
    assert page.text(".answer .name") == "code"
    assert page.text(".route .sentence") == "Router: code 75 %, math 25 %"


def test_an_answer_cut_off_by_closing_the_page_is_kept_as_stopped(read: Any) -> None:
    page = read(HeldBackend("Good ", "morning")).connected()
    page.ask("Say something")
    page.wait(lambda: page.text(".prose") == "Good")

    page.browser.refresh()
    page.connected()
    page.click(".chat-title")

    assert page.states() == ["stopped"]


def test_a_deleted_chat_is_gone_even_while_it_is_being_answered(read: Any) -> None:
    backend = HeldBackend("Good ", "morning")
    page = read(backend).connected()
    page.ask("Say something")
    page.wait(lambda: page.text(".prose") == "Good")

    page.click("#chats .delete")
    page.browser.switch_to.alert.accept()

    page.wait(lambda: backend.num_running == 0)
    page.wait(lambda: page.texts(".chat-title") == [])
    assert page.run("Object.keys(localStorage).filter(k => k.startsWith('lmoe.chat.')).length") == 0
    assert page.is_shown(".welcome")


def test_all_chats_are_deleted_only_when_that_is_confirmed(read: Any) -> None:
    page = read(FakeBackend("Hi")).connected()
    for number, question in enumerate(("First", "Second"), start=1):
        page.click("#new-chat")
        page.ask(question)
        page.answered()
        page.wait(lambda number=number: len(page.texts(".chat-title")) == number)

    page.click("#delete-all")
    page.browser.switch_to.alert.dismiss()
    assert page.texts(".chat-title") == ["Second", "First"]
    page.click("#delete-all")
    page.browser.switch_to.alert.accept()
    assert page.texts(".chat-title") == []


def test_the_oldest_chats_make_room(read: Any) -> None:
    page = read(FakeBackend()).connected()

    kept = page.module(
        "chat_store",
        """(() => {
            for (let n = 0; n < 60; n++) m.saveChat({ id: `c${n}`, title: `${n}`, updated: n, turns: [] });
            return m.listChats().map((chat) => chat.title);
        })()""",
    )

    assert kept == [str(n) for n in range(59, 9, -1)]


def test_a_full_browser_drops_the_oldest_and_says_so_when_nothing_is_left_to_drop(read: Any) -> None:
    page = read(FakeBackend()).connected()

    outcome = page.module(
        "chat_store",
        """(() => {
            const chat = (id, updated, size) => ({ id, title: id, updated, turns: ["x".repeat(size)] });
            m.saveChat(chat("old", 1, 2e6));
            m.saveChat(chat("middle", 2, 2e6));
            m.saveChat(chat("new", 3, 2e6));
            const left = m.listChats().map(({ id }) => id);
            try { m.saveChat(chat("huge", 4, 2e7)); } catch (error) { return [left, error.name]; }
        })()""",
    )

    assert outcome == [["new", "middle"], "QuotaExceededError"]


def test_a_chat_that_cannot_be_read_is_listed_so_that_it_can_be_deleted(read: Any) -> None:
    page = read(FakeBackend()).connected()
    page.run("localStorage.setItem('lmoe.chat.broken', '{\"turns\": 7')")
    page.browser.refresh()
    page.connected()

    assert page.texts(".chat-title") == ["(cannot be read)"]
    page.click("#chats .delete")
    page.browser.switch_to.alert.accept()
    assert page.texts(".chat-title") == []


def test_a_chat_is_exported_as_markdown_and_as_json(read: Any, downloads: Path) -> None:
    page = read(FakeBackend("Good **morning**")).connected()
    page.ask("Say: something?")
    page.answered()
    page.wait(lambda: page.elements(".route"))

    page.click("#export > summary")
    page.click("#export-markdown")
    assert downloaded(page, downloads, "Say-something.md") == (
        "# Say: something?\n\n## Question\n\nSay: something?\n\n### code (75 % sure)\n\nGood **morning**\n"
    )
    page.click("#export > summary")
    page.click("#export-json")
    chat = json.loads(downloaded(page, downloads, "Say-something.json"))
    assert chat["format"] == "lmoe-chat-1"
    assert chat["turns"][0]["answers"][0]["text"] == "Good **morning**"
    assert chat["turns"][0]["route"]["candidates"][0]["score"] == 0.75
