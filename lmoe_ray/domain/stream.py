"""What an expert answers, piece by piece. Deltas add up: ``a + b`` loses nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ``stop``: an end-of-sequence token or a stop string; ``length``: max_tokens or the context is full.
FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as billed: the prompt as rendered, the tokens the model produced."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """Text added since the last delta; whole characters only.

    Exactly the last delta of a stream has a ``finish_reason``. ``usage`` counts everything up to
    and including this delta. ``token_ids`` are the tokens behind ``text``; a token whose text is
    held back (half a character, a possible stop string) comes with the delta that releases it.
    ``logprobs`` has one entry per token if the request asked for them: natural logarithms, under the
    distribution after every logits processor and before temperature; otherwise it is empty.
    """

    text: str
    token_ids: tuple[int, ...]
    usage: Usage
    finish_reason: FinishReason | None = None
    logprobs: tuple[float, ...] = ()

    def __add__(self, later: TokenDelta) -> TokenDelta:
        assert self.finish_reason is None, "a delta after the last one. This is a bug."
        return TokenDelta(
            self.text + later.text,
            self.token_ids + later.token_ids,
            later.usage,
            later.finish_reason,
            self.logprobs + later.logprobs,
        )
