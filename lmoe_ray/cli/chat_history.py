"""A conversation of which only what fits the model's context is sent; what no longer fits is kept for the reader.

The server counts tokens (``usage``) and this class keeps its counts, so nothing is tokenised twice: a
turn of known length costs what the server said, a new one is estimated until the server has seen it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.stream import Usage

#: Bytes per token, on the low side for English, so that an estimate errs towards cutting.
BYTES_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Turn:
    """One message, what it costs in tokens, and which expert said it: ``None`` for the user and the base model."""

    message: Message
    num_tokens: int
    expert: str | None = None


@dataclass(slots=True)
class ChatHistory:
    """A conversation, oldest turn first.

    Attributes:
        max_model_len: the model's context, tokens.
        reserve_tokens: kept free for the answer.
        num_dropped: turns at the front that are no longer sent.
        turns: all of them.
    """

    max_model_len: int
    system: str = ""
    reserve_tokens: int = 512
    num_dropped: int = 0
    turns: list[Turn] = field(default_factory=list)

    @property
    def messages(self) -> tuple[Message, ...]:
        """What is sent."""
        head = (Message("system", self.system),) if self.system else ()
        return (*head, *(turn.message for turn in self._kept))

    @property
    def num_tokens(self) -> int:
        """Tokens of everything that would be sent now; partly estimated."""
        return estimate(self.system) + sum(turn.num_tokens for turn in self._kept)

    @property
    def last_question(self) -> str | None:
        index = self._last_question
        return None if index is None else self.turns[index].message.content

    def ask(self, text: str) -> None:
        """Append the user's turn and leave out old ones until the whole fits."""
        self.turns.append(Turn(Message("user", text), estimate(text)))
        reserve = min(self.reserve_tokens, self.max_model_len // 2)
        while self.num_tokens > self.max_model_len - reserve and self.drop_oldest():
            pass

    def answered(self, text: str, usage: Usage | None, expert: str | None = None) -> None:
        """Append the answer. The server's prompt count replaces the estimate of the last question.

        Without ``usage``, as of an answer that was stopped, both stay estimates.
        """
        question = self.turns[-1]
        if usage is not None:
            known = self.num_tokens - question.num_tokens
            self.turns[-1] = Turn(question.message, max(1, usage.prompt_tokens - known))
        num_tokens = estimate(text) if usage is None else usage.completion_tokens
        self.turns.append(Turn(Message("assistant", text), num_tokens, expert))

    def copy(self) -> ChatHistory:
        """To go back to."""
        return replace(self, turns=list(self.turns))

    def undo(self) -> str | None:
        """Remove the last question and its answer; returns the question, ``None`` if there is none."""
        question, index = self.last_question, self._last_question
        if index is not None:
            del self.turns[index:]
            self.num_dropped = min(self.num_dropped, index)
        return question

    def drop_oldest(self) -> bool:
        """Leave the oldest exchange out; ``False`` if only the last question is left."""
        kept = self._kept
        if len(kept) <= 1:
            return False
        self.num_dropped += next((i for i, t in enumerate(kept) if i > 0 and t.message.role == "user"), len(kept) - 1)
        return True

    @property
    def _kept(self) -> list[Turn]:
        return self.turns[self.num_dropped :]

    @property
    def _last_question(self) -> int | None:
        return next((i for i in reversed(range(len(self.turns))) if self.turns[i].message.role == "user"), None)


def estimate(text: str) -> int:
    """Tokens of ``text``, guessed from its bytes; 0 for no text."""
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN) + 4 if text else 0
