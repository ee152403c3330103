"""Build the shipped demo package again: split instruct data, tune six experts, pack them.

Routing samples and descriptions are written by hand and live in the package itself; the adapters are
made here, and what the router ships. Experts are tuned side by side, one CPU thread each, which is faster than one
after the other with all threads. Same data and settings, same adapters, on one kind of machine.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np

from lmoe_ray.demo.task_head_build import build_task_head, read_task_prompts
from lmoe_ray.demo.turn_head_build import build_turn_head
from lmoe_ray.domain.package import LMoEPackage, Manifest
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.pretrained.model_source import resolve
from lmoe_ray.pretrained.package_source import DEMO_FOLDER, DEMO_INDEX
from lmoe_ray.routing.calibration import Calibration, calibrate
from lmoe_ray.routing.embedder import Embedder, model_digest
from lmoe_ray.routing.encoder_tuning import FOLDER, tuning_for
from lmoe_ray.routing.held_out import HeldOut
from lmoe_ray.routing.index_cache import build_fitted, save_shipped
from lmoe_ray.routing.reading import read
from lmoe_ray.routing.sample_set import choose_samples
from lmoe_ray.routing.standing import Standing
from lmoe_ray.routing.task_head import features_version, load_task_head
from lmoe_ray.routing.turn_head import load_turn_head
from lmoe_ray.settings import RouterSettings
from lmoe_ray.training.instruct_rows import InstructRow, read_rows, read_samples
from lmoe_ray.training.pack import pack
from lmoe_ray.training.segment import SegmentSettings, segment, write_segmentation
from lmoe_ray.training.tune import TuneReport, TuneSettings, tune
from lmoe_ray.training.tune_encoder import Told, tune_encoder

BASE = "builtin:smollm2-135m-instruct"
MANIFEST = Manifest(
    base=BASE,
    prompt_format=PromptFormat.CHAT,
    # The most restrictive licence among the data the adapters were tuned on.
    licence="CC-BY-SA-4.0",
    version="0.1.0",
)
SEGMENT_SETTINGS = SegmentSettings(foreign_ratio=0.25)
TUNE_SETTINGS = TuneSettings(rank=4, alpha=8, lr=2e-3, batch_tokens=1024, max_tokens_seen=60_000, num_threads=1)


def build_demo(
    data: Path,
    out: Path,
    work: Path,
    cache_dir: Path,
    *,
    jobs: int,
    settings: TuneSettings = TUNE_SETTINGS,
    only: tuple[str, ...] = (),
    report: Callable[[str, TuneReport], None],
) -> LMoEPackage:
    """Make the package from instruct data.

    Args:
        data: rows as :mod:`lmoe_ray.training.instruct_rows` reads them.
        out: the package's folder; may be the shipped one.
        work: keeps the split and the tuned adapters; those not in ``only`` are taken from here.
        cache_dir: of converted models.
        jobs: experts tuned at the same time.
        settings: of every expert.
        only: experts to tune; empty: all.
        report: called as each expert is done.

    Raises:
        TrainingDataError, PackageError, ModelSourceError.
    """
    model_folder = resolve(BASE, None, cache_dir)
    split = segment(read_rows(data), SEGMENT_SETTINGS)
    write_segmentation(split, work / "split")
    adapters = {name: work / "adapters" / name for name in split.experts}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as workers:
        running = {
            workers.submit(_tune_one, model_folder, rows.training, rows.heldout, adapters[name], settings): name
            for name, rows in split.experts.items()
            if not only or name in only
        }
        for done in as_completed(running):
            report(running[done], done.result())
    descriptions = {
        name: (DEMO_FOLDER / "adapters" / name / "description.txt").read_text(encoding="utf-8") for name in adapters
    }
    samples = {name: read_samples(DEMO_FOLDER / "routing_data" / f"expert_{name}.jsonl") for name in adapters}
    written = {file.name: file.read_bytes() for file in (DEMO_FOLDER / "routing_data").glob("*.jsonl")}
    package = pack(out, adapters, descriptions, samples, MANIFEST)
    for name, content in written.items():
        # As they were written by hand: packing keeps the texts, and drops the names of their tasks.
        (out / "routing_data" / name).write_bytes(content)
    ship_router(package, cache_dir)
    return package


def ship_router(
    package: LMoEPackage, cache_dir: Path, strangers: Sequence[tuple[str, str]] = (), told: Told | None = None
) -> None:
    """Tune the encoder, fit the task head, and index the routing samples, so that nobody's first start has to.

    Half an hour on one CPU core.

    Args:
        package: whose samples they are.
        cache_dir: of the embedder.
        strangers: texts that were written by others, and the expert of each. The samples cannot be held out, for
            everything was tuned on them, so confidence is measured on these; without any it is that of public prompts.
        told: called with the tuning's steps done, steps in all and the last loss.
    """
    router = RouterSettings()
    folder = resolve(router.embedder, router.embedder_revision, cache_dir)
    prompts = read_task_prompts(package.path / "routing_data")
    tune_encoder(folder, prompts, FOLDER, model_digest(folder), told)
    tuning_for.cache_clear()
    embedder = Embedder(folder, max_tokens=router.max_tokens)
    build_task_head(prompts, embedder)
    load_task_head.cache_clear()
    build_turn_head(embedder)
    load_turn_head.cache_clear()
    features_version.cache_clear()
    fitted = build_fitted(choose_samples(package.experts, router.max_samples, router.seed), embedder)
    if strangers:
        fitted = replace(fitted, calibration=_judged_by(strangers, Standing(fitted, router, embedder.space), embedder))
    save_shipped(package.path / DEMO_INDEX.name, fitted)


def _judged_by(strangers: Sequence[tuple[str, str]], standing: Standing, embedder: Embedder) -> Calibration:
    texts = [text for text, _ in strangers]
    vectors = embedder.embed(texts)
    looks = [standing.look(read(text, embedder), vector) for text, vector in zip(texts, vectors, strict=True)]
    owners = np.array([standing.fitted.index.experts.index(expert) for _, expert in strangers])
    return calibrate(HeldOut(np.stack([look.log_probabilities for look in looks]), owners))


def _tune_one(
    model_folder: Path,
    rows: tuple[InstructRow, ...],
    heldout: tuple[InstructRow, ...],
    out: Path,
    settings: TuneSettings,
) -> TuneReport:
    return tune(model_folder, rows, heldout, out, settings, base_name=BASE)
