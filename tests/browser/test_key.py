"""A server that asks for a key: the page opens without one, asks its reader, and keeps it only as told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.key_file import create_key
from tests.fakes import FakeBackend

pytestmark = pytest.mark.browser

UNAUTHORISED = ("status of 401",)


@pytest.fixture
def closed(read: Any, tmp_path: Path) -> Any:
    """The page of a server that asks for a key, and a key it knows."""
    path = tmp_path / "keys.yaml"
    key = create_key(path, "ann")
    page = read(FakeBackend("Hi"), keys=KeyRing(path))
    page.expected_complaints = UNAUTHORISED
    return page, key


def enter(page: Any, key: str) -> None:
    page.wait(lambda: page.is_shown("#key"))
    page.element("#key-field").send_keys(key, Keys.ENTER)


def test_the_page_asks_for_the_key_and_then_works(closed: Any) -> None:
    page, key = closed

    enter(page, key)
    page.connected()
    page.ask("hello there")
    page.answered()

    assert page.text(".prose") == "Hi"
    assert page.run("localStorage.getItem('lmoe.key')") is None
    assert page.run("sessionStorage.getItem('lmoe.key')") == key


def test_a_wrong_key_is_asked_for_again_with_the_servers_words(closed: Any) -> None:
    page, key = closed

    enter(page, "wrong")
    page.wait(lambda: page.text("#key-problem").startswith("Incorrect API key"))
    enter(page, key)

    page.connected()


def test_the_key_is_kept_on_the_device_only_if_asked_to_and_is_forgotten_at_a_word(closed: Any) -> None:
    page, key = closed
    page.wait(lambda: page.is_shown("#key"))

    page.click("#keep-key")
    enter(page, key)
    page.connected()
    assert page.run("localStorage.getItem('lmoe.key')") == key
    page.click("#show-settings")
    page.click("#forget-key")

    assert page.run("localStorage.getItem('lmoe.key') ?? sessionStorage.getItem('lmoe.key')") is None


def test_a_key_that_is_withdrawn_is_asked_for_at_the_answer_it_was_missing_for(closed: Any) -> None:
    page, key = closed
    enter(page, key)
    page.connected()
    page.run("sessionStorage.setItem('lmoe.key', 'withdrawn')")

    page.ask("hello there")
    page.answered()
    assert page.texts(".problem button") == ["Enter a key"]
    page.click(".problem button")
    enter(page, key)

    page.wait(lambda: page.text(".prose") == "Hi")
