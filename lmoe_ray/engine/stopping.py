"""When an answer ends, and which part of its text may be shown before that is certain.

Three things hold text back: half a character, the beginning of what may become a stop string, and the
beginning of what may become a call. Text once shown is never taken back, so all wait here; each token
travels with the delta that releases its last character. Calls are told as calls, and no stop string
is looked for in them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from lmoe_ray.domain.stream import FinishReason, TokenDelta, TokenLogprob, Usage
from lmoe_ray.domain.tools import CallPiece, join
from lmoe_ray.engine.call_reader import CallReader


class Detokenizer(Protocol):
    """Turns token ids into text, one at a time; ``push`` returns whole characters only."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...

    def token_bytes(self, token_id: int) -> bytes: ...


class StopStrings:
    """Cuts a stream of text before the first stop string in it.

    The stop string that is complete first wins, and of two that end together the longer one, so the
    cut does not depend on how the text was split into tokens.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched = False

    def push(self, text: str) -> str:
        """Add text; returns what can be shown now."""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.matched = True
            shown, self._held = self._held[: min(found)[1]], ""
            return shown
        return self._release(len(self._held) - self._num_possible())

    def flush(self) -> str:
        """What is still held back; no more text will come."""
        return self._release(len(self._held))

    def _release(self, num_chars: int) -> str:
        shown, self._held = self._held[:num_chars], self._held[num_chars:]
        return shown

    def _num_possible(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0


@dataclass(slots=True)
class _Pending:
    """A token not shown yet. ``end`` is the length of the text up to it, once that is known."""

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    end: int | None = None


class Answer:
    """One answer in the making: tokens go in, deltas come out, exactly the last has a finish reason."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        *,
        num_prompt_tokens: int,
        max_new_tokens: int,
        eos_ids: Collection[int] = (),
        stops: Iterable[str] = (),
        calls: CallReader | None = None,
        index: int = 0,
    ) -> None:
        """``calls``: finds them in the text; ``None``: it holds none. ``index``: of several answers."""
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops)
        self._calls = calls
        self._index = index
        self._eos_ids = eos_ids
        self._num_prompt_tokens = num_prompt_tokens
        self._max_new_tokens = max_new_tokens
        self._num_tokens = 0
        self._num_decoded = 0
        self._num_shown = 0
        self._pieces: tuple[CallPiece, ...] = ()
        self._pending: deque[_Pending] = deque()

    @property
    def usage(self) -> Usage:
        return Usage(self._num_prompt_tokens, self._num_tokens)

    def push(
        self, token_id: int, logprob: float | None = None, top: tuple[tuple[int, float], ...] = ()
    ) -> TokenDelta | None:
        """Account for one token; ``None`` if nothing can be shown yet. ``top``: see :class:`TokenLogprob`, with ids."""
        self._num_tokens += 1
        self._pending.append(_Pending(token_id, logprob, top))
        if token_id in self._eos_ids:
            return self._finish("stop", self._show(self._detokenizer.flush()))
        shown = self._show(self._detokenizer.push(token_id))
        if self._stops.matched:
            return self._delta(shown, "stop")
        if self._num_tokens >= self._max_new_tokens:
            return self._finish("length", shown + self._show(self._detokenizer.flush()))
        return self._delta(shown, None)

    def _show(self, text: str) -> str:
        if text:
            self._num_decoded += len(text)
            for token in reversed(self._pending):
                if token.end is not None:
                    break
                token.end = self._num_decoded
        return self._stops.push(self._without_calls(text))

    def _without_calls(self, text: str) -> str:
        """The part of new text that is no call; the calls in it are kept for the next delta."""
        if self._calls is None:
            return text
        text, pieces = self._calls.push(text)
        self._keep(pieces)
        return text

    def _keep(self, pieces: tuple[CallPiece, ...]) -> None:
        self._pieces = join(self._pieces, pieces)

    def _finish(self, reason: FinishReason, shown: str) -> TokenDelta | None:
        if self._calls is not None and not self._stops.matched:
            shown += self._stops.push(self._calls.flush())
            if reason == "stop" and self._calls.num_whole:
                reason = "tool_calls"
        if self._stops.matched:
            return self._delta(shown, "stop")
        return self._delta(shown + self._stops.flush(), reason)

    def _delta(self, text: str, reason: FinishReason | None) -> TokenDelta | None:
        self._num_shown += len(text)
        tokens = []
        while self._pending and (reason or self._is_shown(self._pending[0])):
            tokens.append(self._pending.popleft())
        if not text and not tokens and not self._pieces and reason is None:
            return None
        pieces, self._pieces = self._pieces, ()
        logprobs = tuple(self._spell(token, token.logprob) for token in tokens if token.logprob is not None)
        ids = tuple(token.token_id for token in tokens)
        return TokenDelta(text, ids, self.usage, reason, logprobs, pieces, self._index)

    def _spell(self, token: _Pending, logprob: float) -> TokenLogprob:
        bytes_of = self._detokenizer.token_bytes
        spelled = b"" if token.token_id in self._eos_ids else bytes_of(token.token_id)
        return TokenLogprob(spelled, logprob, tuple((bytes_of(token_id), value) for token_id, value in token.top))

    def _is_shown(self, token: _Pending) -> bool:
        num_passed = 0 if self._calls is None else self._calls.num_passed
        return token.end is not None and token.end <= self._num_shown + num_passed
