"""Comparing: experts and the base model answer one request, each in its place, and what goes wrong is told once."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.key_file import create_key
from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.served import ServedExpert
from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.errors import EngineFailed, LMoEError, Overloaded, PromptTooLong
from tests.browser.test_hostile_output import HOSTILE
from tests.fakes import MODEL, FakeBackend

pytestmark = pytest.mark.browser

GIVE_UP_S = 10.0


class Choir(FakeBackend):
    """Each says who it is; those ``held`` wait until ``released`` before they say their name, or fail."""

    def __init__(self, *held: str, failure: LMoEError | None = None) -> None:
        super().__init__()
        self.held, self.failure = held, failure
        self.released = threading.Event()

    async def generate(self, request: GenerateRequest, decision: RoutingDecision) -> AsyncGenerator[TokenDelta, None]:
        name = decision.expert or "base"
        self.num_running += 1
        try:
            yield TokenDelta("I am ", (1,), Usage(7, 1))
            if name in self.held:
                await self._let_go()
                if self.failure is not None:
                    raise self.failure
            yield TokenDelta(name, (2,), Usage(7, 2), "stop")
        finally:
            self.num_running -= 1

    async def _let_go(self) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            while not self.released.is_set():  # noqa: ASYNC110 - set from the test's thread
                await asyncio.sleep(0.01)


def compare(page: Any, *names: str) -> None:
    """Tick them, the router's choice by an empty name, and ask."""
    page.choose("expert", "*")
    for name in names:
        page.click(f'#compared input[value="{name}"]')
    page.ask("Who are you?")


def settled(page: Any, number: int) -> None:
    """Wait until all have ended and the route is drawn, which moves what is below it."""
    page.answered(number)
    page.wait(lambda: page.elements(".route"))


def num_requests(page: Any) -> int:
    """How often the page has asked for answers."""
    asked = page.run("performance.getEntriesByType('resource').map(entry => entry.name)")
    return sum(name.endswith("/v1/chat/completions") for name in asked)


def test_one_request_asks_them_all_and_each_is_shown_as_it_comes(read: Any) -> None:
    backend = Choir("math")
    page = read(backend).connected()

    compare(page, "code", "math", "base")
    page.wait(lambda: page.states() == ["done", "streaming", "done"])
    assert page.texts(".prose") == ["I am code", "I am", "I am base"]
    assert page.is_shown("#stop")

    backend.released.set()
    page.answered(3)
    assert page.texts(".prose") == ["I am code", "I am math", "I am base"]
    assert page.texts(".answer .name") == ["code", "math", "Base model"]
    assert page.texts(".answer .how") == ["chosen by you"] * 3
    assert all("2 tokens, prompt 7" in figures for figures in page.texts(".figures"))
    assert "tokens/s" in page.texts(".figures")[1]
    assert num_requests(page) == 1
    assert page.is_shown("#send")


def test_what_the_router_chooses_is_asked_for_beside_them(read: Any) -> None:
    page = read(Choir()).connected()

    compare(page, "", "math", "base")
    page.answered(3)

    assert page.texts(".prose") == ["I am code", "I am math", "I am base"]
    assert page.texts(".answer .how") == ["75 % sure", "chosen by you", "chosen by you"]
    assert num_requests(page) == 2


def test_no_request_names_more_than_the_server_takes(read: Any) -> None:
    page = read(FakeBackend()).connected()
    groups = page.module(
        "asking",
        "m.requestsFor([...'abcdefghi'].map((asked) => ({ asked }))).map((answers) => m.whoAnswers(answers))",
    )

    assert groups == [{"experts": [*"abcdefgh"]}, {"expert": "i"}]


def test_the_base_model_can_be_pinned(read: Any) -> None:
    backend = Choir()
    page = read(backend).connected()

    page.choose("expert", "base")
    page.ask("Who are you?")
    page.answered()

    assert page.texts(".answer .name") == ["Base model"]
    assert page.text(".answer .how") == "chosen by you"
    assert page.text(".prose") == "I am base"
    assert any(request.is_for_base for request in backend.requests)


def test_an_expert_called_base_is_not_mistaken_for_the_base_model(read: Any) -> None:
    model = dataclasses.replace(MODEL, experts=(ServedExpert("base", "ba5e"), *MODEL.experts))
    backend = FakeBackend("Hi", models=(model,))
    page = read(backend).connected()

    compare(page, "base", "demo")
    page.answered(2)

    assert page.texts("#compared label") == ["router’s choice", "base", "code", "math", "Base model"]
    assert page.texts(".answer .name") == ["base", "Base model"]
    generated = {(request.expert, request.is_for_base) for request in backend.requests}
    assert {("base", False), (None, True)} <= generated


def test_a_retry_asks_the_one_alone_and_keeps_the_others(read: Any) -> None:
    backend = Choir()
    page = read(backend).connected()
    compare(page, "code", "math")
    settled(page, 2)
    kept = page.elements(".answer")[0].text
    asked_before = len(backend.requests)

    page.elements(".retry")[1].click()
    page.wait(lambda: num_requests(page) == 2)
    page.answered(2)

    assert page.texts(".prose") == ["I am code", "I am math"]
    assert page.elements(".answer")[0].text == kept
    assert {request.expert for request in backend.requests[asked_before:]} == {"math"}


def test_stopping_keeps_those_that_had_ended(read: Any) -> None:
    backend = Choir("math", "base")
    page = read(backend).connected()
    compare(page, "code", "math", "base")
    page.wait(lambda: page.states() == ["done", "streaming", "streaming"])

    page.click("#stop")

    page.wait(lambda: page.states() == ["done", "stopped", "stopped"])
    page.wait(lambda: backend.num_running == 0)
    assert page.texts(".prose") == ["I am code", "I am", "I am"]


def test_the_next_question_follows_the_chosen_answer_of_several(read: Any) -> None:
    backend = Choir()
    page = read(backend).connected()
    compare(page, "code", "base")
    settled(page, 2)

    page.elements(".choose")[1].click()
    assert page.texts(".answer.chosen .name") == ["Base model"]
    page.choose("expert", "math")
    page.ask("And now?")
    page.answered(3)

    said = [(message.role, message.content) for message in backend.requests[-1].messages]
    assert said == [("user", "Who are you?"), ("assistant", "I am base"), ("user", "And now?")]


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────


def test_a_refusal_of_all_is_told_once_and_aloud_once(read: Any) -> None:
    page = read(FakeBackend("Hi", routing=PromptTooLong(5000, 4096))).connected()
    page.expected_complaints = ("status of 400",)
    page.run(
        "(window.told = [], new MutationObserver(() => told.push(document.getElementById('status').textContent))"
        ".observe(document.getElementById('status'), {childList: true}), 0)"
    )

    compare(page, "", "code", "base")
    page.answered(3)

    assert page.states() == ["failed"] * 3
    page.wait(lambda: len(page.elements(".problem")) == 1)
    assert [button.get_attribute("aria-pressed") for button in page.elements(".choose")] == ["true", "false", "false"]
    assert "4096" in page.text(".problem p")
    assert page.texts(".problem button") == ["Try again"]
    assert page.texts(".figures") == ["no answer"] * 3
    assert len(page.wait(lambda: page.run("told"))) == 1


def test_one_that_fails_on_the_way_leaves_what_was_whole_and_all_others_are_tried_again_at_once(read: Any) -> None:
    backend = Choir("math", "base", failure=EngineFailed("boom"))
    page = read(backend).connected()
    compare(page, "code", "math", "base")
    page.wait(lambda: page.states() == ["done", "streaming", "streaming"])

    backend.released.set()
    settled(page, 3)
    assert page.states() == ["done", "failed", "failed"]
    assert page.texts(".prose") == ["I am code", "I am", "I am"]
    assert page.texts(".problem p") == [EngineFailed("boom").message]
    assert ["broken off" in figures for figures in page.texts(".figures")] == [False, True, True]
    assert [button.get_attribute("aria-pressed") for button in page.elements(".choose")] == ["true", "false", "false"]

    backend.failure = None
    page.click(".problem button")
    page.wait(lambda: page.states() == ["done"] * 3)
    assert page.texts(".prose") == ["I am code", "I am math", "I am base"]
    assert page.texts(".problem") == []
    assert num_requests(page) == 2


def test_a_full_server_tells_all_of_them_once_when_to_come_back(read: Any) -> None:
    page = read(FakeBackend("Hi", routing=Overloaded(4, 4))).connected()
    page.expected_complaints = ("status of 429",)

    compare(page, "code", "base")
    page.answered(2)

    again = page.element(".problem button")
    assert again.text == "Try again in 1 s"
    page.wait(again.is_enabled)
    assert len(page.elements(".problem")) == 1


def test_a_key_that_is_withdrawn_is_asked_for_once_and_all_are_answered_then(read: Any, tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.yaml", "ann")
    page = read(Choir(), keys=KeyRing(tmp_path / "keys.yaml"))
    page.expected_complaints = ("status of 401",)
    page.wait(lambda: page.is_shown("#key"))
    page.element("#key-field").send_keys(key, "\n")
    page.connected()
    page.run("sessionStorage.setItem('lmoe.key', 'withdrawn')")

    compare(page, "code", "base")
    page.answered(2)
    assert page.texts(".problem button") == ["Enter a key"]
    page.wait(lambda: page.elements(".route-problem"))
    page.click(".problem button")
    page.element("#key-field").send_keys(key, "\n")

    page.wait(lambda: page.texts(".prose") == ["I am code", "I am base"])


def test_an_answer_that_was_not_asked_for_is_an_error(read: Any) -> None:
    page = read(FakeBackend()).connected()
    stream = (
        'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
        'data: {"choices":[{"index":2,"delta":{"content":"b"}}]}\n\n'
    )
    script = """(async () => {
        const answers = [{ text: "", state: "waiting" }, { text: "", state: "waiting" }];
        window.fetch = async () => new Response(a[0]);
        await m.fillAnswers(answers, {}, new AbortController().signal, () => {});
        return answers.map(({ text, state, error }) => [text, state, error.message]);
    })()"""

    ended = page.module("answer", script, stream)

    problem = "The stream holds an answer that was not asked for. Try again."
    assert ended == [["a", "failed", problem], ["", "failed", problem]]


def test_hostile_output_of_several_runs_nothing(read: Any) -> None:
    page = read(FakeBackend(*(HOSTILE[at : at + 5] for at in range(0, len(HOSTILE), 5)))).connected()

    compare(page, "code", "base")
    page.answered(2)

    assert page.run("window.hacked ?? null") is None
    assert page.run("document.querySelectorAll('#turns :is(script, img, svg, iframe)').length") == 0
    assert all("<script>window.hacked = 1</script>" in text for text in page.texts(".prose"))


# ── how it looks ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("width", "num_columns"), [(360, 1), (1200, 3)])
def test_they_stand_side_by_side_where_there_is_room(read: Any, width: int, num_columns: int) -> None:
    page = read(Choir()).connected()
    page.resize(width, 800)

    compare(page, "code", "math", "base")
    page.answered(3)

    assert len({column.rect["x"] for column in page.elements(".answer")}) == num_columns
    assert page.run("document.documentElement.scrollWidth") <= width
