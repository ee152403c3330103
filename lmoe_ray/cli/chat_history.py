"""A conversation that is cut from the front so that it fits the model's context.

The server counts tokens (``usage``) and this class keeps its counts, so nothing is tokenised twice: a
turn of known length costs what the server said, a new one is estimated until the server has seen it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.stream import Usage

#: Bytes per token, on the low side for English, so that an estimate errs towards cutting.
BYTES_PER_TOKEN = 3


@dataclass(slots=True)
class ChatHistory:
    """Messages to send, oldest first.

    Attributes:
        max_model_len: the model's context, tokens.
        reserve_tokens: kept free for the answer.
        num_dropped: messages cut so far.
    """

    max_model_len: int
    system: str = ""
    reserve_tokens: int = 512
    num_dropped: int = 0
    _turns: list[tuple[Message, int]] = field(default_factory=list)

    @property
    def messages(self) -> tuple[Message, ...]:
        head = (Message("system", self.system),) if self.system else ()
        return (*head, *(message for message, _ in self._turns))

    @property
    def num_tokens(self) -> int:
        """Tokens of everything that would be sent now; partly estimated."""
        return estimate(self.system) + sum(num_tokens for _, num_tokens in self._turns)

    def ask(self, text: str) -> None:
        """Append the user's turn and cut old ones until the whole fits."""
        self._turns.append((Message("user", text), estimate(text)))
        reserve = min(self.reserve_tokens, self.max_model_len // 2)
        while self.num_tokens > self.max_model_len - reserve and self.drop_oldest():
            pass

    def answered(self, text: str, usage: Usage) -> None:
        """Append the answer; the server's prompt count replaces the estimate of the last question."""
        *older, (question, _) = self._turns
        known = estimate(self.system) + sum(num_tokens for _, num_tokens in older)
        self._turns = [*older, (question, max(1, usage.prompt_tokens - known))]
        self._turns.append((Message("assistant", text), usage.completion_tokens))

    def take_back(self) -> None:
        """Remove the last question, which got no answer."""
        self._turns.pop()

    def drop_oldest(self) -> bool:
        """Cut the oldest exchange; ``False`` if only the last question is left."""
        if len(self._turns) <= 1:
            return False
        end = next((i for i, (m, _) in enumerate(self._turns) if i > 0 and m.role == "user"), len(self._turns) - 1)
        self.num_dropped += end
        del self._turns[:end]
        return True


def estimate(text: str) -> int:
    """Tokens of ``text``, guessed from its bytes; 0 for no text."""
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN) + 4 if text else 0
