"""llama.cpp, one request after the other, by its C interface: decode, and take the likeliest token.

``llama-cpp-python``'s own generator copies the logits of every step; this loop leaves them where they are.
"""

from __future__ import annotations

import llama_cpp  # type: ignore[import-not-found]
from peer_protocol import Arrivals, Run, Start, serve  # type: ignore[import-not-found]

#: Of llama.cpp's numbers for what a file's matrices are, those that are one dtype.
FILE_TYPES = {"0": "float32", "1": "float16", "32": "bfloat16"}


class LlamaCpp:
    """The base model of a GGUF file."""

    def __init__(self, start: Start) -> None:
        self._llama = llama_cpp.Llama(
            start.model,
            n_ctx=start.max_len,
            n_batch=512,
            n_threads=start.threads,
            n_threads_batch=start.threads,
            verbose=False,
        )
        self.dtype = FILE_TYPES.get(self._llama.metadata["general.file_type"], "quantised")
        self._sampler = llama_cpp.llama_sampler_init_greedy()

    def run(self, run: Run) -> Arrivals:
        arrivals = Arrivals(len(run.prompts))
        for request, prompt in enumerate(run.prompts):
            self._answer(request, prompt, run.new_tokens, arrivals)
        return arrivals

    def _answer(self, request: int, prompt: list[int], new_tokens: int, arrivals: Arrivals) -> None:
        context = self._llama.ctx
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        tokens = prompt
        for _ in range(new_tokens):
            array = (llama_cpp.llama_token * len(tokens))(*tokens)
            if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))):
                raise RuntimeError("llama_decode failed")
            tokens = [llama_cpp.llama_sampler_sample(self._sampler, context, -1)]
            arrivals.note(request, tokens)


if __name__ == "__main__":
    serve("llama-cpp-python", LlamaCpp)
