"""A replica's engine as the rest of the program sees it: an async generator of deltas per request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.package import Expert
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.domain.tokenized import TokenizedPrompt
from lmoe_ray.engine.adapter_store import AdapterStore
from lmoe_ray.engine.adapter_weights import AdapterWeights
from lmoe_ray.engine.engine import Engine
from lmoe_ray.engine.engine_stats import EngineStats
from lmoe_ray.engine.engine_thread import EngineThread
from lmoe_ray.engine.grammars import Grammars
from lmoe_ray.engine.load_model import load_model
from lmoe_ray.engine.mailbox import Mailbox
from lmoe_ray.engine.prompt_size import num_prompt_bytes, require_possible
from lmoe_ray.engine.sequence import Sequence
from lmoe_ray.engine.sequence_maker import SequenceMaker, is_constrained
from lmoe_ray.engine.tokenizer import Tokenizer
from lmoe_ray.settings import EngineSettings

DEFAULT_CACHE_DIR = Path("~/.cache/lmoe_ray").expanduser()
#: Longer prompts are tokenised in a thread, for they would hold up every other stream of the loop.
MAX_INLINE_BYTES = 16_384


class AsyncEngine:
    """One base model with any number of adapters, answering many requests at once.

    The constructor reads the model and blocks; :meth:`start` begins the thread that computes.

    Attributes:
        max_model_len: tokens of prompt plus answer: the setting, or the model's own limit if lower.
    """

    def __init__(
        self,
        model_folder: Path,
        settings: EngineSettings,
        *,
        prompt_format: PromptFormat = PromptFormat.CHAT,
        memory_fraction: float = 1.0,
        num_threads: int = 1,
        cache_dir: Path = DEFAULT_CACHE_DIR,
        overlap: bool | None = None,
    ) -> None:
        """
        Raises:
            ModelSourceError: the folder holds no model this engine can compute.
            SettingsError: the device is too small.
        """
        self._settings = settings
        self._tokenizer = Tokenizer(model_folder, prompt_format)
        self._model = load_model(model_folder, settings, cache_dir / "kernels")
        self._grammars = Grammars(self._tokenizer, self._model.vocab_size)
        self.max_model_len = min(settings.max_model_len, self._model.max_positions)
        self._maker = SequenceMaker(self._tokenizer, prompt_format, self.max_model_len, self._model.vocab_size)
        self._adapters = AdapterStore(self._read_adapter, settings.max_host_adapters)
        self._proven: set[str] = set()
        self._drops: dict[str, asyncio.Task[None]] = {}
        self._engine = Engine(
            self._model,
            settings,
            self._adapters,
            max_model_len=self.max_model_len,
            memory_fraction=memory_fraction,
            overlap=overlap,
        )
        self._thread = EngineThread(self._engine, max_waiting=settings.max_waiting, num_threads=num_threads)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop the threads and wait for them; open streams end with :class:`EngineFailed`."""
        self._thread.close()
        self._adapters.close()
        self._engine.close()

    def check_health(self) -> None:
        """Raises :class:`EngineFailed` if the thread is dead."""
        self._thread.check()

    def stats(self) -> EngineStats:
        stats = self._engine.stats
        return replace(stats, num_waiting=stats.num_waiting + self._thread.num_arrivals)

    @property
    def loaded_adapters(self) -> frozenset[str]:
        """Digests of the adapters that can be used now."""
        return self._adapters.digests

    async def load_adapter(self, expert: Expert) -> None:
        """Read an adapter, check it, prove that it acts. Does nothing if it is there; concurrent calls share one load.

        Raises:
            PackageError: it is broken, made for another base, or inert.
            NotReady: it is being dropped.
            EngineFailed: the thread is dead.
        """
        await asyncio.shield(asyncio.wrap_future(self._adapters.load(expert)))

    @asynccontextmanager
    async def hold_adapter(self, expert: Expert) -> AsyncGenerator[None, None]:
        """Keep an adapter in host memory for as long as the block runs, reading it first if need be.

        Raises:
            As :meth:`load_adapter`.
        """
        weights = self._adapters.hold(expert)
        try:
            await asyncio.shield(asyncio.wrap_future(weights))
            yield
        finally:
            self._adapters.release(expert.digest)

    async def drop_adapter(self, digest: str) -> None:
        """Take no new requests for an adapter, wait for those in flight, free its memory.

        Goes on to the end even if the caller is cancelled; concurrent calls share one drop.
        """
        drop = self._drops.get(digest)
        if drop is None:
            drop = self._drops[digest] = asyncio.create_task(self._drop(digest, self._adapters.retire(digest)))
            drop.add_done_callback(lambda _: self._drops.pop(digest, None))
        await asyncio.shield(drop)

    async def generate(
        self, request: GenerateRequest, adapter_digest: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        """Answer a request; closing the generator frees everything it holds by the next step.

        Deltas of its ``n`` answers come in any order, each with the answer's index.

        Raises:
            PromptTooLong, InvalidField, Overloaded, NotReady: before the first delta.
            ConstraintFailed, EngineFailed: at any time.
        """
        prompt_ids = tuple(await self._encode(request))
        matcher = await asyncio.to_thread(self._grammars.compile, request) if is_constrained(request) else None
        unfinished = dict(enumerate(self._maker.make(request, prompt_ids, adapter_digest, matcher)))
        mailbox = self._submit(tuple(unfinished.values()), adapter_digest)
        try:
            while unfinished:
                delta = await mailbox.get()
                if delta.finish_reason is not None:
                    del unfinished[delta.index]
                yield delta
        finally:
            for sequence in unfinished.values():
                self._thread.abort(sequence)

    async def tokenize(self, request: GenerateRequest) -> TokenizedPrompt:
        """The prompt as it would be computed, even if it is too long. Raises as :meth:`generate`."""
        return TokenizedPrompt(tuple(await self._encode(request)), self.max_model_len)

    async def detokenize(self, token_ids: tuple[int, ...]) -> str:
        """What tokens spell. Raises as :meth:`lmoe_ray.engine.tokenizer.Tokenizer.spell`."""
        return await asyncio.to_thread(self._tokenizer.spell, token_ids)

    async def _drop(self, digest: str, unused: Future[None]) -> None:
        await asyncio.wrap_future(unused)
        await asyncio.wrap_future(self._thread.call(lambda engine: engine.forget_adapter(digest)))
        self._adapters.remove(digest)

    async def _encode(self, request: GenerateRequest) -> list[int]:
        num_bytes = num_prompt_bytes(request)
        require_possible(num_bytes, self._tokenizer.longest_token, self.max_model_len)
        if num_bytes <= MAX_INLINE_BYTES:
            return self._tokenizer.encode_request(request)
        return await asyncio.to_thread(self._tokenizer.encode_request, request)

    def _submit(self, sequences: tuple[Sequence, ...], digest: str | None) -> Mailbox:
        self._thread.check()
        mailbox = Mailbox()
        held = sequences if digest is not None else ()
        for sequence in held:
            self._adapters.acquire(str(sequence.adapter_digest))
        try:
            self._thread.submit(sequences, mailbox)
        except BaseException:
            for sequence in held:
                self._adapters.release(str(sequence.adapter_digest))
            raise
        return mailbox

    def _read_adapter(self, expert: Expert) -> AdapterWeights:
        weights = self._model.read_adapter(expert, self._settings.max_lora_rank)
        if expert.digest not in self._proven:
            self._thread.call(lambda engine: engine.prove(weights)).result()
            self._proven.add(expert.digest)
        return weights
