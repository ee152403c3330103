"""Asking: answers come as they are said, can be stopped, asked for again, and pinned."""

from __future__ import annotations

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from lmoe_ray.errors import EngineFailed, Overloaded, PromptTooLong
from tests.browser.held_backend import HeldBackend
from tests.fakes import FakeBackend

pytestmark = pytest.mark.browser


def test_the_first_piece_is_seen_before_the_last_is_sent(read: Any) -> None:
    backend = HeldBackend("Good ", "morning")
    page = read(backend).connected()

    page.ask("Say something")
    page.wait(lambda: page.text(".prose") == "Good")
    assert backend.num_running == 1
    assert page.states() == ["streaming"]

    backend.released.set()
    page.answered()
    assert page.text(".prose") == "Good morning"


def test_an_answer_tells_who_gave_it_how_sure_and_what_it_took(read: Any) -> None:
    page = read(FakeBackend("one ", 0.05, "two ", 0.05, "three")).connected()

    page.ask("hello there")
    page.answered()

    assert page.text(".answer .name") == "code"
    assert page.text(".answer .how") == "75 % sure"
    assert "3 tokens, prompt 2" in page.text(".figures")
    assert "first after" in page.text(".figures")
    assert "tokens/s" in page.text(".figures")


def test_the_route_is_drawn_with_scores_threshold_reason_and_samples(read: Any) -> None:
    backend = FakeBackend("Hi")
    page = read(backend).connected()

    page.ask("hello there")
    page.answered()
    page.wait(lambda: page.elements(".route"))

    assert page.text(".route .sentence") == "Router: code 75 %, math 25 %"
    assert not page.is_shown(".route-body")
    page.click(".route > summary")
    assert page.texts(".scores tr") == ["code75 %", "math25 %"]
    widths = [bar.size["width"] for bar in page.elements(".scores .bar")]
    assert widths[0] == pytest.approx(3 * widths[1], abs=2)
    assert "Its samples are nearest." in page.text(".reason")
    assert "Below 50 % the fallback answers." in page.text(".reason")
    page.click(".route-body details > summary")
    assert page.texts(".samples li") == ["code 0.50 write a loop"]
    assert [request.messages[-1].content for request in backend.requests] == ["hello there"] * 2


def test_stopping_ends_the_answer_on_the_server_too(read: Any) -> None:
    backend = HeldBackend("Good ", "morning")
    page = read(backend).connected()
    page.ask("Say something")
    page.wait(lambda: page.text(".prose") == "Good")

    page.press(Keys.ESCAPE)

    page.answered()
    page.wait(lambda: backend.num_running == 0)
    assert page.states() == ["stopped"]
    assert page.text(".prose") == "Good"
    assert "stopped by you" in page.text(".figures")
    assert page.is_shown("#send")


def test_the_next_question_sends_what_was_said_before(read: Any) -> None:
    backend = FakeBackend("An ", "answer")
    page = read(backend).connected()

    page.ask("First")
    page.answered()
    page.ask("Second")
    page.answered(2)

    said = [(message.role, message.content) for message in backend.requests[-1].messages]
    assert said == [("user", "First"), ("assistant", "An answer"), ("user", "Second")]


def test_retry_asks_again_and_edit_replaces_the_last_question(read: Any) -> None:
    backend = FakeBackend("An answer")
    page = read(backend).connected()
    page.ask("First")
    page.answered()
    page.wait(lambda: page.elements(".route"))
    num_asked = len(backend.requests)

    page.click(".retry")
    page.wait(lambda: len(backend.requests) == num_asked + 1)
    page.answered()
    page.click(".edit")
    assert page.value("question") == "First"
    assert page.is_shown("#editing")
    page.type(" and only", Keys.ENTER)
    page.wait(lambda: page.texts(".question p") == ["First and only"])
    page.answered()
    assert [message.content for message in backend.requests[-1].messages] == ["First and only"]


def test_only_the_last_turn_can_be_asked_anew(read: Any) -> None:
    page = read(FakeBackend("An answer")).connected()
    page.ask("First")
    page.answered()
    page.ask("Second")
    page.answered(2)

    assert [button.is_displayed() for button in page.elements(".retry")] == [False, True]
    assert [button.is_displayed() for button in page.elements(".edit")] == [False, True]


def test_a_pinned_expert_is_asked_by_name(read: Any) -> None:
    backend = FakeBackend("Hi")
    page = read(backend).connected()

    page.choose("expert", "math")
    page.ask("hello there")
    page.answered()

    assert "math" in [request.expert for request in backend.requests]
    assert page.text(".answer .name") == "math"
    assert page.text(".answer .how") == "chosen by you"


def test_a_card_of_the_first_screen_pins_its_expert(read: Any) -> None:
    page = read(FakeBackend("Hi")).connected()

    assert page.texts(".card b") == ["code", "math", "Base model"]
    page.elements(".card")[1].click()

    assert page.value("expert") == "math"
    assert page.focused() == "question"


def test_comparing_nobody_says_what_to_do(read: Any) -> None:
    backend = FakeBackend("Hi")
    page = read(backend).connected()

    page.choose("expert", "*")
    page.ask("hello there")

    assert "Tick who is to be compared" in page.text("#notice")
    assert page.value("question") == "hello there"
    assert backend.requests == []


def test_settings_are_sent_and_empty_ones_are_left_to_the_server(read: Any) -> None:
    backend = FakeBackend("one ", "two ", "three")
    page = read(backend).connected()

    page.click("#show-settings")
    page.element("#system").send_keys("Be brief.")
    page.element("#max-tokens").send_keys("2", Keys.ENTER)
    page.ask("hello there")
    page.answered()

    generated = next(request for request in backend.requests if request.sampling.max_tokens)
    assert [message.role for message in generated.messages] == ["system", "user"]
    assert generated.messages[0].content == "Be brief."
    assert generated.sampling.max_tokens == 2
    assert "cut at the most tokens allowed" in page.text(".figures")


def test_a_refusal_is_shown_in_place_with_a_way_to_try_again(read: Any) -> None:
    page = read(FakeBackend("Hi", routing=PromptTooLong(5000, 4096))).connected()
    page.expected_complaints = ("status of 400",)

    page.ask("hello there")
    page.answered()

    assert "4096" in page.text(".problem p")
    assert page.texts(".problem button") == ["Try again"]


def test_a_full_server_tells_when_to_come_back(read: Any) -> None:
    page = read(FakeBackend("Hi", routing=Overloaded(4, 4))).connected()
    page.expected_complaints = ("status of 429",)

    page.ask("hello there")
    page.answered()

    assert "requests are waiting" in page.text(".problem p")
    again = page.element(".problem button")
    assert not again.is_enabled()
    assert again.text == "Try again in 1 s"
    page.wait(again.is_enabled)


def test_an_error_in_the_middle_keeps_what_was_said(read: Any) -> None:
    page = read(FakeBackend("Good ", 0.05, EngineFailed("boom"), "morning")).connected()

    page.ask("hello there")
    page.answered()

    assert page.states() == ["failed"]
    assert page.text(".prose") == "Good"
    assert page.text(".problem p") == EngineFailed("boom").message


def test_a_lost_network_is_told_and_the_answer_can_be_had_later(read: Any) -> None:
    page = read(FakeBackend("Good morning")).connected()
    page.expected_complaints = ("net::ERR_INTERNET_DISCONNECTED",)
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}

    page.browser.execute_cdp_cmd("Network.enable", {})
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    page.ask("hello there")
    page.answered()
    assert "cannot be reached" in page.text(".problem p")
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**offline, "offline": False})
    page.click(".problem button")

    page.wait(lambda: page.text(".prose") == "Good morning")


def test_a_silent_stream_is_kept_open_by_comments(read: Any) -> None:
    page = read(FakeBackend("Good ", 0.3, "morning"), keep_alive_s=0.05).connected()

    page.ask("hello there")
    page.answered()

    assert page.text(".prose") == "Good morning"
