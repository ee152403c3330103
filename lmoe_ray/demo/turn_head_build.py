"""Fit the shipped turn head again, from the beginnings of conversations that were written for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lmoe_ray.routing.embedder import Embedder
from lmoe_ray.routing.head_inputs import text_inputs
from lmoe_ray.routing.query import Turn
from lmoe_ray.routing.turn_head import TurnVectors, fit_turn_head, save_turn_head, turn_inputs

#: ``{"earlier": [...], "message": ..., "stays": ...}`` a line, all of them messages of a user.
CONVERSATIONS = Path(__file__).with_name("conversations.jsonl")


def read_turns(file: Path) -> tuple[list[Turn], list[bool]]:
    """Turns, and whether each goes on."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Turn(row["message"], tuple(row["earlier"])) for row in rows], [row["stays"] for row in rows]


def build_turn_head(embedder: Embedder) -> None:
    """Write its file into the program; half a minute on a CPU. ``embedder`` is that of the default settings."""
    turns, stays = read_turns(CONVERSATIONS)
    texts = [turn.texts() for turn in turns]
    vectors = [TurnVectors(*parts) for parts in embedder.embed(sum(texts, ())).reshape(len(texts), 3, -1)]
    inputs = [turn_inputs(turn, text_inputs([turn.message]), of_it) for turn, of_it in zip(turns, vectors, strict=True)]
    save_turn_head(fit_turn_head(np.concatenate(inputs), stays), embedder.space)
