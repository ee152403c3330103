"""Answers to one question as they arrive, with what it took: who, how sure, how many tokens, how fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

from lmoe_ray.api.chat_stream import ChatStream
from lmoe_ray.cli.chat_history import ChatHistory
from lmoe_ray.domain.served import BASE


@dataclass(slots=True)
class Answer:
    """What has arrived so far.

    Attributes:
        stream: as soon as the server answers.
        texts: by the place of the answer; several where experts are compared.
        first_s, last_s: seconds from the question to the first and to the latest text; ``None`` before any.
    """

    stream: ChatStream | None = None
    texts: dict[int, str] = field(default_factory=dict)
    first_s: float | None = None
    last_s: float = 0.0
    _asked_at_s: float = field(default_factory=perf_counter)

    def add(self, index: int, piece: str) -> None:
        self.last_s = perf_counter() - self._asked_at_s
        self.first_s = self.last_s if self.first_s is None else self.first_s
        self.texts[index] = self.texts.get(index, "") + piece

    @property
    def tokens_per_s(self) -> float | None:
        """After the first text, which also waited for the prompt; ``None`` if there is too little to tell."""
        if self.stream is None or self.first_s is None or self.last_s <= self.first_s:
            return None
        return (self.stream.usage.completion_tokens - len(self.texts)) / (self.last_s - self.first_s)


def footer(answer: Answer, history: ChatHistory) -> str:
    """One line about a whole answer: who gave it and why, and what it took."""
    stream, num_dropped = answer.stream, history.num_dropped
    assert stream is not None, "an answer without a stream. This is a bug."
    parts = [
        *_routing(stream),
        f"{stream.usage.prompt_tokens} + {stream.usage.completion_tokens} of {history.max_model_len} tokens",
        *pace(answer),
        "cut off: max_tokens or the context is used up" if stream.finish_reason == "length" else "",
        f"{num_dropped} old messages dropped" if num_dropped else "",
    ]
    return " · ".join(filter(None, parts))


def _routing(stream: ChatStream) -> tuple[str, str, str]:
    candidates = stream.decision.candidates if stream.decision is not None else ()
    next_best = next((f"then {c.expert} {c.score:.2f}" for c in candidates if c.expert != stream.expert), "")
    return stream.expert or BASE, f"{stream.routed_by} {stream.confidence:.2f}", next_best


def pace(answer: Answer) -> list[str]:
    """How fast it came, of several all together; as far as there is something to tell."""
    rate = answer.tokens_per_s
    return [
        *([] if rate is None else [f"{rate:.1f} tokens/s"]),
        *([] if answer.first_s is None else [f"first after {answer.first_s:.2f} s"]),
    ]
