"""Brings adapters into the bank while the engine goes on computing.

A slot that is being written belongs to no running sequence, so nobody reads it; who waits for it is
told by :meth:`AdapterLoader.take_loaded`. On a GPU the copy has a stream of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import torch

from lmoe_ray.engine.adapter_weights import AdapterWeights
from lmoe_ray.engine.loaded_model import Bank
from lmoe_ray.engine.step import AdapterLoad


class AdapterLoader:
    """Owned by the engine's thread; writes to the bank in one thread of its own."""

    def __init__(self, bank: Bank, weights_of: Callable[[str], AdapterWeights], device: torch.device) -> None:
        self._bank, self._weights_of = bank, weights_of
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lmoe-adapter-writer")
        self._pending: dict[Future[None], str] = {}

    @property
    def is_busy(self) -> bool:
        return bool(self._pending)

    def is_loading(self, digest: str) -> bool:
        return digest in self._pending.values()

    def start(self, loads: Iterable[AdapterLoad]) -> None:
        for load in loads:
            # A step already launched may still read what the slot held; the copy waits for it.
            launched = None if self._stream is None else torch.cuda.current_stream().record_event()
            future = self._writer.submit(self._write, load.slot, self._weights_of(load.digest), launched)
            self._pending[future] = load.digest

    def take_loaded(self) -> list[str]:
        """Digests that have come in since the last call; what went wrong with one is raised here."""
        done = [future for future in self._pending if future.done()]
        digests = [self._pending.pop(future) for future in done]
        for future in done:
            future.result()
        return digests

    def wait(self, timeout_s: float) -> None:
        """Until one more is in, or the time is up."""
        wait(self._pending, timeout_s, return_when=FIRST_COMPLETED)

    def close(self) -> None:
        self._writer.shutdown(wait=True, cancel_futures=True)

    def _write(self, slot: int, weights: AdapterWeights, launched: torch.cuda.Event | None) -> None:
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            if self._stream is not None and launched is not None:
                self._stream.wait_event(launched)
            self._bank.load(slot, weights)
            if self._stream is not None:
                self._stream.synchronize()
