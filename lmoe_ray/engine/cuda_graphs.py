"""Decode steps as CUDA graphs: what Python would launch in milliseconds, replayed in microseconds.

A step over decoding sequences alone launches the same kernels every time, but for the number of rows,
hence a graph for each bucket, with adapters and without, captured when first needed. Steps with prompts are too
varied and too long to gain from it; they run as they are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from lmoe_ray.engine.batch import Batch
from lmoe_ray.engine.padded_batch import PaddedBatch, PaddedInputs, bucket_of

logger = logging.getLogger(__name__)

#: Makes what a captured batch ran, anew: after each call the tensor holds the new logits.
Replay = Callable[[], torch.Tensor]


class PlainRunner(Protocol):
    """A runner whose launches depend on nothing but the batch's shapes if all its pieces are decoding."""

    def run(self, batch: Batch) -> torch.Tensor: ...


class GraphRunner:
    """Around a plain runner; owned by the engine's thread."""

    def __init__(
        self,
        runner: PlainRunner,
        make_inputs: Callable[[int], PaddedInputs],
        capture: Callable[[Callable[[], torch.Tensor]], Replay] | None = None,
    ) -> None:
        """
        Args:
            make_inputs: the tensors of a bucket.
            capture: makes a replay of a launch; ``None``: a CUDA graph.
        """
        self._runner, self._make_inputs = runner, make_inputs
        self._capture = capture or GraphCapture()
        self._inputs: dict[int, PaddedInputs] = {}
        self._replays: dict[tuple[int, bool], Replay] = {}

    def run(self, batch: Batch) -> torch.Tensor:
        """As :meth:`ModelRunner.run`; the logits hold until the next call."""
        if batch.num_decode != batch.num_tokens:
            return self._runner.run(batch)
        bucket = bucket_of(batch.num_tokens)
        if bucket not in self._inputs:
            self._inputs[bucket] = self._make_inputs(bucket)
        padded = self._inputs[bucket].fill(batch)
        return self._replay(bucket, padded)()[: batch.num_tokens]

    def _replay(self, bucket: int, padded: PaddedBatch) -> Replay:
        key = (bucket, bool(padded.segments))
        if key not in self._replays:
            began_s = time.perf_counter()
            self._replays[key] = self._capture(lambda: self._runner.run(padded))
            duration_s = time.perf_counter() - began_s
            logger.info("decode graph captured rows=%d adapters=%s duration_s=%.2f", *key, duration_s)
        return self._replays[key]


class GraphCapture:
    """Captures graphs that share their memory: only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, launch: Callable[[], torch.Tensor]) -> Replay:
        """``launch`` is run once before, so that kernels are compiled and libraries have their workspaces."""
        launch()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Another thread may be copying adapters meanwhile, which a global capture would forbid.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = launch()
        self._pool = graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay
