"""What reshapes a row of logits before a token is picked, each row by its own request's wishes.

In transformers' order: repetition penalty, presence and frequency penalty, bias, then the constraint of
the answer. A row that asks for nothing is not touched and costs nothing; rows that ask for the
same are reshaped together.

Sampled tokens are counted on the device, so that a step can start before the host has read the last
one's tokens. Only constraints need them on the host, and must have caught up.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lmoe_ray.engine.sequence import Sequence
from lmoe_ray.engine.token_masks import TokenMasks


class SampleRow(NamedTuple):
    """One row of logits: whose it is, and the index in the answer of the token it decides."""

    sequence: Sequence
    position: int


class LogitsProcessors:
    """Keeps the token counts of sequences that have a penalty, as long as those sequences live."""

    def __init__(self, vocab_size: int, device: torch.device, num_threads: int = 1) -> None:
        """``num_threads``: for the masks of constraints."""
        self._device = device
        self._seen = _SeenTokens(vocab_size, device)
        self._masks = TokenMasks(vocab_size, device, num_threads)

    def apply(self, logits: torch.Tensor, rows: Rows[SampleRow]) -> None:
        """Reshape ``logits [len(rows), vocab_size]`` in place."""
        if penalised := [at for at, row in enumerate(rows) if _has_penalty(row.sequence)]:
            self._penalise(logits, penalised, [rows[at] for at in penalised])
        biases = [(at, *pair) for at, row in enumerate(rows) for pair in row.sequence.sampling.logit_bias]
        if biases:
            places = upload([pair[:2] for pair in biases], torch.int64, self._device).unbind(-1)
            logits.index_put_(places, upload([pair[2] for pair in biases], logits.dtype, self._device), accumulate=True)
        self._confine(logits, rows)

    def note(self, rows: Rows[SampleRow], token_ids: torch.Tensor) -> None:
        """Count the tokens just sampled, ``token_ids [len(rows)]``, where a penalty will need them."""
        if penalised := [at for at, row in enumerate(rows) if _has_penalty(row.sequence)]:
            picked = token_ids[upload(penalised, torch.int64, self._device)]
            self._seen.add([rows[at] for at in penalised], picked)

    def _penalise(self, logits: torch.Tensor, at: list[int], rows: Rows[SampleRow]) -> None:
        """Only tokens seen change. One that occurs twice is computed twice and written twice, the same."""
        ids, counts = self._seen.read(rows)
        wishes = [row.sequence.sampling for row in rows]
        columns = [(w.repetition_penalty, w.presence_penalty, w.frequency_penalty) for w in wishes]
        repetition, presence, frequency = upload(columns, logits.dtype, self._device).unsqueeze(1).unbind(-1)
        places = upload(at, torch.int64, self._device)[:, None], ids
        scores = logits[places]
        scores = torch.where(scores > 0, scores / repetition, scores * repetition)
        logits[places] = scores - (presence * counts.sign() + frequency * counts)

    def _confine(self, logits: torch.Tensor, rows: Rows[SampleRow]) -> None:
        confined = [(at, row.sequence.constraint) for at, row in enumerate(rows) if row.sequence.constraint]
        if confined:
            at = upload([row for row, _ in confined], torch.int64, self._device)
            logits.index_add_(0, at, self._masks.biases([constraint for _, constraint in confined]))


@dataclass(slots=True)
class _Place:
    """A sequence's row of the tables, and how many tokens of its answer are in it; -1 before the first."""

    row: int
    num_tokens: int = -1


class _SeenTokens:
    """Tokens of each penalised sequence in their order, and how often its answer has each token of the vocabulary.

    Two tables, a row per sequence; rows come back when their sequence is gone. They grow to twice
    their size, so growing costs nothing in the long run.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._device = device
        self._places: weakref.WeakKeyDictionary[Sequence, _Place] = weakref.WeakKeyDictionary()
        self._free_rows: list[int] = []
        # [num_rows, num_columns]: prompt and answer, then the first token again: any token seen will do.
        self._ids = torch.zeros(0, 1, dtype=torch.int64, device=device)
        self._counts = torch.zeros(0, vocab_size, device=device)

    def read(self, rows: Rows[SampleRow]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of tokens seen and their counts in the answer, ``[len(rows), longest]`` each."""
        at = upload([self._place(row).row for row in rows], torch.int64, self._device)
        ids = self._ids[at, : max(_end(row) for row in rows)]
        return ids, self._counts[at[:, None], ids]

    def add(self, rows: Rows[SampleRow], token_ids: torch.Tensor) -> None:
        """Append ``token_ids [len(rows)]``, which only the device knows."""
        self._reserve_columns(max(_end(row) for row in rows) + 1)
        places = [self._places[row.sequence] for row in rows]
        pairs = [(place.row, _end(row)) for place, row in zip(places, rows, strict=True)]
        at, columns = upload(pairs, torch.int64, self._device).unbind(-1)
        self._ids[at, columns] = token_ids
        self._counts.index_put_((at, token_ids), torch.ones_like(token_ids, dtype=torch.float32), accumulate=True)
        for place in places:
            place.num_tokens += 1

    def _place(self, row: SampleRow) -> _Place:
        """Where the sequence's tokens are; if not all of them are there, they are read from the host's copy."""
        place = self._places.get(row.sequence)
        if place is None:
            place = self._places[row.sequence] = _Place(self._acquire_row(row.sequence))
        if place.num_tokens != row.position:
            self._fill(place.row, row)
            place.num_tokens = row.position
        return place

    def _fill(self, at: int, row: SampleRow) -> None:
        answer = _known_answer(row)
        self._reserve_columns(_end(row))
        ids = upload([*row.sequence.prompt_ids, *answer], torch.int64, self._device)
        self._ids[at] = ids[0]
        self._ids[at, : len(ids)] = ids
        counted = ids[len(ids) - len(answer) :]
        self._counts[at].zero_().index_add_(0, counted, torch.ones_like(counted, dtype=torch.float32))

    def _acquire_row(self, sequence: Sequence) -> int:
        if not self._free_rows:
            num_rows = len(self._ids)
            self._free_rows.extend(range(num_rows, 2 * num_rows + 1))
            self._ids = torch.cat((self._ids, self._ids.new_zeros(num_rows + 1, self._ids.shape[1])))
            self._counts = torch.cat((self._counts, self._counts.new_zeros(num_rows + 1, self._counts.shape[1])))
        row = self._free_rows.pop()
        weakref.finalize(sequence, self._free_rows.append, row).atexit = False
        return row

    def _reserve_columns(self, num_columns: int) -> None:
        if num_columns > self._ids.shape[1]:
            self._ids = torch.cat((self._ids, self._ids[:, :1].expand(-1, 2 * num_columns)), 1)


def upload(values: Rows[object], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Host numbers as a tensor on the device, without waiting for what the device is doing."""
    is_cuda = device.type == "cuda"
    return torch.tensor(values, dtype=dtype, pin_memory=is_cuda).to(device, non_blocking=is_cuda)


def _has_penalty(sequence: Sequence) -> bool:
    wishes = sequence.sampling
    return wishes.repetition_penalty != 1 or wishes.presence_penalty != 0 or wishes.frequency_penalty != 0


def _end(row: SampleRow) -> int:
    """Number of tokens before the one that is decided."""
    return len(row.sequence.prompt_ids) + row.position


def _known_answer(row: SampleRow) -> Rows[int]:
    known = row.sequence.output_ids[: row.position]
    assert len(known) == row.position, f"token {row.position} needs those before it, {len(known)} are read. A bug."
    return known
