"""The loop's one turn: schedule, run, sample, commit. Owned by a single thread.

Everything that changes while answers are computed lives here: sequences, cache blocks, adapter slots
and the bank. Nothing in it is shared, so nothing in it is locked.

On a GPU the next step is launched before the last one's tokens are read, so that the device computes
while the host finds out what they mean. On a CPU both are the same processor and take turns.
"""

from __future__ import annotations

import logging
import time

from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.engine.adapter_loader import AdapterLoader
from lmoe_ray.engine.adapter_proof import AdapterProof
from lmoe_ray.engine.adapter_slots import AdapterSlots
from lmoe_ray.engine.adapter_store import AdapterStore
from lmoe_ray.engine.adapter_weights import AdapterWeights
from lmoe_ray.engine.batch import BatchBuilder
from lmoe_ray.engine.block_manager import BlockManager
from lmoe_ray.engine.engine_stats import EngineStats
from lmoe_ray.engine.kv_cache import KVCache, block_bytes, block_size_for, blocks_within, cache_budget
from lmoe_ray.engine.launched_step import LaunchedStep, catch_up
from lmoe_ray.engine.loaded_model import LoadedModel
from lmoe_ray.engine.logits import LogitsProcessors, SampleRow
from lmoe_ray.engine.mailbox import Letter, Mailbox, deliver
from lmoe_ray.engine.sampler import Picked, Sampler
from lmoe_ray.engine.scheduler import Scheduler
from lmoe_ray.engine.sequence import Sequence
from lmoe_ray.engine.step import Step
from lmoe_ray.errors import ConstraintFailed, EngineFailed, LMoEError
from lmoe_ray.settings import EngineSettings

logger = logging.getLogger(__name__)

#: How long the thread may wait for an adapter before it looks for orders again.
LOAD_WAIT_S = 0.02


class Engine:
    """One base model, its cache and its bank of adapters on one device."""

    def __init__(
        self,
        model: LoadedModel,
        settings: EngineSettings,
        adapters: AdapterStore,
        *,
        max_model_len: int,
        memory_fraction: float,
        overlap: bool | None = None,
    ) -> None:
        """``overlap``: launch a step before the last one's tokens are read; ``None``: on a GPU.

        Raises:
            SettingsError: the device's share does not hold one sequence of ``max_model_len`` tokens.
        """
        self._max_num_seqs = settings.max_num_seqs
        cache = _make_cache(model, settings, max_model_len, memory_fraction)
        bank = model.make_bank(settings.max_adapters, settings.max_lora_rank)
        self._adapters = adapters
        self._adapter_slots = AdapterSlots(settings.max_adapters)
        self._loader = AdapterLoader(bank, adapters.weights, model.device)
        self._blocks = BlockManager(cache.num_blocks, cache.block_size)
        self._scheduler = Scheduler(
            blocks=self._blocks,
            adapter_slots=self._adapter_slots,
            max_num_seqs=settings.max_num_seqs,
            max_batch_tokens=settings.max_batch_tokens,
            step_target_s=settings.step_target_ms / 1000,
        )
        self._builder = BatchBuilder(model.device, cache.block_size)
        self._runner = model.make_runner(cache, bank)
        self._sampler = Sampler(LogitsProcessors(model.vocab_size, model.device, max(1, settings.num_threads)))
        self._proof = AdapterProof(model, refuse=settings.adapter_check == "refuse")
        self._overlap = model.device.type == "cuda" if overlap is None else overlap
        self._launched: LaunchedStep | None = None
        self._mailboxes: dict[Sequence, Mailbox] = {}
        self._followers: dict[Sequence, list[Sequence]] = {}
        self._num_steps = self._prompt_tokens = self._generated_tokens = 0
        self._last_done_s = 0.0
        self.stats = self._count()

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or self._launched is not None

    @property
    def num_waiting(self) -> int:
        return self._scheduler.num_waiting + sum(map(len, self._followers.values()))

    @property
    def num_free_rows(self) -> int:
        return self._scheduler.num_free_rows

    def add(self, sequence: Sequence, mailbox: Mailbox) -> None:
        """One that has a leader waits until its prompt is in the cache; the leader must have been added before."""
        self._mailboxes[sequence] = mailbox
        if sequence.leader is None:
            self._scheduler.add(sequence)
        else:
            self._followers.setdefault(sequence.leader, []).append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence whose reader has left; harmless if it has finished."""
        if self._mailboxes.pop(sequence, None) is None:
            return
        if sequence in (followers := self._followers.get(sequence.leader, []) if sequence.leader else []):
            followers.remove(sequence)
        else:
            self._release_followers(sequence)
            self._scheduler.abort(sequence)
        self._let_go(sequence, "abort")
        self.stats = self._count()

    def prove(self, weights: AdapterWeights) -> None:
        """Check that an adapter acts, see :class:`AdapterProof`."""
        self._proof.check(weights)

    def forget_adapter(self, digest: str) -> None:
        """Free the slot of an adapter nobody uses any more; its own write, if under way, is waited for."""
        while self._loader.is_loading(digest):
            self._loader.wait(LOAD_WAIT_S)
            self._take_loaded()
        self._adapter_slots.forget(digest)
        self.stats = self._count()

    def step(self) -> None:
        """Compute one token for every sequence whose prompt is done, and prompt chunks with what is left."""
        self._take_loaded()
        step = self._scheduler.schedule()
        self._loader.start(self._scheduler.take_orders())
        launched = None if step is None else self._launch(step)
        if self._overlap:
            launched, self._launched = self._launched, launched
        if launched is not None:
            self._commit(launched)
        elif step is None and self._loader.is_busy:
            self._loader.wait(LOAD_WAIT_S)

    def close(self) -> None:
        self._loader.close()

    def fail(self, failure: EngineFailed) -> None:
        """End every open stream with an error of its own: a shared one would collect all their tracebacks."""
        deliver((mailbox, EngineFailed(failure.reason)) for mailbox in self._mailboxes.values())
        self._mailboxes.clear()
        self._followers.clear()

    def _take_loaded(self) -> None:
        for digest in self._loader.take_loaded():
            self._scheduler.mark_loaded(digest)

    def _launch(self, step: Step) -> LaunchedStep:
        began_s = time.perf_counter()
        before = self._launched
        batch = self._builder.build(step, before.row_of if before else {}, before.sampled.token_ids if before else None)
        logits = self._runner.run(batch)
        rows = [SampleRow(s, len(s.output_ids) + s.num_in_flight) for s in step.sampled]
        catch_up(step.sampled, before)
        sampled = self._sampler.sample(logits, rows)
        for sequence in step.sampled:
            sequence.num_in_flight += 1
        return LaunchedStep(step, sampled, {s: row for row, s in enumerate(step.sampled)}, began_s)

    def _commit(self, launched: LaunchedStep) -> None:
        """Read the step's tokens and pass them on; forget those of sequences that ended meanwhile."""
        step, letters, finished = launched.step, list[Letter](), list[Sequence]()
        for sequence, pick in zip(step.sampled, launched.sampled.read(), strict=True):
            if not sequence.is_running:
                continue
            letter = self._take(sequence, pick)
            if letter is None:
                continue
            letters.append((self._mailboxes[sequence], letter))
            if isinstance(letter, LMoEError) or letter.finish_reason is not None:
                finished.append(sequence)
                self._let_go(sequence, letter.code if isinstance(letter, LMoEError) else str(letter.finish_reason))
        self._scheduler.commit(step, finished)
        for sequence in step.sampled:
            self._release_followers(sequence)
        self._observe(launched)
        self.stats = self._count()
        deliver(letters)
        for sequence in finished:
            del self._mailboxes[sequence]
        for sequence in [s for s, mailbox in self._mailboxes.items() if mailbox.is_abandoned]:
            self.abort(sequence)

    def _take(self, sequence: Sequence, pick: Picked) -> TokenDelta | LMoEError | None:
        """A token is known: what its reader is told."""
        sequence.num_in_flight -= 1
        sequence.output_ids.append(pick.token_id)
        self._generated_tokens += 1
        sequence.first_token_at_s = sequence.first_token_at_s or time.monotonic()
        if sequence.constraint is not None:
            sequence.constraint.catch_up(sequence.output_ids)
            if failure := sequence.constraint.failure:
                return ConstraintFailed(failure)
        return sequence.answer.push(pick.token_id, pick.logprob, pick.top)

    def _release_followers(self, leader: Sequence) -> None:
        for sequence in self._followers.pop(leader, ()):
            sequence.leader = None
            self._scheduler.add(sequence)

    def _observe(self, launched: LaunchedStep) -> None:
        now_s = time.perf_counter()
        self._scheduler.observe(launched.step, now_s - max(launched.began_s, self._last_done_s))
        self._last_done_s = now_s
        self._num_steps += 1
        self._prompt_tokens += launched.step.num_prompt_tokens

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
            num_waiting=self.num_waiting,
            num_rows=self._max_num_seqs,
            num_free_rows=self._scheduler.num_free_rows,
            num_blocks=self._blocks.num_blocks,
            num_free_blocks=self._blocks.num_free,
            adapters_on_device=tuple(sorted(self._adapter_slots.resident)),
            num_pinned_adapters=self._adapter_slots.num_pinned,
            num_steps=self._num_steps,
            num_preempted=self._scheduler.num_preempted,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._blocks.num_hit_tokens,
            generated_tokens=self._generated_tokens,
        )


def _make_cache(model: LoadedModel, settings: EngineSettings, max_model_len: int, memory_fraction: float) -> KVCache:
    block_size, dtype, device = block_size_for(model.device), model.dtype, model.device
    used_bytes = model.weight_bytes + model.bank_bytes(settings.max_adapters, settings.max_lora_rank)
    budget_bytes = cache_budget(device, memory_fraction, used_bytes, int(settings.cpu_cache_gib * (1 << 30)))
    num_blocks = blocks_within(
        budget_bytes, block_bytes(model.cache_shape, block_size, dtype), block_size, max_model_len
    )
    return KVCache(model.cache_shape, num_blocks=num_blocks, block_size=block_size, dtype=dtype, device=device)
