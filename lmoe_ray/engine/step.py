"""What the scheduler decides and the model computes: one turn of the loop."""

from __future__ import annotations

from dataclasses import dataclass

from lmoe_ray.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``start … start + num_tokens - 1`` of a sequence: of its prompt, or after preemption of its answer too.

    ``is_last``: it ends with the last token there is, so a new one is sampled from it.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    is_last: bool


@dataclass(frozen=True, slots=True)
class AdapterLoad:
    """Write an adapter's weights into a slot of the bank."""

    digest: str
    slot: int


@dataclass(frozen=True, slots=True)
class Step:
    """``decode`` ascends by adapter slot. Scheduling has advanced ``num_cached`` already, so the token a
    decoding sequence computes is the one at position ``num_cached - 1``.
    """

    decode: tuple[Sequence, ...]
    prefill: tuple[Chunk, ...]

    @property
    def num_prompt_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.prefill)

    @property
    def sampled(self) -> tuple[Sequence, ...]:
        """Sequences that get a token from this step, in the order of their logits."""
        return (*self.decode, *(chunk.sequence for chunk in self.prefill if chunk.is_last))
