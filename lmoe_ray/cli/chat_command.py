"""``lmoe chat``: a conversation on a terminal, or one question and its answer.

With a question, or with standard input from elsewhere, it answers once and ends; standard output then holds the
answer alone unless it is a terminal.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lmoe_ray.api.client import Client
from lmoe_ray.cli.ask_commands import DEFAULT_URL, KeyOption, ModelOption, UrlOption

if TYPE_CHECKING:
    from lmoe_ray.cli.chat_session import ChatSession
    from lmoe_ray.cli.chat_store import Conversation

#: Exit status after Ctrl-C, as shells have it.
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The command's options; what is ``None`` is left as the conversation has it."""

    url: str
    api_key: str | None
    model: str | None
    expert: str | None
    system: str | None
    temperature: float | None
    is_continued: bool
    is_kept: bool

    def over(self, conversation: Conversation) -> Conversation:
        """``conversation`` with what the options say otherwise."""
        temperature = {} if self.temperature is None else {"temperature": self.temperature}
        return replace(
            conversation,
            model=self.model or conversation.model,
            expert=self.expert or conversation.expert,
            system=conversation.system if self.system is None else self.system,
            fields={**conversation.fields, **temperature},
        )


def chat(
    question: Annotated[str | None, typer.Argument(help="Answer this and end; after what standard input says.")] = None,
    url: UrlOption = DEFAULT_URL,
    model: ModelOption = None,
    expert: Annotated[str | None, typer.Option("--expert", "-e", help="Pin an expert.")] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    is_continued: Annotated[bool, typer.Option("--continue", "-c", help="Take up the last conversation.")] = False,
    is_kept: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep conversation and typed lines.")] = True,
    api_key: KeyOption = None,
) -> None:
    """Chat in the terminal; every answer shows which expert gave it. /help there lists the commands."""
    options = ChatOptions(url, api_key, model, expert, system, temperature, is_continued, is_kept)
    if question is None and sys.stdin.isatty():
        asyncio.run(_converse(options))
    else:
        asyncio.run(_answer_once(options, _whole_question(question)))


def state_folder() -> Path:
    """Where conversations and typed lines are kept."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path("~/.local/state").expanduser()) / "lmoe_ray"


def _whole_question(question: str | None) -> str:
    piped = "" if sys.stdin.isatty() else sys.stdin.read().strip()
    text = "\n\n".join(filter(None, (piped, question)))
    if not text:
        raise typer.BadParameter("there is no question, and standard input is empty; lmoe chat QUESTION")
    return text


async def _answer_once(options: ChatOptions, question: str) -> None:
    console = Console()
    notes = console if console.is_terminal else Console(stderr=True, quiet=not sys.stderr.isatty())
    async with Client(options.url, api_key=options.api_key) as client:
        session = await _session(client, options, console, notes)
        if not await session.ask(question):
            raise typer.Exit(INTERRUPTED)


async def _converse(options: ChatOptions) -> None:
    from lmoe_ray.cli.chat_commands import COMMANDS, take
    from lmoe_ray.cli.chat_input import LineReader
    from lmoe_ray.cli.chat_interrupt import ran_through

    console = Console()
    reader = LineReader(list(COMMANDS), state_folder() / "chat_lines" if options.is_kept else None)
    async with Client(options.url, api_key=options.api_key) as client:
        session = await _session(client, options, console, console)
        _greet(session)
        while not session.is_over and (entry := await reader.read()) is not None:
            await ran_through(take(session, entry))


async def _session(client: Client, options: ChatOptions, console: Console, notes: Console) -> ChatSession:
    from lmoe_ray.cli.chat_session import ChatSession
    from lmoe_ray.cli.chat_store import ChatStore, Conversation

    store = ChatStore(state_folder() / "chats")
    taken_up = store.take_up() if options.is_continued else Conversation("")
    conversation = options.over(taken_up)
    card = await client.model(conversation.model or None)
    return ChatSession(
        client,
        replace(conversation, model=card["id"]),
        int(card["max_model_len"]),
        console,
        notes=notes,
        store=store if options.is_kept else None,
    )


def _greet(session: ChatSession) -> None:
    session.say(f"{session.model} · {session.history.max_model_len} tokens of context · /help lists the commands")
    if session.history.turns:
        session.say(f"going on after {len(session.history.turns)} messages; the last question was:")
        session.say(session.history.last_question or "")
