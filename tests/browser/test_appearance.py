"""For everybody: light and dark, large and small, by keyboard alone, and read aloud."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from lmoe_ray.api import chat_page
from tests.browser.held_backend import HeldBackend
from tests.fakes import FakeBackend

pytestmark = pytest.mark.browser

WIDE_ANSWER = (
    "| a | b | c | d |\n|---|---|---|---|\n" + "| some text | more text | and more | to the end |\n" * 2,
    "\n```\n" + "x" * 300 + "\n```\n\n" + "y" * 300 + " https://example.org/" + "z" * 200,
)


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_the_page_follows_the_system_in_light_and_dark(read: Any, scheme: str, is_dark: bool) -> None:
    page = read(FakeBackend()).connected()

    page.prefer("prefers-color-scheme", scheme)

    ground, ink = (
        sum(map(int, re.findall(r"\d+", page.run(f"getComputedStyle(document.body).{name}"))[:3]))
        for name in ("backgroundColor", "color")
    )
    assert (ground < ink) is is_dark


@pytest.mark.parametrize("width", [360, 390, 1200])
def test_nothing_is_wider_than_the_window(read: Any, width: int) -> None:
    page = read(FakeBackend(*WIDE_ANSWER)).connected()
    page.resize(width, 800)

    page.ask("w" * 200)
    page.answered()
    page.wait(lambda: page.elements(".route"))
    page.click(".route > summary")
    page.choose("expert", "*")

    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.getElementById('log').scrollWidth") <= page.run(
        "document.getElementById('log').clientWidth"
    )
    assert page.run("document.querySelector('#send').getBoundingClientRect().right") <= width


def test_a_long_chat_scrolls_in_its_own_place_and_the_page_does_not(read: Any) -> None:
    page = read(FakeBackend(*["A line, and another.\n\n"] * 20)).connected()

    for number in (1, 2, 3):
        page.ask("tell me more")
        page.answered(number)
    page.wait(lambda: len(page.elements(".route")) == 3)
    page.run("document.querySelectorAll('details').forEach((details) => (details.open = true))")

    log = "document.getElementById('log')"
    assert page.run(f"{log}.scrollHeight") > 2 * page.run(f"{log}.clientHeight")
    assert page.run("document.scrollingElement.scrollHeight") <= page.run("innerHeight")


def test_on_a_phone_the_chats_are_called_and_sent_away(read: Any) -> None:
    page = read(FakeBackend("Hi")).connected()
    page.resize(360, 700)

    page.wait(lambda: not page.is_shown("#new-chat"))
    page.click("#show-chats")
    page.wait(lambda: page.is_shown("#new-chat"))
    assert page.element("#show-chats").get_attribute("aria-expanded") == "true"
    assert page.focused() == "hide-chats"
    page.press(Keys.ESCAPE)
    page.wait(lambda: not page.is_shown("#new-chat"))
    assert page.focused() == "show-chats"


def test_a_whole_conversation_needs_no_mouse(read: Any) -> None:
    backend = FakeBackend("Hi")
    page = read(backend).connected()

    assert page.focused() == "question"
    page.press("one")
    page.press_with(Keys.SHIFT, Keys.ENTER)
    page.press("two", Keys.ENTER)
    page.answered()
    assert backend.requests[-1].messages[-1].content == "one\ntwo"
    page.press_with(Keys.CONTROL, "k")
    page.wait(lambda: page.is_shown(".welcome"))
    page.press(Keys.TAB)
    assert page.focused() == "model"
    page.press("/")
    assert page.focused() == "model"  # a list of names may be searched by typing
    page.element("#show-settings").send_keys("/")
    assert page.focused() == "question"
    assert page.value("question") == ""


def test_the_skip_link_leads_to_the_question(read: Any) -> None:
    page = read(FakeBackend()).connected()

    page.run("document.querySelector('.skip').focus()")
    assert page.element(".skip").is_displayed()
    page.press(Keys.ENTER)

    assert page.focused() == "question"


def test_every_control_shows_its_focus_and_has_a_name(read: Any) -> None:
    page = read(FakeBackend("Hi\n\n```\nx\n```")).connected()
    page.ask("hello there")
    page.answered()
    page.wait(lambda: page.elements(".route"))
    page.run("document.querySelector('.skip').focus()")

    unnamed, unseen, seen = [], [], set()
    for _ in range(40):
        page.press(Keys.TAB)
        node = page.browser.switch_to.active_element
        if node.tag_name == "body" or node.id in seen:
            break
        seen.add(node.id)
        label = node.get_attribute("id") or node.get_attribute("class") or node.text
        style = page.run("getComputedStyle(arguments[0]).outlineStyle", node)
        frame = page.run("getComputedStyle(arguments[0].closest('.box') ?? document.body).boxShadow", node)
        if style == "none" and frame == "none":
            unseen.append(label)
        if node.aria_role != "generic" and not node.accessible_name and node.tag_name not in ("pre",):
            unnamed.append(label)

    assert len(seen) > 10
    assert (unseen, unnamed) == ([], [])


def test_a_finished_answer_is_announced_once_and_its_pieces_are_not(read: Any) -> None:
    backend = HeldBackend("Good ", "morning")
    page = read(backend).connected()
    page.run(
        "(window.told = [], new MutationObserver(() => told.push(document.getElementById('status').textContent))"
        ".observe(document.getElementById('status'), {childList: true}), 0)"
    )

    page.ask("Say something")
    page.wait(lambda: page.text(".prose") == "Good")
    backend.released.set()
    page.answered()

    assert page.wait(lambda: page.run("told")) == ["code answered: Good morning"]
    assert page.element(".answer").get_attribute("aria-busy") == "false"
    assert page.run("document.getElementById('turns').closest('[aria-live]')") is None


def test_nothing_moves_for_those_who_asked_for_stillness(read: Any) -> None:
    backend = HeldBackend("Good ", "morning")
    page = read(backend).connected()
    page.prefer("prefers-reduced-motion", "reduce")
    page.ask("Say something")
    page.wait(lambda: page.text(".prose") == "Good")

    assert page.run("document.getAnimations().length") == 0
    page.prefer("prefers-reduced-motion", "no-preference")
    assert page.wait(lambda: page.run("document.getAnimations().length")) >= 1
    backend.released.set()
    page.answered()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_it_is_written_on(read: Any, scheme: str) -> None:
    page = read(FakeBackend()).connected()
    page.prefer("prefers-color-scheme", scheme)
    colour = {
        name: page.run(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}')")
        for name in ("ground", "panel", "soft", "ink", "quiet", "accent", "on-accent", "danger", "edge")
    }
    written = [
        *itertools.product(("ink", "quiet", "accent"), ("ground", "panel", "soft")),
        ("danger", "ground"),
        ("danger", "panel"),
        ("on-accent", "accent"),
    ]

    weak = {pair: contrast(*(colour[name] for name in pair)) for pair in written}

    assert {pair: value for pair, value in weak.items() if value < 4.5} == {}
    assert contrast(colour["edge"], colour["ground"]) >= 3  # the outline of a field


def contrast(one: str, other: str) -> float:
    """Ratio of relative luminances, 1 to 21, as WCAG 2.2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = (int(colour.strip()[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_page_asks_only_its_own_server_for_anything(read: Any) -> None:
    page = read(FakeBackend("Hi")).connected()
    page.ask("hello there")
    page.answered()

    asked = page.run("performance.getEntriesByType('resource').map(entry => entry.name)")

    assert asked
    assert [name for name in asked if not name.startswith(page.url)] == []
    assert Path(chat_page.__file__).with_name("page").is_dir()
