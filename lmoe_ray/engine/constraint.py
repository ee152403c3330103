"""What an answer may be: a grammar that advances with its tokens and says which may come next.

It is always told the whole answer so far and finds out itself what is new. The last token of a preempted
sequence may come anew and differ, so that one can be taken back.
"""

from __future__ import annotations

from collections.abc import Sequence

from llguidance import LLMatcher


class Constraint:
    """One sequence's; used by the engine's thread only.

    Attributes:
        matcher: the grammar's state after the tokens told so far.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher
        self._told: list[int] = []

    def catch_up(self, answer: Sequence[int]) -> None:
        """Bring the grammar to the state after ``answer``; see :attr:`failure` if that is impossible."""
        while self._told and (len(self._told) > len(answer) or self._told[-1] != answer[len(self._told) - 1]):
            self._told.pop()
            self.matcher.rollback(1)
        for token_id in answer[len(self._told) :]:
            self.matcher.consume_token(token_id)
            self._told.append(token_id)

    @property
    def failure(self) -> str:
        """Why the grammar cannot go on, such as a limit it has met; empty if it can."""
        return self.matcher.get_error().partition("\n")[0] if self.matcher.is_error() else ""
