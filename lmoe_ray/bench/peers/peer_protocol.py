"""What an engine's process and the bench say to each other: a line of JSON per sentence, on standard input and output.

::

    bench                                                            engine
    {"model": folder, "adapters": [folder, …], "threads": 1, …}  →
                                                                  ←  {"ready": true, "version": …, "dtype": …, …}
    {"prompts": [[id, …], …], "adapters": [index or null, …], …}  →
                                                                  ←  {"token_s": [[s, …], …], "tokens": [[id, …], …]}
    end of input                                                  →  the process ends

Only the standard library is imported here, since every engine runs in an environment of its own. An
exception is said as ``{"error": …}`` and ends the process; its traceback goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any, Protocol, TextIO


@dataclass(frozen=True, slots=True)
class Start:
    """How an engine is to be loaded.

    Attributes:
        model: folder or file, in the engine's own format.
        adapters: PEFT folders; requests name them by their place in this list.
        threads: CPU threads for computing.
        dtype: ``float32`` or ``bfloat16``.
        max_seqs: requests that run at once, at most.
        max_len: tokens of prompt plus answer, at most.
    """

    model: str
    adapters: list[str]
    threads: int
    dtype: str
    max_seqs: int
    max_len: int


@dataclass(frozen=True, slots=True)
class Run:
    """Requests that all arrive at once.

    Attributes:
        prompts: token ids per request; all of one length.
        adapters: place of each request's adapter in ``Start.adapters``; ``None`` is the base model.
        new_tokens: length of every answer; no token ends it early.
        is_greedy: whether the likeliest token is asked for, so that answers can be compared.
    """

    prompts: list[list[int]]
    adapters: list[int | None]
    new_tokens: int
    is_greedy: bool = False


class Arrivals:
    """When each token of each request came, in seconds since this object was made, and which it was."""

    def __init__(self, num_requests: int) -> None:
        self._began = perf_counter()
        self.token_s: list[list[float]] = [[] for _ in range(num_requests)]
        self.tokens: list[list[int]] = [[] for _ in range(num_requests)]

    def note(self, request: int, token_ids: Sequence[int]) -> None:
        """Tokens of one request that came now."""
        self.note_at(perf_counter(), request, token_ids)

    def note_at(self, time_s: float, request: int, token_ids: Sequence[int]) -> None:
        """Tokens of one request that came at ``time_s`` of :func:`time.perf_counter`."""
        self.token_s[request] += [time_s - self._began] * len(token_ids)
        self.tokens[request] += [int(token_id) for token_id in token_ids]


class Engine(Protocol):
    """``dtype``: what it computes in, in its own words. One on a GPU also has ``memory_bytes``: taken there by now."""

    dtype: str

    def run(self, run: Run) -> Arrivals: ...


def serve(distribution: str, load: Callable[[Start], Engine]) -> None:
    """Load the engine as the first line says, run what the following lines say, until the input ends.

    Args:
        distribution: the package whose version is reported.
        load: makes the engine; the time it takes is reported.
    """
    output = _reserved_stdout()
    try:
        start = Start(**json.loads(sys.stdin.readline()))
        began = perf_counter()
        engine = load(start)
        load_s = perf_counter() - began
        _say(
            output,
            ready=True,
            version=version(distribution),
            dtype=engine.dtype,
            load_s=load_s,
            torch=_torch_version(),
            memory_bytes=getattr(engine, "memory_bytes", None),
        )
        for line in sys.stdin:
            arrivals = engine.run(Run(**json.loads(line)))
            _say(output, token_s=arrivals.token_s, tokens=arrivals.tokens)
    except Exception as exc:
        traceback.print_exc()
        _say(output, error=f"{type(exc).__name__}: {exc}")
        sys.exit(1)


def groups(adapters: Sequence[int | None]) -> dict[int | None, list[int]]:
    """The requests of each adapter, for engines whose batches have one adapter."""
    members: dict[int | None, list[int]] = {}
    for request, adapter in enumerate(adapters):
        members.setdefault(adapter, []).append(request)
    return members


def _reserved_stdout() -> TextIO:
    """Standard output for the protocol alone: whatever libraries print goes to standard error instead."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def _say(output: TextIO, **sentence: Any) -> None:
    print(json.dumps(sentence), file=output, flush=True)


def _torch_version() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None
