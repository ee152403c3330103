"""The loop's one turn: schedule, run, sample, commit. Owned by a single thread.

Everything that changes while answers are computed lives here: sequences, cache rows, adapter slots
and the bank. Nothing in it is shared, so nothing in it is locked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from lmoe_ray.engine.adapter_proof import AdapterProof
from lmoe_ray.engine.adapter_slots import AdapterSlots
from lmoe_ray.engine.adapter_store import AdapterStore
from lmoe_ray.engine.adapter_weights import AdapterWeights
from lmoe_ray.engine.base_model import BaseModel
from lmoe_ray.engine.batch import BatchBuilder
from lmoe_ray.engine.kv_cache import KVCache, count_rows
from lmoe_ray.engine.logits import LogitsProcessors
from lmoe_ray.engine.lora import AdapterBank, bank_bytes
from lmoe_ray.engine.mailbox import Letter, Mailbox, deliver
from lmoe_ray.engine.model_runner import ModelRunner
from lmoe_ray.engine.sampler import Picked, Sampler
from lmoe_ray.engine.scheduler import Scheduler, Step
from lmoe_ray.engine.sequence import Sequence
from lmoe_ray.errors import EngineFailed
from lmoe_ray.settings import EngineSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the start (``…_tokens``, ``num_steps``) and the state after the last step.

    Attributes:
        num_waiting: sequences without a cache row yet.
        num_rows: cache rows in all; ``num_free_rows`` of them are not in use.
        adapters_on_device: digests, sorted; those in use and those kept for later.
        num_pinned_adapters: how many of these are in use.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_rows: int = 0
    num_free_rows: int = 0
    adapters_on_device: tuple[str, ...] = ()
    num_pinned_adapters: int = 0
    num_steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


class Engine:
    """One base model, its cache and its bank of adapters on one device."""

    def __init__(
        self,
        model: BaseModel,
        settings: EngineSettings,
        adapters: AdapterStore,
        *,
        eos_ids: frozenset[int],
        max_model_len: int,
        memory_fraction: float,
    ) -> None:
        """
        Raises:
            SettingsError: the GPU's share does not hold one sequence of ``max_model_len`` tokens.
        """
        size = bank_bytes(model.shape, settings.max_adapters, settings.max_lora_rank, model.dtype)
        self._num_rows = count_rows(
            model,
            max_num_seqs=settings.max_num_seqs,
            max_model_len=max_model_len,
            bank_bytes=size,
            memory_fraction=memory_fraction,
        )
        self._cache = KVCache(
            model.shape, num_rows=self._num_rows, max_model_len=max_model_len, dtype=model.dtype, device=model.device
        )
        self._bank = AdapterBank(settings.max_adapters, rank=1, dtype=model.dtype, device=model.device)
        self._adapters = adapters
        self._adapter_slots = AdapterSlots(settings.max_adapters)
        self._scheduler = Scheduler(
            num_rows=self._num_rows,
            max_batch_tokens=settings.max_batch_tokens,
            adapter_slots=self._adapter_slots,
        )
        self._builder = BatchBuilder(model, max_model_len)
        self._runner = ModelRunner(model)
        self._sampler = Sampler(LogitsProcessors(model.shape.vocab_size, eos_ids, model.device))
        self._proof = AdapterProof(model, refuse=settings.adapter_check == "refuse")
        self._mailboxes: dict[Sequence, Mailbox] = {}
        self._num_steps = self._prompt_tokens = self._generated_tokens = 0
        self.stats = self._count()

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    @property
    def num_waiting(self) -> int:
        return self._scheduler.num_waiting

    @property
    def num_free_rows(self) -> int:
        return self._scheduler.num_free_rows

    def add(self, sequence: Sequence, mailbox: Mailbox) -> None:
        self._mailboxes[sequence] = mailbox
        self._scheduler.add(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence whose reader has left; harmless if it has finished."""
        if self._mailboxes.pop(sequence, None) is None:
            return
        self._scheduler.abort(sequence)
        self._let_go(sequence, "abort")
        self.stats = self._count()

    def prove(self, weights: AdapterWeights) -> None:
        """Check that an adapter acts, see :class:`AdapterProof`."""
        self._proof.check(weights)

    def forget_adapter(self, digest: str) -> None:
        """Free the slot of an adapter nobody uses any more."""
        self._adapter_slots.forget(digest)
        self.stats = self._count()

    def step(self) -> None:
        """Compute one token for every sequence whose prompt is done, and prompt chunks with what is left."""
        step = self._scheduler.schedule()
        for move in step.moves:
            self._cache.move_row(move.source, move.target, move.num_tokens)
        for load in step.loads:
            self._bank.load(load.slot, self._adapters.weights(load.digest))
        logits = self._runner.run(self._builder.build(step, self._bank), self._cache, self._bank)
        self._commit(step, self._sampler.sample(logits, step.sampled))

    def fail(self, failure: EngineFailed) -> None:
        """End every open stream with an error of its own: a shared one would collect all their tracebacks."""
        deliver((mailbox, EngineFailed(failure.reason)) for mailbox in self._mailboxes.values())
        self._mailboxes.clear()

    def _commit(self, step: Step, picked: Rows[Picked]) -> None:
        letters: list[Letter] = []
        finished = []
        for sequence, pick in zip(step.sampled, picked, strict=True):
            sequence.output_ids.append(pick.token_id)
            sequence.first_token_at_s = sequence.first_token_at_s or time.monotonic()
            delta = sequence.answer.push(pick.token_id, pick.logprob)
            if delta is None:
                continue
            letters.append((self._mailboxes[sequence], delta))
            if delta.finish_reason is not None:
                finished.append(sequence)
                self._let_go(sequence, delta.finish_reason)
        self._scheduler.commit(step, finished)
        self._num_steps += 1
        self._generated_tokens += len(picked)
        self._prompt_tokens += sum(chunk.num_tokens for chunk in step.prefill)
        self.stats = self._count()
        deliver(letters)
        for sequence in finished:
            del self._mailboxes[sequence]
        for sequence in [s for s, mailbox in self._mailboxes.items() if mailbox.is_abandoned]:
            self.abort(sequence)

    def _let_go(self, sequence: Sequence, reason: str) -> None:
        if sequence.adapter_digest is not None:
            self._adapters.release(sequence.adapter_digest)
        first_s = sequence.first_token_at_s or time.monotonic()
        logger.info(
            "sequence finished request_id=%s adapter=%s prompt_tokens=%d completion_tokens=%d ttft_ms=%.1f reason=%s",
            sequence.request_id,
            sequence.adapter_digest or "base",
            len(sequence.prompt_ids),
            len(sequence.output_ids),
            (first_s - sequence.arrived_at_s) * 1000,
            reason,
        )

    def _count(self) -> EngineStats:
        return EngineStats(
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            num_rows=self._num_rows,
            num_free_rows=self._scheduler.num_free_rows,
            adapters_on_device=tuple(sorted(self._adapter_slots.resident)),
            num_pinned_adapters=self._adapter_slots.num_pinned,
            num_steps=self._num_steps,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
        )
