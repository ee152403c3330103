"""Answers of several experts to one question, of which the conversation may go on with one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmoe_ray.cli.chat_answer import Answer, pace
from lmoe_ray.cli.chat_history import ChatHistory, Turn
from lmoe_ray.domain.served import BASE


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was asked and answered.

    Attributes:
        before: the conversation's turns when it was asked.
        asked: what was asked: the conversation with the question at its end.
        answer: what came, of each.
    """

    before: tuple[Turn, ...]
    asked: ChatHistory
    answer: Answer

    @property
    def names(self) -> tuple[str, ...]:
        """Who gave each answer; empty if none was begun."""
        stream = self.answer.stream
        return () if stream is None else tuple(each.expert or BASE for each in stream.answers)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the answers that have text, counted from 1."""
        return tuple(index + 1 for index in range(len(self.names)) if self.answer.texts.get(index))

    def gone_on_with(self, number: int) -> ChatHistory:
        """The conversation with that answer at its end; ``number`` is one of :attr:`numbers`."""
        stream, index = self.answer.stream, number - 1
        assert stream is not None, "an answer without a stream. This is a bug."
        chosen, history = stream.answers[index], self.asked.copy()
        usage = None if chosen.finish_reason is None else chosen.usage
        history.answered(self.answer.texts[index], usage, chosen.expert)
        return history

    def is_current(self, turns: Sequence[Turn]) -> bool:
        """Whether a conversation is where this left it, or one of these answers that was chosen."""
        ends = [self.before, *(self.gone_on_with(number).turns for number in self.numbers)]
        return any(list(turns) == list(end) for end in ends)

    def footer(self) -> str:
        """One line about whole answers: what each took, and how fast all came."""
        stream = self.answer.stream
        assert stream is not None, "answers without a stream. This is a bug."
        told = []
        for number, (name, answer) in enumerate(zip(self.names, stream.answers, strict=True), 1):
            cut = ", cut off" if answer.finish_reason == "length" else ""
            told.append(f"{number} {name} {answer.usage.completion_tokens} tokens{cut}")
        return " · ".join([*told, *pace(self.answer)])
