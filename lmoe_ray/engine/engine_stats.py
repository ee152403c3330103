"""What an engine tells of itself: how busy it is, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the start (``…_tokens``, ``num_steps``, ``num_preempted``) and the state after the last step.

    Attributes:
        num_waiting: sequences that wait to be admitted.
        num_rows: sequences that can run at once; ``num_free_rows`` of these places are not taken.
        num_blocks: cache blocks in all; ``num_free_blocks`` of them can be had, those that keep prefixes included.
        adapters_on_device: digests, sorted; those in use and those kept for later.
        num_pinned_adapters: how many of these are in use.
        cached_tokens: prompt tokens that were not computed because their prefix was in the cache.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_rows: int = 0
    num_free_rows: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0
    adapters_on_device: tuple[str, ...] = ()
    num_pinned_adapters: int = 0
    num_steps: int = 0
    num_preempted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
