"""How the next token is chosen, and when to stop: one request's wishes, ranges already checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Inclusive range of every numeric field, as the wire parser enforces it. OpenAI's where OpenAI has one.
RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "max_tokens": (1, 1_000_000),
        "temperature": (0.0, 2.0),
        "top_p": (0.0, 1.0),
        "top_k": (0, 1_000_000),
        "min_p": (0.0, 1.0),
        "repetition_penalty": (0.01, 10.0),
        "presence_penalty": (-2.0, 2.0),
        "frequency_penalty": (-2.0, 2.0),
        "seed": (-(2**63), 2**63 - 1),
        "n": (1, 8),
    }
)

#: Bias of one token, in logits, and how many tokens may carry one.
LOGIT_BIAS_RANGE = (-100.0, 100.0)
MAX_STOPS = 16
MAX_STOP_CHARS = 256
#: Likeliest tokens reported beside each, at most.
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Wishes of one request. The defaults are the predecessor's (airoboros.lmoe).

    Attributes:
        max_tokens: new tokens at most; ``None`` means the rest of the context. Larger than the room
            left is clamped by the engine.
        temperature: 0 is greedy.
        top_p: nucleus mass kept; 1 keeps all, 0 keeps the likeliest token.
        top_k: likeliest tokens kept; 0 keeps all.
        min_p: tokens below ``min_p`` times the likeliest one's probability are dropped (Nguyen et al.
            2024, arXiv:2407.01082).
        repetition_penalty: divides positive and multiplies negative logits of tokens seen in the
            prompt or the answer (Keskar et al. 2019, arXiv:1909.05858); 1 is off.
        presence_penalty: subtracted once from each token already in the answer.
        frequency_penalty: subtracted per occurrence in the answer.
        logit_bias: ``(token id, bias)`` pairs, added to the logits.
        seed: same seed, same text, whatever else is in the batch; ``None`` draws one. Each of ``n``
            answers has its own, derived from it; the first has it as it is.
        n: how many answers.
        stop: the answer ends before any of these; not part of the answer.
        use_default_stops: whether the prompt format's own stops apply too (``stop: []`` switches
            them off).
        ignore_eos: go on after the end-of-sequence token (benchmarks).
        choices: if not empty, the whole answer is one of these strings (the agent router's names).
        json_schema: if not empty, the whole answer is JSON that satisfies this schema, itself JSON text.
        logprobs: report the log-probability of each token.
        top_logprobs: and of that many likeliest tokens at its place.
    """

    max_tokens: int | None = None
    temperature: float = 0.5
    top_p: float = 1.0
    top_k: int = 50
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    use_default_stops: bool = True
    ignore_eos: bool = False
    choices: tuple[str, ...] = ()
    json_schema: str = ""
    logprobs: bool = False
    top_logprobs: int = 0
