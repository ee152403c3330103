"""A prompt as the model reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """
    Attributes:
        token_ids: special ones included, at least one.
        max_model_len: tokens of prompt plus answer that are possible.
    """

    token_ids: tuple[int, ...]
    max_model_len: int
