"""How many prompt tokens a step may take while streams wait for its end, learned from the steps so far.

A step that decodes lasts about ``decode_s + num_prompt_tokens * token_s``. The first is the mean of
the recent steps without prompts, the second a least-squares slope from there through the steps with
prompts; solved for the target duration, they give the budget. A wrong ``decode_s`` does no lasting
harm: with the budget itself as the number of tokens, the slope puts the line through what such steps
really last.
"""

from __future__ import annotations

#: Prompts always move by this much, or a target that cannot be met would stop them for good.
MIN_PROMPT_TOKENS = 16

#: Weight of a step relative to the next one of its kind: about the last twenty decide.
DECAY = 0.95

#: A step beyond the target and beyond this multiple of what was expected counts as that long: it
#: loaded an adapter, or the machine was busy with something else. One shorter by this factor makes us
#: forget what we expected: a step may be slow by accident, but not fast.
MAX_SURPRISE = 3.0


class _Sums:
    """Sums over steps of one kind, old ones counting less: ``x`` prompt tokens, or 1 without; ``y`` seconds."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.x = self.xx = self.xy = 0.0

    def add(self, x: int, y: float) -> None:
        self.x = self.x * DECAY + x
        self.xx = self.xx * DECAY + x * x
        self.xy = self.xy * DECAY + x * y


class StepBudget:
    """Deterministic given its observations."""

    def __init__(self, target_s: float, max_batch_tokens: int) -> None:
        """``target_s``: how long a step that decodes should last at most."""
        self._target_s = target_s
        self._max_batch_tokens = max_batch_tokens
        self._without_prompts = _Sums()
        self._with_prompts = _Sums()

    def observe(self, num_decode: int, num_prompt_tokens: int, duration_s: float) -> None:
        """Learn from a step. One without decoding sequences says nothing about those with."""
        if not num_decode:
            return
        sums = self._with_prompts if num_prompt_tokens else self._without_prompts
        if sums.xx:
            expected_s = self._decode_s + (self._token_s or 0.0) * num_prompt_tokens
            if duration_s < expected_s / MAX_SURPRISE:
                sums.clear()
            duration_s = min(duration_s, max(self._target_s, MAX_SURPRISE * expected_s))
        sums.add(num_prompt_tokens or 1, duration_s)

    def prompt_tokens(self, num_decode: int) -> int:
        """Prompt tokens for the next step beside ``num_decode`` decoding sequences."""
        room = self._max_batch_tokens - num_decode
        if not num_decode:
            return room
        return min(room, max(MIN_PROMPT_TOKENS, self._affordable(room)))

    @property
    def _decode_s(self) -> float:
        """Of a step without prompts; 0 before the first."""
        sums = self._without_prompts
        return sums.xy / sums.xx if sums.xx else 0.0

    @property
    def _token_s(self) -> float | None:
        """What one prompt token adds; ``None`` before the first."""
        sums = self._with_prompts
        return (sums.xy - self._decode_s * sums.x) / sums.xx if sums.xx else None

    def _affordable(self, room: int) -> int:
        token_s, seconds_left = self._token_s, self._target_s - self._decode_s
        if seconds_left <= 0:
            return 0
        if token_s is None:
            return self._max_batch_tokens // 4
        # Compared before dividing: a prompt token may cost nothing that can be measured.
        return room if token_s * room <= seconds_left else int(seconds_left / token_s)
