"""What reshapes a row of logits before a token is picked, each row by its own request's wishes.

In transformers' order: repetition penalty, presence and frequency penalty, bias, then the closed
list of choices. A row that asks for nothing is not touched and costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch

from lmoe_ray.engine.sequence import Sequence


@dataclass(slots=True)
class _Counts:
    """How often each token occurs, ``[vocab_size]`` each; grows by the answer's new tokens."""

    in_prompt: torch.Tensor
    in_answer: torch.Tensor
    num_counted: int = field(default=0)


class LogitsProcessors:
    """Keeps the token counts of sequences that have a penalty, as long as those sequences live."""

    def __init__(self, vocab_size: int, eos_ids: Collection[int], device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._eos_ids = tuple(sorted(eos_ids))
        self._device = device
        self._counts: WeakKeyDictionary[Sequence, _Counts] = WeakKeyDictionary()

    def apply(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> None:
        """Reshape ``logits [len(sequences), vocab_size]`` in place."""
        for row, sequence in zip(logits, sequences, strict=True):
            if _has_penalty(sequence):
                self._penalise(row, sequence)
            for token_id, bias in sequence.sampling.logit_bias:
                row[token_id] += bias
            if sequence.choices:
                self._restrict(row, sequence)

    def _penalise(self, row: torch.Tensor, sequence: Sequence) -> None:
        wishes, counts = sequence.sampling, self._up_to_date(sequence)
        if wishes.repetition_penalty != 1:
            seen = counts.in_prompt | (counts.in_answer > 0)
            penalised = torch.where(row > 0, row / wishes.repetition_penalty, row * wishes.repetition_penalty)
            row.copy_(torch.where(seen, penalised, row))
        row -= wishes.presence_penalty * (counts.in_answer > 0) + wishes.frequency_penalty * counts.in_answer

    def _up_to_date(self, sequence: Sequence) -> _Counts:
        counts = self._counts.get(sequence)
        if counts is None:
            in_prompt = torch.zeros(self._vocab_size, dtype=torch.bool, device=self._device)
            in_prompt[torch.tensor(sequence.prompt_ids, device=self._device)] = True
            counts = self._counts[sequence] = _Counts(in_prompt, torch.zeros(self._vocab_size, device=self._device))
        for token_id in sequence.output_ids[counts.num_counted :]:
            counts.in_answer[token_id] += 1
        counts.num_counted = len(sequence.output_ids)
        return counts

    def _restrict(self, row: torch.Tensor, sequence: Sequence) -> None:
        allowed = sorted(allowed_next(sequence.choices, sequence.output_ids, self._eos_ids))
        at = torch.tensor(allowed, device=self._device)
        kept = row[at]
        row.fill_(float("-inf"))
        row[at] = kept


def allowed_next(choices: Iterable[Rows[int]], output_ids: Rows[int], eos_ids: Iterable[int]) -> set[int]:
    """Token ids that keep the answer on the way to one of ``choices``; after a whole one, the end."""
    length, so_far = len(output_ids), tuple(output_ids)
    allowed: set[int] = set()
    for choice in choices:
        if tuple(choice[:length]) == so_far:
            allowed.update(choice[length : length + 1] or eos_ids)
    return allowed or set(eos_ids)


def _has_penalty(sequence: Sequence) -> bool:
    wishes = sequence.sampling
    return wishes.repetition_penalty != 1 or wishes.presence_penalty != 0 or wishes.frequency_penalty != 0
