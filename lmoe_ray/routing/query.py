"""Which texts of a request the router reads: its system text with the user's last message, and with all of them.

Neither is enough. The last message alone may be "and for the second one?"; all messages together still point
to the old expert after a change of topic. So a conversation is looked at both ways, and how much either says
depends on whether the last message goes on or turns, see :mod:`lmoe_ray.routing.turn_head`. The assistant's words are
left out, for they say more about the expert that spoke than about the one now wanted, and so is the system text
most clients send by default, which says nothing. Routing samples are cleaned in the same spirit, so that queries and
samples are the same kind of text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.prompt import DEFAULT_SYSTEM

#: A message of at most so many words ("go on", "thanks") is read together with the one before it.
MAX_SHORT_WORDS = 3

#: Rather too few, for readers that count tokens: what a system text takes too much is lost to the message.
CHARS_PER_TOKEN = 3

# Chinese and Japanese are written without spaces: there every character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_MAKER = re.compile(r"\b(?:named|called|(?:created|trained|developed|made|built) by) \w+(?: \w+)?")

# A sentence made of these words alone tells nothing about the task. They cover what widespread
# clients and chat templates send unasked: "You are ChatGPT, a large language model trained by
# OpenAI. Follow the user's instructions carefully.", "You are an AI assistant that helps people find
# information.", "A chat between a curious user and an artificial intelligence assistant. ..."
_EMPTY_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a an the i you your we are is am re be act as and or to in of with that who for s
        chat chats chatting conversation between curious user users human person people
        ai artificial intelligence assistant chatbot bot agent model language large llm
        chatgpt gpt claude gemini llama mistral qwen smollm
        helpful friendly honest harmless polite kind smart intelligent knowledgeable useful
        helps help find information follow instructions carefully
        gives give provide provides answer answers respond reply replies questions question
        detailed concise concisely brief briefly short clear clearly accurate accurately possible
        always please using use markdown
        """,
    )
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's last message, and the earlier ones in order, at least one."""

    message: str
    earlier: tuple[str, ...]

    @property
    def whole(self) -> str:
        """All of them, the last one first, so that it survives where the rest is cut off."""
        return "\n".join([self.message, *self.earlier])

    def texts(self) -> tuple[str, str, str]:
        """The message, what was said before, and all of it, each as it is or was read where there is no system text."""
        return self.message, "\n".join([self.earlier[-1], *self.earlier[:-1]]), self.whole


@dataclass(frozen=True, slots=True)
class Query:
    """The texts of a request that speak for an expert; each may be empty.

    Attributes:
        system: what tells one task from another in the leading system turns.
        message: the user's last message, with those before it as long as all are short.
        turn: the user's messages one by one; ``None`` with a single message.
    """

    system: str
    message: str
    turn: Turn | None = None

    def views(self, max_chars: int) -> tuple[str, ...]:
        """The one or two texts to be scored, none if there is nothing to read."""
        whole = Query(self.system, self.turn.whole) if self.turn else self
        views = (self.within(max_chars), whole.within(max_chars))
        return tuple(dict.fromkeys(view for view in views if view))

    def without_conversation(self) -> Query:
        """The last message alone speaks."""
        return Query(self.system, self.message)

    def within(self, max_chars: int) -> str:
        """Both texts as one, the system text first.

        A long system text is cut so that the message begins within the first half of ``max_chars``
        or fits into them altogether; the message is kept whole, for the reader to cut.
        """
        system = self.system[: max(max_chars // 2, max_chars - len(self.message))]
        return "\n".join(part for part in (system, self.message) if part)


def read_query(request: GenerateRequest) -> Query:
    """What a request asks, without what would mislead a router.

    Only the leading run of system turns is system text: clients put error texts and output of
    commands into later ones.
    """
    if request.prompt is not None:
        return Query("", sample_text(request.prompt))
    num_leading = next((i for i, m in enumerate(request.messages) if m.role != "system"), len(request.messages))
    system = "\n".join(_informative(m.content) for m in request.messages[:num_leading])
    return Query(system.strip(), _last_words(request.messages), _turn(request.messages))


def sample_text(sample: str) -> str:
    """A routing sample as it is embedded: without the default system text that airoboros data begins with."""
    return sample.strip().removeprefix(DEFAULT_SYSTEM).strip()


def _last_words(messages: Sequence[Message]) -> str:
    """The last user message, after as many earlier ones as it takes to find one that is not short."""
    taken: list[str] = []
    for message in reversed(messages):
        text = message.content.strip()
        if message.role != "user" or not text:
            continue
        taken.append(text)
        if not _is_short(text):
            break
    return "\n".join(reversed(taken))


def _turn(messages: Sequence[Message]) -> Turn | None:
    texts = [text for m in messages if m.role == "user" and (text := m.content.strip())]
    return Turn(texts[-1], tuple(texts[:-1])) if len(texts) > 1 else None


def _is_short(text: str) -> bool:
    return sum(1 for _ in islice(_WORD.finditer(text), MAX_SHORT_WORDS + 1)) <= MAX_SHORT_WORDS


def _informative(system: str) -> str:
    """The sentences of a system text that tell one task from another."""
    return "\n".join(s for s in _SENTENCE_END.split(system.strip()) if s and not _is_empty(s))


def _is_empty(sentence: str) -> bool:
    words = re.findall(r"[^\W_]+", _MAKER.sub(" ", sentence.lower()))
    return all(word in _EMPTY_WORDS for word in words)
