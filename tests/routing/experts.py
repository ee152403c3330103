"""Experts without weights, and requests, for tests that only route."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from lmoe_ray.domain.chat import GenerateRequest, Message, Role, RouteOptions
from lmoe_ray.domain.lora_config import LoraConfig
from lmoe_ray.domain.package import Expert
from lmoe_ray.routing.expert_index import ExpertIndex
from lmoe_ray.routing.sample_set import SampleSet

NOUNS = ("loop", "parser", "class", "server", "regex")
THEMES = ("rain", "love", "snow", "spring", "home")


def expert(name: str, *samples: str, description: str = "", sources: tuple[str, ...] = ()) -> Expert:
    return Expert(name, Path(name), "", LoraConfig(1, 1.0, ()), description, samples, sources)


def ask(
    *turns: tuple[Role, str] | str,
    expert: str | None = None,
    num_tools: int = 0,
    routing: RouteOptions | None = None,
) -> GenerateRequest:
    """A chat request; a turn without a role is the user's."""
    messages = tuple(Message("user", t) if isinstance(t, str) else Message(*t) for t in turns)
    options = routing or RouteOptions()
    return GenerateRequest("request-1", "demo", messages, expert=expert, num_tools=num_tools, routing=options)


def programs() -> tuple[str, ...]:
    """A hundred samples of one kind."""
    things = [f"{noun} in {language}" for noun in NOUNS for language in ("python", "rust", "java", "perl", "ruby")]
    return tuple(f"{verb} a {thing}" for verb in ("write", "fix", "test", "explain") for thing in things)


def poems() -> tuple[str, ...]:
    """A hundred of another."""
    themes = [f"{when} {theme}" for when in ("early", "late", "lost", "cold", "sweet") for theme in THEMES]
    return tuple(f"{form} about {theme}" for form in ("haiku", "sonnet", "ballad", "limerick") for theme in themes)


def index_of(**vectors: NDArray[np.float64]) -> ExpertIndex:
    """An index over given unit vectors, ``[num_samples, dim]`` per expert, in the order given."""
    texts = tuple(tuple(f"{name} {i}" for i in range(len(rows))) for name, rows in vectors.items())
    rows = np.concatenate(list(vectors.values())).astype(np.float32)
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(np.ascontiguousarray(rows))
    return ExpertIndex(SampleSet(tuple(vectors), texts, tuple(("",) * len(rows) for rows in texts)), flat)


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
