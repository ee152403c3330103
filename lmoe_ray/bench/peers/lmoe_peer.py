"""Our own engine, as a replica uses it: text in, sampled and detokenised deltas out, one stream per request.

That is more than the peers do, which choose the likeliest token and return token ids: a token counts
here when its text reaches the reader.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

from peer_protocol import Arrivals, Run, Start, serve  # type: ignore[import-not-found]
from tokenizers import Tokenizer

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.package import Expert, load_package
from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine.async_engine import AsyncEngine
from lmoe_ray.settings import EngineSettings

#: Shorter contexts are no settings of ours.
MIN_MODEL_LEN = 16


class LmoeEngine:
    """``AsyncEngine`` with the default settings, but room for what the bench asks."""

    def __init__(self, start: Start) -> None:
        self.dtype = start.dtype
        settings = EngineSettings(
            dtype=start.dtype,
            device="cpu",
            max_model_len=max(MIN_MODEL_LEN, start.max_len),
            max_num_seqs=start.max_seqs,
            max_adapters=max(1, len(start.adapters)),
        )
        self._tokenizer = Tokenizer.from_file(str(Path(start.model) / "tokenizer.json"))
        self._engine = AsyncEngine(Path(start.model), settings, num_threads=start.threads)
        self._engine.start()
        self._loop = asyncio.Runner()
        self._digests = [self._load(expert) for expert in experts_of(start.adapters)]

    def run(self, run: Run) -> Arrivals:
        texts = [self._tokenizer.decode(prompt, skip_special_tokens=False) for prompt in run.prompts]
        return self._loop.run(self._answer_all(run, texts))

    async def _answer_all(self, run: Run, texts: list[str]) -> Arrivals:
        arrivals = Arrivals(len(texts))
        await asyncio.gather(*(self._answer(run, request, text, arrivals) for request, text in enumerate(texts)))
        return arrivals

    async def _answer(self, run: Run, number: int, text: str, arrivals: Arrivals) -> None:
        adapter = run.adapters[number]
        request = GenerateRequest(f"bench-{number}", "bench", prompt=text, sampling=_sampling(run, number))
        digest = None if adapter is None else self._digests[adapter]
        async with aclosing(self._engine.generate(request, digest)) as deltas:
            async for delta in deltas:
                arrivals.note(number, delta.token_ids)
        assert delta.usage.prompt_tokens == len(run.prompts[number]), "the prompt does not round-trip. This is a bug."

    def _load(self, expert: Expert) -> str:
        self._loop.run(self._engine.load_adapter(expert))
        return expert.digest


def experts_of(folders: list[str]) -> list[Expert]:
    """The experts whose adapters lie in these folders of one package, in this order."""
    if not folders:
        return []
    package = load_package(Path(folders[0]).parents[1])
    by_name = {expert.name: expert for expert in package.experts}
    return [by_name[Path(folder).name] for folder in folders]


def _sampling(run: Run, number: int) -> SamplingParams:
    temperature = 0.0 if run.is_greedy else 0.7
    return SamplingParams(max_tokens=run.new_tokens, temperature=temperature, top_p=0.9, seed=number, ignore_eos=True)


if __name__ == "__main__":
    serve("lmoe_ray", LmoeEngine)
