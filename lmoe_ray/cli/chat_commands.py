"""The /commands of ``lmoe chat``: one table, from which the help, the completion and the nearest name come too."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from lmoe_ray.cli.chat_entry import content_of, is_command
from lmoe_ray.cli.chat_session import ChatSession
from lmoe_ray.cli.chat_store import SETTABLE, as_markdown, checked, encoded, load
from lmoe_ray.cli.decision_view import print_decision
from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.served import BASE
from lmoe_ray.errors import ConversationUnusable, LMoEError

Action = Callable[[ChatSession, str], Awaitable[None]]

# Of the number of an answer.
_MAX_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Command:
    """``usage`` shows the arguments, ``summary`` says what happens."""

    usage: str
    summary: str
    run: Action


async def take(session: ChatSession, entry: str) -> None:
    """Obey a command or ask a question. What goes wrong is shown."""
    entry = entry.strip()
    try:
        if is_command(entry):
            await _obey(session, entry)
        elif text := content_of(entry):
            await session.ask(text)
    except LMoEError as exc:
        session.complain(exc)


async def _obey(session: ChatSession, entry: str) -> None:
    word, *rest = entry.split(maxsplit=1)
    command = COMMANDS.get(word)
    if command is None:
        near = get_close_matches(word, COMMANDS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return session.complain(f'no command {word}; {hint}/help lists all; """{word} …""" asks it as a question')
    await command.run(session, content_of(rest[0]) if rest else "")


async def _expert(session: ChatSession, name: str) -> None:
    experts = await _experts(session)
    if name == "auto":
        session.expert = None
        session.say("the router chooses")
    elif name in experts:
        session.expert = name
        session.say(f"{name} answers from here on")
    elif name:
        session.complain(_unknown(name, [*experts, "auto"]))
    else:
        session.say(f"{session.expert or 'auto: the router'} answers; there are:")
        for expert, description in experts.items():
            session.say(f"  {expert}  {description}")


async def _experts(session: ChatSession) -> dict[str, str]:
    """Names and descriptions, the base among them; every model's, where the conversation's goes by another name."""
    listed = await session.client.experts()
    own = [expert for expert in listed if expert["model"] == session.model]
    experts = {expert["name"]: expert["description"] for expert in own or listed}
    # An expert may be called so; then the model's own name is left.
    itself = session.model if BASE in experts else BASE
    return {**experts, itself: "the base model itself, without an expert"}


def _unknown(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"no expert {name!r}; " + (f"did you mean {near[0]}? " if near else "") + f"there are {', '.join(known)}"


async def _route(session: ChatSession, text: str) -> None:
    """The conversation goes along, because a router may read it."""
    history = session.history.copy()
    question = text or history.undo()
    if not question:
        return session.complain("nothing was asked yet; /route TEXT tells of a text")
    messages = (*history.messages, Message("user", question))
    print_decision(await session.client.route(messages, model=session.model), session.notes)
    if session.expert:
        session.say(f"but {session.expert} is pinned; /expert auto lets the router choose")


async def _compare(session: ChatSession, rest: str) -> None:
    names, _, question = rest.partition(":")
    experts = names.replace(",", " ").split()
    if len(experts) < 2:
        return session.complain(f"name two experts or more: /compare {COMMANDS['/compare'].usage}")
    if not question.strip() and session.history.last_question is None:
        return session.complain("nothing was asked yet; write the question after a colon")
    known = await _experts(session)
    for name in experts:
        if name not in known:
            return session.complain(_unknown(name, [*known]))
    await session.compare(experts, question.strip())


async def _choose(session: ChatSession, number: str) -> None:
    if not number.isdecimal() or len(number) > _MAX_DIGITS:
        return session.complain("which answer? /choose NUMBER, after /compare")
    session.choose(int(number))


async def _save(session: ChatSession, name: str) -> None:
    path = _file(name)
    if path.exists() and str(path) not in session.files:
        raise ConversationUnusable(str(path), "exists already; choose another name")
    text = as_markdown(session.conversation) if path.suffix == ".md" else encoded(session.conversation)
    try:
        path.write_text(text, "utf-8")
    except OSError as exc:
        raise ConversationUnusable(str(path), f"cannot be written ({exc.strerror})") from exc
    session.files.add(str(path))
    session.say(f"{len(session.history.turns)} messages in {path}")


async def _load(session: ChatSession, name: str) -> None:
    path = _file(name)
    if path.suffix == ".md":
        raise ConversationUnusable(str(path), "Markdown is for reading; load what was saved as JSON")
    conversation = load(path)
    session.begin(dataclasses.replace(conversation, model=session.model))
    session.files.add(str(path))
    session.keep()
    session.say(f"{len(conversation.turns)} messages from {path}; {session.model} goes on with them")


def _file(name: str) -> Path:
    if not name:
        raise ConversationUnusable("/save, /load", "need the name of a file")
    return Path(name).expanduser().absolute()


async def _retry(session: ChatSession, _: str) -> None:
    await session.retry()


async def _undo(session: ChatSession, _: str) -> None:
    question = session.history.undo()
    session.keep()
    session.say("nothing was asked yet" if question is None else f"forgotten: {question}")


async def _system(session: ChatSession, text: str) -> None:
    if text:
        session.history.system = "" if text == "none" else text
    session.say(f"system prompt: {session.history.system or 'none'}")


async def _set(session: ChatSession, rest: str) -> None:
    name, _, value = rest.partition(" ")
    if name and name not in SETTABLE:
        return session.complain(f"no field {name!r}; there are {', '.join(SETTABLE)}")
    if value.strip() == "default":
        session.fields.pop(name, None)
    elif value:
        try:
            session.fields[name] = checked(name, value.strip())
        except ValueError as exc:
            return session.complain(exc)
    for field in (name,) if name else SETTABLE:
        session.say(f"{field} {session.fields.get(field, 'default')}")


async def _new(session: ChatSession, _: str) -> None:
    session.begin(dataclasses.replace(session.conversation, turns=()))
    session.say("a new conversation; system prompt, expert and fields stay")


async def _help(session: ChatSession, _: str) -> None:
    width = max(len(f"{name} {command.usage}") for name, command in COMMANDS.items())
    for name, command in COMMANDS.items():
        session.say(f"{f'{name} {command.usage}':<{width}}  {command.summary}")
    session.say('""" begins and ends a text of several lines; so does \\ at a line\'s end or Alt-Enter')
    session.say("Ctrl-C stops an answer; twice at the prompt it leaves, as Ctrl-D does")


async def _quit(session: ChatSession, _: str) -> None:
    session.is_over = True


COMMANDS = {
    "/expert": Command("[NAME|auto]", "pin who answers, or let the router choose; alone: list them", _expert),
    "/route": Command("[TEXT]", "why the last question, or TEXT, goes to whom", _route),
    "/compare": Command("A B …[: QUESTION]", "ask several experts, or base, the last question or another", _compare),
    "/choose": Command("NUMBER", "go on with that answer of the last /compare", _choose),
    "/retry": Command("", "ask the last question again", _retry),
    "/undo": Command("", "forget the last question and its answer", _undo),
    "/system": Command("[TEXT|none]", "show or set the system prompt", _system),
    "/set": Command("[FIELD [VALUE|default]]", f"show or set {', '.join(SETTABLE)}", _set),
    "/save": Command("FILE", "write the conversation as JSON, or as Markdown if FILE ends in .md", _save),
    "/load": Command("FILE", "go on with a conversation saved as JSON", _load),
    "/new": Command("", "start over", _new),
    "/help": Command("", "this list", _help),
    "/quit": Command("", "leave", _quit),
}
