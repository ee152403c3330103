"""The embedder that the settings ask for: the encoder itself, or the table learnt from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lmoe_ray.domain.package import Expert
from lmoe_ray.routing.embedder import Embedder
from lmoe_ray.routing.sample_set import choose_samples
from lmoe_ray.routing.static_embedder import StaticEmbedder
from lmoe_ray.settings import RouterSettings


def choose_embedder(
    folder: Path, settings: RouterSettings, experts: Iterable[tuple[Expert, ...]], cache_dir: Path
) -> Embedder | StaticEmbedder:
    """
    Args:
        folder: of the embedding model.
        settings: ``embedding``, ``max_tokens``, ``num_threads``, ``max_samples`` and ``seed`` count here.
        experts: of every base model; a table is learnt on their samples, the encoder does not look at them.
        cache_dir: of tables and compiled libraries.

    Raises:
        ModelSourceError: the folder holds no usable model, or none that a table can be learnt from.
    """
    if settings.embedding == "encoder":
        return Embedder(folder, max_tokens=settings.max_tokens, num_threads=settings.num_threads, cache_dir=cache_dir)
    chosen = (choose_samples(group, settings.max_samples, settings.seed) for group in experts)
    return StaticEmbedder(
        folder,
        [text for samples in chosen for text in samples.rows],
        max_tokens=settings.max_tokens,
        num_threads=settings.num_threads,
        cache_dir=cache_dir,
    )
