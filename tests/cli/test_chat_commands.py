"""Every /command of the terminal chat."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from lmoe_ray.cli.chat_commands import COMMANDS, take
from lmoe_ray.cli.chat_session import ChatSession
from lmoe_ray.cli.chat_store import ChatStore
from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.errors import EngineFailed, PromptTooLong
from tests.cli.chat_room import chatting, ctrl_c_once, said, screen, shown, streaming
from tests.fakes import FakeBackend


async def after(
    *entries: str, backend: FakeBackend | None = None, store: ChatStore | None = None
) -> tuple[str, ChatSession]:
    """What the screen shows after ``entries``, and the session."""
    console = screen()
    async with chatting(backend or FakeBackend("ok"), console, store=store) as session:
        for entry in entries:
            await take(session, entry)
    return shown(console), session


async def test_an_expert_is_pinned_until_the_router_may_choose_again() -> None:
    backend = FakeBackend("ok")
    text, _ = await after("/expert math", "two and two", "/expert auto", "and now", backend=backend)

    assert [request.expert for request in backend.requests] == ["math", None]
    assert "math › ok" in text


async def test_expert_alone_lists_who_there_is() -> None:
    text, _ = await after("/expert")

    assert "auto: the router answers" in text
    assert "code  writes code" in text
    assert "base  the base model itself, without an expert" in text


async def test_the_base_model_can_be_pinned_like_an_expert() -> None:
    backend = FakeBackend("ok")
    text, _ = await after("/expert base", "two and two", backend=backend)

    assert [(request.expert, request.is_for_base) for request in backend.requests] == [(None, True)]
    assert "base · explicit 1.00" in text


async def test_an_expert_that_is_not_there_is_answered_with_the_nearest() -> None:
    text, session = await after("/expert maht")

    assert "no expert 'maht'; did you mean math? there are code, math, base, auto" in text
    assert session.expert is None


async def test_route_tells_why_a_text_would_go_where() -> None:
    text, session = await after("/route sort a list")

    assert "code · similarity · its samples are nearest" in text
    assert "math" in text
    assert "0.250" in text
    assert "0.500       code  write a loop" in text
    assert "confidence 0.75" in text
    assert session.history.turns == []


async def test_route_alone_asks_about_the_last_question_with_what_came_before() -> None:
    backend = FakeBackend("ok")
    await after("one", "two", "/route", backend=backend)

    assert said(backend) == ["one", "ok", "two"]


async def test_route_tells_that_a_pinned_expert_answers_all_the_same() -> None:
    text, _ = await after("/expert math", "/route sort a list")

    assert "but math is pinned" in text


async def test_route_before_any_question_says_what_to_write() -> None:
    text, _ = await after("/route")

    assert "/route TEXT" in text


async def test_compare_shows_each_experts_answer_and_leaves_the_conversation_alone() -> None:
    backend = FakeBackend("ok")
    text, session = await after("two and two", "/compare code base", backend=backend)

    assert "1 code › ok\n2 base › ok\n" in text
    assert "1 code 1 tokens · 2 base 1 tokens" in text
    assert "not part of the conversation; /choose NUMBER" in text
    assert {request.expert for request in backend.requests[1:]} <= {"code", None}
    assert said(backend) == ["two and two"]
    assert len(session.history.turns) == 2


async def test_compare_takes_another_question_after_a_colon() -> None:
    backend = FakeBackend("ok")
    await after("hello", "/compare code, math: two and two", backend=backend)

    assert said(backend) == ["hello", "ok", "two and two"]


@pytest.mark.parametrize(
    ("entry", "answer"),
    [
        ("/compare code", "name two experts or more"),
        ("/compare code math", "write the question after a colon"),
        ("/compare code maht: why?", "did you mean math?"),
        ("/compare code code: why?", "appears twice"),
    ],
)
async def test_compare_says_what_is_missing(entry: str, answer: str) -> None:
    text, _ = await after(entry)

    assert answer in text


async def test_ctrl_c_stops_a_comparison() -> None:
    backend, console = FakeBackend("slow", 60.0, "ly"), screen()
    async with streaming(backend, console) as session, asyncio.TaskGroup() as group:
        group.create_task(ctrl_c_once(lambda: "slow" in shown(console)))
        await take(session, "/compare code math: why?")

    assert "1 code › slow\n2 math › slow\n" in shown(console)
    assert "stopped\n" in shown(console)


class Choir(FakeBackend):
    """Each says its own name."""

    async def generate(self, request: GenerateRequest, decision: RoutingDecision) -> AsyncGenerator[TokenDelta, None]:
        yield TokenDelta(f"I am {decision.expert}", (1,), Usage(7, 3), "stop")


async def test_the_conversation_goes_on_with_the_chosen_answer_in_place_of_the_last(tmp_path: Path) -> None:
    backend = Choir()
    store = ChatStore(tmp_path)
    text, session = await after("who?", "/compare code math", "/choose 2", "why?", backend=backend, store=store)

    assert "the answer of math goes on" in text
    assert said(backend) == ["who?", "I am math", "why?"]
    assert [(turn.expert, turn.num_tokens) for turn in session.history.turns[:2]] == [(None, 7), ("math", 3)]
    assert len(ChatStore(tmp_path).take_up().turns) == 4


async def test_the_answer_to_another_question_is_appended_and_another_can_be_chosen_instead() -> None:
    backend = Choir()
    await after("hi", "/compare code base: who?", "/choose 1", "/choose 2", "why?", backend=backend)

    assert said(backend) == ["hi", "I am code", "who?", "I am None", "why?"]


async def test_a_choice_keeps_the_present_system_prompt() -> None:
    _, session = await after("/compare code base: who?", "/system Be kind.", "/choose 1")

    assert session.history.system == "Be kind."


@pytest.mark.parametrize(
    ("entries", "answer"),
    [
        (("/choose 1",), "nothing to choose from"),
        (("/compare code math: who?", "/choose"), "/choose NUMBER"),
        (("/compare code math: who?", "/choose 3"), "no answer 3; there are 1, 2"),
        (("/compare code math: who?", "hi", "/choose 1"), "the conversation went on since then"),
        (("hi", "/compare code math", "/undo", "/choose 1"), "the conversation went on since then"),
        (("/compare code math: who?", "/new", "/choose 1"), "nothing to choose from"),
    ],
)
async def test_a_choice_that_cannot_be_made_says_why(entries: tuple[str, ...], answer: str) -> None:
    text, _ = await after(*entries, backend=Choir())

    assert answer in text
    assert "goes on\n" not in text


async def test_a_comparison_that_breaks_off_leaves_nothing_to_choose() -> None:
    text, session = await after(
        "/compare code math: who?", "/choose 1", backend=FakeBackend("half ", EngineFailed("out of memory"), "whole")
    )

    assert "out of memory" in text
    assert "nothing to choose from" in text
    assert session.history.turns == []


async def test_old_turns_are_dropped_from_a_comparison_too() -> None:
    class Forgetful(FakeBackend):
        async def generate(
            self, request: GenerateRequest, decision: RoutingDecision
        ) -> AsyncGenerator[TokenDelta, None]:
            if len(request.messages) > 1:
                raise PromptTooLong(900, 100)
            async for delta in super().generate(request, decision):
                yield delta

    backend = Forgetful("ok")
    _, session = await after("one", "/compare code math: two", "/choose 1", backend=backend)

    assert said(backend) == ["two"]
    assert [turn.message.content for turn in session.history.turns] == ["one", "ok", "two", "ok"]


async def test_retry_asks_again_in_place_of_the_last_answer() -> None:
    backend = FakeBackend("ok")
    _, session = await after("one", "two", "/retry", backend=backend)

    assert said(backend) == ["one", "ok", "two"]
    assert len(session.history.turns) == 4


async def test_a_retry_that_is_refused_leaves_the_answer() -> None:
    console = screen()
    async with chatting(FakeBackend("ok"), console) as session:
        await take(session, "one")
        session.expert = "gone"
        await take(session, "/retry")

    assert "does not exist" in shown(console)
    assert [turn.message.content for turn in session.history.turns] == ["one", "ok"]


async def test_undo_forgets_the_last_exchange_also_on_disk(tmp_path: Path) -> None:
    text, _ = await after("one", "two", "/undo", store=ChatStore(tmp_path))

    assert "forgotten: two" in text
    assert [turn.message.content for turn in ChatStore(tmp_path).take_up().turns] == ["one", "ok"]


async def test_undo_and_retry_of_nothing_say_so() -> None:
    text, _ = await after("/undo", "/retry")

    assert text.count("nothing was asked yet") == 2


async def test_a_system_prompt_of_several_lines_is_set_shown_and_removed() -> None:
    backend = FakeBackend("ok")
    text, session = await after(
        '/system """\nBe kind.\nBe brief.\n"""', "hi", "/system", "/system none", backend=backend
    )

    assert said(backend) == ["Be kind.\nBe brief.", "hi"]
    assert text.count("system prompt: Be kind.\nBe brief.") == 2
    assert session.history.system == ""


async def test_fields_are_set_shown_and_set_back() -> None:
    backend = FakeBackend("ok")
    text, session = await after(
        "/set temperature 0.7",
        "/set max_tokens 9",
        "/set top_p 0.5",
        "/set seed 4",
        "hi",
        "/set seed default",
        "/set",
        backend=backend,
    )
    sampling = backend.requests[0].sampling

    assert (sampling.temperature, sampling.max_tokens, sampling.top_p, sampling.seed) == (0.7, 9, 0.5, 4)
    assert session.fields == {"temperature": 0.7, "max_tokens": 9, "top_p": 0.5}
    assert "temperature 0.7\nmax_tokens 9\ntop_p 0.5\nseed default\n" in text


@pytest.mark.parametrize(
    ("entry", "answer"),
    [
        ("/set temperature hot", "temperature is 'hot', not a number"),
        ("/set temperature nan", "temperature is nan, not between 0.0 and 2.0"),
        ("/set max_tokens 0.5", "max_tokens is '0.5', not a whole number"),
        ("/set top_p 2", "top_p is 2.0, not between 0.0 and 1.0"),
        ("/set topp 1", "no field 'topp'; there are temperature, max_tokens, top_p, seed"),
    ],
)
async def test_a_field_out_of_range_is_refused(entry: str, answer: str) -> None:
    text, session = await after(entry)

    assert answer in text
    assert session.fields == {}


async def test_what_is_saved_can_be_loaded_and_goes_on(tmp_path: Path) -> None:
    file, backend = tmp_path / "talk.json", FakeBackend("ok")
    await after("/system Be kind.", "/expert math", "/set seed 4", "one", f"/save {file}")
    text, session = await after(f"/load {file}", "two", backend=backend)

    assert "2 messages from" in text
    assert said(backend) == ["Be kind.", "one", "ok", "two"]
    assert (session.expert, session.fields) == ("math", {"seed": 4})


async def test_a_saved_file_is_written_over_only_by_who_wrote_or_read_it(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text("mine")
    refused, _ = await after("one", f"/save {file}")
    file.unlink()
    await after("one", f"/save {file}", "two", f"/save {file}")

    assert "exists already; choose another name" in refused
    assert len(json.loads(file.read_text())["messages"]) == 4


async def test_a_conversation_is_saved_as_markdown_by_its_files_name(tmp_path: Path) -> None:
    file = tmp_path / "talk.md"
    text, _ = await after("/system Be kind.", "one", f"/save {file}", f"/load {file}")

    assert file.read_text() == (
        "# A conversation with demo\n\n## System\n\nBe kind.\n\n## You\n\none\n\n## code\n\nok\n"
    )
    assert "load what was saved as JSON" in text


@pytest.mark.parametrize("command", ["/save", "/load"])
async def test_files_need_a_name_and_a_place(command: str, tmp_path: Path) -> None:
    text, _ = await after(command, f"{command} {tmp_path}/none/talk.json")

    assert "need the name of a file" in text
    assert "(No such file or directory)" in text


async def test_new_forgets_the_conversation_but_not_the_system_prompt_or_the_kept_file(tmp_path: Path) -> None:
    backend = FakeBackend("ok")
    await after("/system Be kind.", "one", "/new", "two", backend=backend, store=ChatStore(tmp_path))

    assert said(backend) == ["Be kind.", "two"]
    assert len(os.listdir(tmp_path)) == 2


async def test_help_lists_every_command() -> None:
    text, _ = await after("/help")

    assert all(f"{name} {command.usage}" in text for name, command in COMMANDS.items())


async def test_an_unknown_command_is_answered_with_the_nearest_and_not_asked() -> None:
    backend = FakeBackend("ok")
    text, _ = await after("/hlep", "/etc/passwd", "", backend=backend)

    assert "no command /hlep; did you mean /help?" in text
    assert "no command /etc/passwd; /help lists all" in text
    assert backend.requests == []


async def test_a_pasted_text_or_a_block_that_begins_with_a_slash_is_a_question() -> None:
    backend = FakeBackend("ok")
    await after("/usr/bin\n/usr/lib", '"""/quit"""', backend=backend)

    assert said(backend) == ["/usr/bin\n/usr/lib", "ok", "/quit"]


async def test_quit_ends_the_session() -> None:
    _, session = await after("/quit")

    assert session.is_over
