"""A terminal conversation: streamed answers with their expert, commands, and histories that fit."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import AsyncIterator

import httpx
import pytest
from rich.console import Console

from lmoe_ray.api.client import Client
from lmoe_ray.api.http_app import build_app
from lmoe_ray.cli.chat_history import ChatHistory
from lmoe_ray.cli.chat_session import ChatSession
from lmoe_ray.errors import PromptTooLong
from lmoe_ray.settings import ApiSettings
from tests.fakes import MODEL, FakeBackend


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=False)


async def chatting(backend: FakeBackend, screen: Console) -> AsyncIterator[ChatSession]:
    transport = httpx.ASGITransport(build_app(backend, ApiSettings()))
    async with Client("http://lmoe.test", transport=transport) as client:
        yield ChatSession(client, "demo", ChatHistory(1000), screen)


def shown(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


async def test_an_answer_shows_its_text_its_expert_and_its_tokens(screen: Console) -> None:
    async for session in chatting(FakeBackend("Hel", "lo"), screen):
        assert await session.take("good morning")

    assert "code › Hello" in shown(screen)
    assert "similarity 0.75 · 2 + 2 of 1000 tokens" in shown(screen)


async def test_the_whole_conversation_is_sent_with_the_next_question(screen: Console) -> None:
    backend = FakeBackend("fine")
    async for session in chatting(backend, screen):
        await session.take("/system Be kind.")
        await session.take("hello")
        await session.take("and you?")

    assert [m.content for m in backend.requests[-1].messages] == ["Be kind.", "hello", "fine", "and you?"]


async def test_an_expert_can_be_pinned_and_unpinned(screen: Console) -> None:
    backend = FakeBackend("ok")
    async for session in chatting(backend, screen):
        await session.take("/expert math")
        await session.take("two and two")
        await session.take("/expert")
        await session.take("and now")

    assert [request.expert for request in backend.requests] == ["math", None]
    assert "math › ok" in shown(screen)


async def test_new_forgets_the_conversation_but_not_the_system_text(screen: Console) -> None:
    backend = FakeBackend("ok")
    async for session in chatting(backend, screen):
        await session.take("/system Be kind.")
        await session.take("one")
        await session.take("/new")
        await session.take("two")

    assert [m.content for m in backend.requests[-1].messages] == ["Be kind.", "two"]


async def test_quit_ends_and_an_unknown_command_helps(screen: Console) -> None:
    async for session in chatting(FakeBackend("ok"), screen):
        assert await session.take("/hlep")
        assert await session.take("")
        assert not await session.take("/quit")

    assert "/expert NAME" in shown(screen)


async def test_a_refused_question_is_shown_and_taken_back(screen: Console) -> None:
    backend = FakeBackend("ok")
    async for session in chatting(backend, screen):
        await session.take("/expert poet")
        await session.take("a haiku, please")
        await session.take("/expert")
        await session.take("anything")

    assert "expert 'poet' does not exist" in shown(screen)
    assert [m.content for m in backend.requests[-1].messages] == ["anything"]


class ForgetfulBackend(FakeBackend):
    """Refuses more than two messages, as a server with a shorter context than it announced."""

    async def generate(self, request, decision):  # type: ignore[no-untyped-def]
        if len(request.messages) > 2:
            raise PromptTooLong(900, 100)
        async for delta in super().generate(request, decision):
            yield delta


async def test_old_turns_are_dropped_until_the_server_accepts(screen: Console) -> None:
    backend = ForgetfulBackend("ok", models=(dataclasses.replace(MODEL, max_model_len=1000),))
    async for session in chatting(backend, screen):
        for question in ("one", "two", "three"):
            await session.take(question)
        assert session.history.num_dropped == 4

    assert [m.content for m in backend.requests[-1].messages] == ["three"]
    assert "old messages dropped" in shown(screen)
