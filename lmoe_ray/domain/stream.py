"""What an expert answers, piece by piece. Deltas of one answer add up: ``a + b`` loses nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lmoe_ray.domain.tools import CallPiece, join

#: ``stop``: an end-of-sequence token or a stop string; ``tool_calls``: the same, after at least one whole call;
#: ``length``: max_tokens or the context is full.
FinishReason = Literal["stop", "tool_calls", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as billed: the prompt as rendered, the tokens the model produced."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was: natural logarithm, under the distribution after every logits processor
    and before temperature.

    Attributes:
        token: its bytes, often part of a character; empty for the token that ends an answer.
        top: bytes and log-probability of the likeliest tokens there, in descending order.
    """

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """Text added since the last delta; whole characters only.

    Exactly the last delta of an answer has a ``finish_reason``. ``usage`` counts everything up to
    and including this delta. ``token_ids`` are the tokens behind ``text`` and ``calls``; a token whose
    text is held back (half a character, a possible stop string) comes with the delta that releases it.
    ``logprobs`` has one entry per token if the request asked for them; otherwise it is empty.
    ``index`` tells the answers to one request apart; their deltas may come in any order.
    """

    text: str
    token_ids: tuple[int, ...]
    usage: Usage
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[CallPiece, ...] = ()
    index: int = 0

    def __add__(self, later: TokenDelta) -> TokenDelta:
        assert self.finish_reason is None, "a delta after the last one. This is a bug."
        assert self.index == later.index, "deltas of two answers. This is a bug."
        return TokenDelta(
            self.text + later.text,
            self.token_ids + later.token_ids,
            later.usage,
            later.finish_reason,
            self.logprobs + later.logprobs,
            join(self.calls, later.calls),
            self.index,
        )


class Unread:
    """Deltas nobody has read yet, one for each answer: what comes faster than it is read adds up."""

    def __init__(self) -> None:
        self._deltas: dict[int, TokenDelta] = {}

    def __bool__(self) -> bool:
        return bool(self._deltas)

    def add(self, delta: TokenDelta) -> None:
        earlier = self._deltas.get(delta.index)
        self._deltas[delta.index] = delta if earlier is None else earlier + delta

    def take(self) -> TokenDelta:
        """That of the answer whose text waits longest."""
        return self._deltas.pop(next(iter(self._deltas)))


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Of all answers to one request: its prompt is counted once."""
    counted = tuple(usages)
    return Usage(counted[0].prompt_tokens, sum(usage.completion_tokens for usage in counted))
