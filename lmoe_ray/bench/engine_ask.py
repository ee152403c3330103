"""Asks a language model which expert suits, as the graph does, but without Ray: an engine in this process.

The graph asks the base model with the adapter of its ``function`` expert, if it has one, greedily and confined to the
names of the experts. A base model that is named for the measurement is asked as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmoe_ray.bench import agent_routing
from lmoe_ray.bench.agent_report import AgentReport
from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.package import Expert, load_package
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine.async_engine import AsyncEngine
from lmoe_ray.errors import PackageError
from lmoe_ray.pretrained.model_source import resolve
from lmoe_ray.pretrained.package_source import DEMO_INDEX
from lmoe_ray.routing.expert_index import Progress
from lmoe_ray.routing.router import TOOLS_EXPERT, RoutedModel
from lmoe_ray.routing.similarity import QueryEmbedder, SimilarityRouter
from lmoe_ray.settings import EngineSettings, RouterSettings

DEFAULT_BASE = "builtin:smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is asked, about which experts.

    Attributes:
        base: source of the base model.
        prompt_format: how a question is laid out for it.
        model: the experts it is asked about.
        expert: whose adapter it has; ``None``: none.
    """

    base: str
    prompt_format: PromptFormat
    model: RoutedModel
    expert: Expert | None

    def __str__(self) -> str:
        names = [expert.name for expert in self.model.experts if not expert.description]
        adapter = f"with the adapter of {self.expert.name}" if self.expert else "without an adapter"
        knows = f"names alone of {', '.join(names)}" if names else "names and descriptions"
        return f"{self.base} {adapter}; it is told the experts' {knows}"


def choose_asked(samples: Path, experts: tuple[Expert, ...], base: str | None = None) -> Asked:
    """
    Args:
        samples: of the index: a package, whose base, adapters and descriptions are used, or a file, which has neither.
        experts: of these samples.
        base: asked instead of the package's, without an adapter, for those are made for the package's.

    Raises:
        PackageError: the package is broken, or does not say which base it is for.
    """
    if samples.is_file():
        return Asked(base or DEFAULT_BASE, PromptFormat.CHAT, RoutedModel("bench", experts), None)
    package = load_package(samples)
    model = RoutedModel("bench", package.experts)
    if base is not None:
        return Asked(base, PromptFormat.CHAT, model, None)
    if not package.manifest.base:
        raise PackageError(str(samples), "does not say in lmoe.yaml which base it is for; give --agent-model")
    function = next((expert for expert in package.experts if expert.name == TOOLS_EXPERT), None)
    return Asked(package.manifest.base, package.manifest.prompt_format, model, function)


def run(
    test: Path,
    num_prompts: int,
    asked: Asked,
    experts: tuple[Expert, ...],
    settings: RouterSettings,
    embedder: QueryEmbedder,
    cache_dir: Path,
    progress: Progress | None = None,
) -> AgentReport:
    """Measure the agent beside an index of ``experts``; the other arguments are those of the index and the engine.

    Raises:
        TrainingDataError: see :func:`~lmoe_ray.bench.agent_routing.choose_prompts`.
        ModelSourceError: the base model is nowhere to be found, or is none that the engine can compute.
    """
    prompts = agent_routing.choose_prompts(test, num_prompts, settings.seed)
    similarity = SimilarityRouter(RoutedModel("bench", experts), embedder, settings, cache_dir, shipped_dir=DEMO_INDEX)
    with open_ask(asked, settings.num_threads, cache_dir) as ask:
        return agent_routing.run(prompts, asked.model, ask, similarity, settings, progress)


class EngineAsk:
    """An :data:`~lmoe_ray.routing.agent.Ask` over a started engine.

    Attributes:
        name: who is asked, for people.
        num_prompt_tokens: of each question so far.
    """

    def __init__(self, engine: AsyncEngine, asked: Asked) -> None:
        self.name = str(asked)
        self.num_prompt_tokens: list[int] = []
        self._engine, self._expert = engine, asked.expert

    async def __call__(self, messages: tuple[Message, ...], names: tuple[str, ...]) -> tuple[str, float]:
        """The first question also waits for the adapter to be read. Raises as :meth:`AsyncEngine.generate`."""
        if self._expert is not None:
            await self._engine.load_adapter(self._expert)
        sampling = SamplingParams(temperature=0.0, choices=names, use_default_stops=False, logprobs=True)
        request = GenerateRequest(f"ask-{len(self.num_prompt_tokens)}", "bench", messages, sampling=sampling)
        digest = None if self._expert is None else self._expert.digest
        async with aclosing(self._engine.generate(request, digest)) as deltas:
            answer = await anext(deltas)
            async for delta in deltas:
                answer += delta
        self.num_prompt_tokens.append(answer.usage.prompt_tokens)
        return answer.text, math.exp(sum(token.logprob for token in answer.logprobs))


@contextmanager
def open_ask(asked: Asked, num_threads: int, cache_dir: Path) -> Iterator[EngineAsk]:
    """An engine with the asked model, for as long as the block runs.

    Raises:
        ModelSourceError: the base model is nowhere to be found, or is none that the engine can compute.
    """
    folder = resolve(asked.base, None, cache_dir)
    engine = AsyncEngine(
        folder,
        EngineSettings(max_num_seqs=1),
        prompt_format=asked.prompt_format,
        num_threads=num_threads,
        cache_dir=cache_dir,
    )
    engine.start()
    try:
        yield EngineAsk(engine, asked)
    finally:
        engine.close()
