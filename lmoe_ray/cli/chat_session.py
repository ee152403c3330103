"""One conversation of ``lmoe chat``: what was said, what the user has pinned, and how it is asked for.

Only an exchange enters the history: a refused question leaves it as it was, a stopped answer stays as far as it came,
and of answers that are compared none is part of it until one is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from lmoe_ray.api.client import Client
from lmoe_ray.cli.answer_view import AnswerView, shown
from lmoe_ray.cli.chat_answer import Answer, footer
from lmoe_ray.cli.chat_comparison import Comparison
from lmoe_ray.cli.chat_history import ChatHistory
from lmoe_ray.cli.chat_interrupt import ran_through
from lmoe_ray.cli.chat_store import ChatStore, Conversation
from lmoe_ray.cli.terminal_text import visible
from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.served import BASE
from lmoe_ray.errors import ClientError, ConversationUnusable, ServerRefused


class ChatSession:
    """One conversation over one client.

    Attributes:
        model, expert, fields: of every request; ``expert`` is the pinned one, ``fields`` are sampling fields.
        notes: where everything but the answers goes.
        files: what the user saved or loaded here, and so may be written over.
        is_over: the user has said so.
    """

    def __init__(
        self,
        client: Client,
        conversation: Conversation,
        max_model_len: int,
        console: Console,
        *,
        notes: Console | None = None,
        store: ChatStore | None = None,
    ) -> None:
        self.client, self.console, self.notes = client, console, notes or console
        self.files: set[str] = set()
        self.is_over = False
        self._compared: Comparison | None = None
        self._store, self._max_model_len = store, max_model_len
        self._take(conversation)

    def _take(self, conversation: Conversation) -> None:
        self.model, self.expert, self.fields = conversation.model, conversation.expert, dict(conversation.fields)
        self.history: ChatHistory = conversation.history(self._max_model_len)

    @property
    def conversation(self) -> Conversation:
        return Conversation(self.model, self.history.system, tuple(self.history.turns), self.expert, dict(self.fields))

    def begin(self, conversation: Conversation) -> None:
        """Go on with another conversation; the present one stays where it is kept."""
        self._compared = None
        self._take(conversation)
        if self._store is not None:
            self._store.start()

    def keep(self) -> None:
        """Write the conversation to the state folder, if there is one."""
        if self._store is None:
            return
        try:
            self._store.keep(self.conversation)
        except ConversationUnusable as exc:
            self._store = None
            self.complain(f"{exc}; nothing is kept from here on")

    def say(self, text: str) -> None:
        self.notes.print(visible(text), style="dim", markup=False, emoji=False, highlight=False)

    def complain(self, text: object) -> None:
        self.notes.print(visible(str(text)), style="red", markup=False, emoji=False, highlight=False)

    async def ask(self, text: str) -> bool:
        """Ask, show the answer and remember both; ``False`` if Ctrl-C stopped it.

        Raises:
            ClientError: the server gives no answer.
        """
        return await self._exchange(text, self.history.copy())

    async def retry(self) -> None:
        """Ask the last question again; its answer stays until there is another."""
        before = self.history.copy()
        question = self.history.undo()
        if question is None:
            self.complain("nothing was asked yet")
        else:
            await self._exchange(question, before)

    async def compare(self, experts: Sequence[str], question: str) -> None:
        """Show what each expert says, one below the other; the conversation stays as it is until one is chosen.

        Raises:
            ClientError: one of them gives no answer, so none is there to choose.
        """
        self._compared, asked = None, self.history.copy()
        asked.ask(question or asked.undo() or "")
        names = [f"{number} {name}" for number, name in enumerate(experts, 1)]
        answer, is_whole = await self._answered(asked, names, experts=experts)
        compared = Comparison(tuple(self.history.turns), asked, answer)
        self.say(compared.footer() if is_whole else "stopped")
        if compared.numbers:
            self._compared = compared
            self.say("not part of the conversation; /choose NUMBER goes on with one of them")

    def choose(self, number: int) -> None:
        """Go on with that answer of the last comparison, in place of the answer it was compared to or chosen before."""
        compared = self._compared
        if compared is None:
            self.complain("nothing to choose from; /compare asks several experts")
        elif number not in compared.numbers:
            self.complain(f"no answer {number}; there are {', '.join(map(str, compared.numbers))}")
        elif not compared.is_current(self.history.turns):
            self.complain("the conversation went on since then; /compare asks again")
        else:
            self.history = replace(compared.gone_on_with(number), system=self.history.system)
            self.keep()
            self.say(f"the answer of {compared.names[number - 1]} goes on")

    async def _exchange(self, text: str, before: ChatHistory) -> bool:
        self.history.ask(text)
        try:
            answer, is_whole = await self._answered(self.history, expert=self.expert, explain=True)
        except ClientError:
            self.history = before
            raise
        self._remember(answer, is_whole, before)
        self.keep()
        return is_whole

    async def _answered(self, history: ChatHistory, names: Sequence[str] = (), **fields: Any) -> tuple[Answer, bool]:
        """Ask and show, leaving out old messages until the server accepts; ``False`` if Ctrl-C stopped it."""
        while True:
            answer = Answer()
            try:
                return answer, await self._was_shown(answer, history.messages, names, **fields)
            except ServerRefused as exc:
                if exc.error_code != "context_length_exceeded" or not history.drop_oldest():
                    raise

    async def _was_shown(
        self, answer: Answer, messages: Sequence[Message], names: Sequence[str] = (), **fields: Any
    ) -> bool:
        """Show answers while they arrive; ``False`` if Ctrl-C stopped them. ``names``: who gives each, if not one."""
        with shown(self.console, len(names) or 1, has_names=self.notes is self.console) as view:
            for index, name in enumerate(names):
                view.name(index, name)
            return await ran_through(self._read(answer, view, messages, {**self.fields, **fields}))

    async def _read(
        self, answer: Answer, view: AnswerView, messages: Sequence[Message], fields: dict[str, Any]
    ) -> None:
        async with self.client.chat(messages, model=self.model, **fields) as answer.stream:
            async for index, piece in answer.stream.pieces():
                if "experts" not in fields and answer.first_s is None:
                    view.name(index, answer.stream.expert or BASE)
                answer.add(index, piece)
                view.add(index, piece)

    def _remember(self, answer: Answer, is_whole: bool, before: ChatHistory) -> None:
        stream, text = answer.stream, answer.texts.get(0, "")
        if stream is None or not (is_whole or text):
            self.history = before
            self.say("stopped before the answer began; the question is not part of the conversation")
            return
        self.history.answered(text, stream.usage if is_whole else None, stream.expert)
        who = stream.expert or BASE
        self.say(footer(answer, self.history) if is_whole else f"stopped; what {who} said so far stays")
