"""Three engines of transformers and PEFT, by the first argument; all choose the likeliest token.

``predecessor``: airoboros.lmoe's way: one request after the other, the adapter set for each, and no key-value cache.
``hf-peft``: one static batch; rows of different adapters go through PEFT's ``adapter_names``.
``hf-continuous``: transformers' continuous batching; one adapter at a time, since it knows none per request.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from peer_protocol import Arrivals, Run, Start, groups, serve  # type: ignore[import-not-found]
from peft import PeftModel
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig
from transformers.generation.streamers import BaseStreamer

#: Tokens per page of the continuous batch's cache.
PAGE_TOKENS = 32


def load_model(start: Start) -> Any:
    """The bare model, set to answer greedily and never to end by itself."""
    torch.set_num_threads(start.threads)
    torch.set_num_interop_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(start.model, dtype=getattr(torch, start.dtype))
    model.eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.generation_config.do_sample = False
    return model


def with_adapters(model: Any, folders: list[str]) -> Any:
    """The model under PEFT, adapters named by their place; the bare model if there are none."""
    if not folders:
        return model
    wrapped = PeftModel.from_pretrained(model, folders[0], adapter_name="0")
    for place, folder in enumerate(folders[1:], 1):
        wrapped.load_adapter(folder, adapter_name=str(place))
    return wrapped.eval()


class StepTimes(BaseStreamer):
    """Notes each step of ``generate``: one token for each of these requests. The first call brings the prompts."""

    def __init__(self, arrivals: Arrivals, requests: list[int]) -> None:
        self._arrivals, self._requests, self._has_prompt = arrivals, requests, False

    def put(self, value: torch.Tensor) -> None:
        if self._has_prompt:
            for request, token_id in zip(self._requests, value.flatten().tolist(), strict=True):
                self._arrivals.note(request, [token_id])
        self._has_prompt = True

    def end(self) -> None:
        pass


class GenerateEngine:
    """``model.generate`` over rows of equal length."""

    def __init__(self, start: Start) -> None:
        self.dtype = start.dtype
        self._model = with_adapters(load_model(start), start.adapters)

    def _generate(self, run: Run, requests: list[int], arrivals: Arrivals, **options: Any) -> None:
        adapters = {run.adapters[request] for request in requests}
        if len(adapters) > 1:
            options["adapter_names"] = ["__base__" if (a := run.adapters[r]) is None else str(a) for r in requests]
        elif (adapter := adapters.pop()) is not None:
            self._model.set_adapter(str(adapter))
        ids = torch.tensor([run.prompts[request] for request in requests])
        with torch.inference_mode():
            self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=run.new_tokens,
                streamer=StepTimes(arrivals, requests),
                **options,
            )


class Predecessor(GenerateEngine):
    def run(self, run: Run) -> Arrivals:
        arrivals = Arrivals(len(run.prompts))
        for request in range(len(run.prompts)):
            self._generate(run, [request], arrivals, use_cache=False)
        return arrivals


class StaticBatch(GenerateEngine):
    def run(self, run: Run) -> Arrivals:
        arrivals = Arrivals(len(run.prompts))
        self._generate(run, list(range(len(run.prompts))), arrivals)
        return arrivals


class ContinuousBatch:
    """The manager's thread computes and stamps the tokens; this one waits for whole answers."""

    def __init__(self, start: Start) -> None:
        self.dtype = start.dtype
        self._model = load_model(start)
        for place, folder in enumerate(start.adapters):
            self._model.load_adapter(folder, adapter_name=str(place))
        pages = -(-start.max_len // PAGE_TOKENS) + 1
        config = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=pages * start.max_seqs,
            max_batch_tokens=512,
            allow_block_sharing=False,
            use_async_batching=False,
            use_cuda_graph=False,
        )
        self._manager = self._model.init_continuous_batching(continuous_batching_config=config)
        self._manager.start()

    def run(self, run: Run) -> Arrivals:
        (adapter,) = groups(run.adapters)
        if adapter is not None:
            self._model.set_adapter(str(adapter))
        arrivals = Arrivals(len(run.prompts))
        names = self._manager.add_requests(run.prompts, max_new_tokens=run.new_tokens, record_timestamps=True)
        waiting = {name: request for request, name in enumerate(names)}
        while waiting:
            result = self._manager.get_result()
            if result is None or result.error:
                raise RuntimeError(f"continuous batching failed: {result and result.error}")
            request = waiting.pop(result.request_id)
            for time_s, token_id in zip(result.timestamps, result.generated_tokens, strict=True):
                arrivals.note_at(time_s, request, [token_id])
        return arrivals


ENGINES = {"predecessor": Predecessor, "hf-peft": StaticBatch, "hf-continuous": ContinuousBatch}

if __name__ == "__main__":
    serve("transformers", ENGINES[sys.argv[1]])
