"""OpenVINO GenAI's continuous batching, adapter after adapter: its batches cannot mix them.

Requests go through ``add_request`` and ``step``, which tell when each token comes. Only ``generate`` sets the
adapter, and it stays set, so a request of one token goes before each group whose adapter is not the last one.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import openvino  # type: ignore[import-not-found]
import openvino_genai  # type: ignore[import-not-found]
from peer_protocol import Arrivals, Run, Start, groups, serve  # type: ignore[import-not-found]

CACHE_GB = 1
#: Of 256, 512 and 2048, the fastest at 16 and 32 requests of 64 tokens.
MAX_BATCH_TOKENS = 2048


class OpenVino:
    """A pipeline that knows all adapters; without adapters, one that has no LoRA in its graph."""

    def __init__(self, start: Start) -> None:
        self.dtype = str(openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name())
        self._adapters = [_read_adapter(Path(folder)) for folder in start.adapters]
        self._active: int | None = None
        self._request_ids = count()
        properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": start.threads}
        if self._adapters:
            properties["adapters"] = openvino_genai.AdapterConfig(self._adapters)
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            start.model, scheduler_config=_scheduler(start.max_seqs), device="CPU", properties=properties
        )
        if self._adapters:
            self._activate(None)

    def run(self, run: Run) -> Arrivals:
        arrivals = Arrivals(len(run.prompts))
        for adapter, requests in groups(run.adapters).items():
            if adapter != self._active:
                self._activate(adapter)
            self._answer(run, requests, arrivals)
        return arrivals

    def _activate(self, adapter: int | None) -> None:
        self._pipeline.generate([_tensor([0])], [self._config(1, adapter)])
        self._active = adapter

    def _answer(self, run: Run, requests: list[int], arrivals: Arrivals) -> None:
        config = self._config(run.new_tokens, self._active)
        handles = {
            request: self._pipeline.add_request(next(self._request_ids), _tensor(run.prompts[request]), config)
            for request in requests
        }
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for request, handle in handles.items():
                while handle.can_read():
                    for output in handle.read().values():
                        arrivals.note(request, output.generated_ids)

    def _config(self, new_tokens: int, adapter: int | None) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False
        if self._adapters:
            chosen = [] if adapter is None else [self._adapters[adapter]]
            config.adapters = openvino_genai.AdapterConfig(chosen)
        return config


def _read_adapter(folder: Path) -> tuple[Any, float]:
    """The adapter, and what its matrices are multiplied by: PEFT's configuration is not read by OpenVINO."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    weights = openvino_genai.Adapter(str(folder / "adapter_model.safetensors"))
    return weights, config["lora_alpha"] / config["r"]


def _scheduler(max_seqs: int) -> Any:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GB
    scheduler.enable_prefix_caching = False
    scheduler.max_num_seqs = max_seqs
    scheduler.max_num_batched_tokens = MAX_BATCH_TOKENS
    return scheduler


def _tensor(ids: list[int]) -> Any:
    return openvino.Tensor(np.array([ids], dtype=np.int64))


if __name__ == "__main__":
    serve("openvino-genai", OpenVino)
