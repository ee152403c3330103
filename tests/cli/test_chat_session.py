"""A terminal conversation: streamed answers with their expert, histories that fit, and answers that are stopped."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from lmoe_ray.api.client import Client
from lmoe_ray.cli.chat_commands import take
from lmoe_ray.cli.chat_interrupt import ran_through
from lmoe_ray.cli.chat_session import ChatSession
from lmoe_ray.cli.chat_store import ChatStore, Conversation
from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.errors import EngineFailed, PromptTooLong, ServerRefused
from tests.cli.chat_room import chatting, ctrl_c_once, said, screen, shown, streaming, wait_until
from tests.fakes import MODEL, FakeBackend


async def test_an_answer_shows_its_text_its_expert_and_what_it_took() -> None:
    console = screen()
    async with chatting(FakeBackend("Hel", 0.01, "lo"), console) as session:
        assert await session.ask("good morning")

    assert "code › Hello\n" in shown(console)
    assert "code · similarity 0.75 · then math 0.25 · 2 + 2 of 1000 tokens · " in shown(console)
    assert re.search(r"\d+\.\d tokens/s · first after \d\.\d\d s\n", shown(console))


async def test_an_answer_cut_by_its_length_says_so() -> None:
    console = screen()
    async with chatting(FakeBackend("one", "two"), console) as session:
        session.fields["max_tokens"] = 1
        await session.ask("count")

    assert "cut off: max_tokens" in shown(console)


async def test_without_a_surer_expert_the_base_answers_and_the_footer_says_why() -> None:
    console = screen()
    async with chatting(FakeBackend("hm", routing=""), console) as session:
        await session.ask("what?")

    assert "base › hm" in shown(console)
    assert "base · abstained 0.25" in shown(console)


async def test_the_whole_conversation_is_sent_with_the_next_question() -> None:
    backend = FakeBackend("fine")
    async with chatting(backend, screen()) as session:
        session.history.system = "Be kind."
        await session.ask("hello")
        await session.ask("and you?")

    assert said(backend) == ["Be kind.", "hello", "fine", "and you?"]


async def test_a_refused_question_is_not_part_of_the_conversation() -> None:
    backend = FakeBackend("ok")
    async with chatting(backend, screen()) as session:
        session.expert = "poet"
        with pytest.raises(ServerRefused, match="expert 'poet' does not exist"):
            await session.ask("a haiku, please")
        session.expert = None
        await session.ask("anything")

    assert said(backend) == ["anything"]


async def test_an_answer_that_breaks_off_is_not_part_of_the_conversation() -> None:
    console = screen()
    async with chatting(FakeBackend("half ", EngineFailed("out of memory"), "whole"), console) as session:
        with pytest.raises(ServerRefused, match="out of memory"):
            await session.ask("a long story")
        assert session.history.turns == []

    assert "code › half" in shown(console)


async def test_ctrl_c_stops_the_answer_and_keeps_what_was_said() -> None:
    backend, console = FakeBackend("Once upon", 60.0, " a time"), screen()
    async with streaming(backend, console) as session, asyncio.TaskGroup() as group:
        group.create_task(ctrl_c_once(lambda: "Once upon" in shown(console)))
        assert not await session.ask("a story")
        await asyncio.to_thread(wait_until, lambda: backend.num_running == 0)

    assert [turn.message.content for turn in session.history.turns] == ["a story", "Once upon"]
    assert "code › Once upon\nstopped; what code said so far stays" in shown(console)


async def test_ctrl_c_before_the_first_word_leaves_the_conversation_as_it_was() -> None:
    backend, console = FakeBackend(60.0, "late"), screen()
    async with streaming(backend, console) as session, asyncio.TaskGroup() as group:
        group.create_task(ctrl_c_once(lambda: backend.num_running == 1))
        assert not await session.ask("a story")

    assert session.history.turns == []
    assert "stopped before the answer began" in shown(console)


async def test_after_the_work_ctrl_c_is_what_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)

    assert await ran_through(asyncio.sleep(0))
    assert signal.getsignal(signal.SIGINT) is before


class ForgetfulBackend(FakeBackend):
    """Refuses more than two messages, as a server with a shorter context than it announced."""

    async def generate(self, request: GenerateRequest, decision: RoutingDecision) -> AsyncGenerator[TokenDelta, None]:
        if len(request.messages) > 2:
            raise PromptTooLong(900, 100)
        async for delta in super().generate(request, decision):
            yield delta


async def test_old_turns_are_dropped_until_the_server_accepts_but_still_saved() -> None:
    backend, console = ForgetfulBackend("ok", models=(dataclasses.replace(MODEL, max_model_len=1000),)), screen()
    async with chatting(backend, console) as session:
        for question in ("one", "two", "three"):
            await session.ask(question)
        assert session.history.num_dropped == 4

    assert said(backend) == ["three"]
    assert "4 old messages dropped" in shown(console)
    assert len(session.conversation.turns) == 6


async def test_with_notes_elsewhere_the_answer_stands_alone() -> None:
    console, notes = screen(), screen()
    async with chatting(FakeBackend("[bold]42[/] :smile:"), console, notes=notes) as session:
        await session.ask("the answer?")

    assert shown(console) == "[bold]42[/] :smile:\n"
    assert "similarity 0.75" in shown(notes)


async def test_every_answer_is_kept_and_the_last_conversation_can_be_taken_up(tmp_path: Path) -> None:
    async with chatting(FakeBackend("hi"), screen(), store=ChatStore(tmp_path)) as session:
        await session.ask("hello")
        await session.ask("hello again")

    taken_up = ChatStore(tmp_path).take_up()
    assert [turn.message.content for turn in taken_up.turns] == ["hello", "hi", "hello again", "hi"]
    assert [turn.expert for turn in taken_up.turns] == [None, "code", None, "code"]


async def test_a_folder_that_cannot_be_written_is_told_once_and_the_chat_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    console = screen()
    async with chatting(FakeBackend("hi"), console, store=ChatStore(tmp_path / "file" / "chats")) as session:
        await session.ask("hello")
        await session.ask("hello again")

    assert shown(console).count("nothing is kept from here on") == 1


async def test_a_server_that_goes_away_is_shown_and_the_chat_goes_on() -> None:
    def gone(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    console = screen()
    async with Client("http://lmoe.test", transport=httpx.MockTransport(gone)) as client:
        session = ChatSession(client, Conversation("demo"), 1000, console)
        await take(session, "hello")

    assert "is the server running?" in shown(console)
    assert not session.is_over
