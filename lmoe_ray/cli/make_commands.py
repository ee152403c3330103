"""``lmoe segment``, ``tune``, ``evaluate`` and ``pack``: make experts and measure what they are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lmoe_ray.cli.tuning_progress import console, err_console, print_report, tuning_bar
from lmoe_ray.domain.package import LMoEPackage, Manifest, load_package
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.errors import PackageError

if TYPE_CHECKING:
    from lmoe_ray.training.evaluate import LossTable

DEFAULT_BASE = "builtin:smollm2-135m-instruct"
DEFAULT_CACHE = Path("~/.cache/lmoe_ray")
BaseOption = Annotated[str, typer.Option("--base", help="builtin:…, a local folder or a hub id.")]
RevisionOption = Annotated[str | None, typer.Option(help="Revision of a hub model.")]
CacheOption = Annotated[Path, typer.Option(help="Folder of converted models.")]
FormatOption = Annotated[PromptFormat, typer.Option("--prompt-format", help="As in the package's lmoe.yaml.")]
ThreadsOption = Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's choice.")]


def segment(
    data: Annotated[Path, typer.Option(help="Instruct data: JSONL with category, instruction, response.")],
    out: Annotated[Path, typer.Option(help="Folder for training_data/, heldout/ and routing_data/.")],
    heldout_share: Annotated[float, typer.Option(min=0, max=0.9)] = 0.08,
    foreign_ratio: Annotated[float, typer.Option(min=0, help="Other experts' rows per own row.")] = 5 / 3,
    seed: int = 11422,
) -> None:
    """Split instruct data into training, held-out and routing rows per expert."""
    from lmoe_ray.training.instruct_rows import read_rows
    from lmoe_ray.training.segment import SegmentSettings, write_segmentation
    from lmoe_ray.training.segment import segment as split_rows

    split = split_rows(read_rows(data), SegmentSettings(heldout_share, foreign_ratio=foreign_ratio, seed=seed))
    write_segmentation(split, out)
    table = Table("expert", "training", "of these foreign", "held out", "routing")
    for name, rows in split.experts.items():
        counts = (len(rows.training), rows.num_foreign, len(rows.heldout), len(rows.routing))
        table.add_row(name, *map(str, counts))
    console.print(table)
    if split.dropped:
        console.print(f"categories of no expert, left out: {dict(split.dropped)}")
    if split.empty:
        console.print(f"categories without a row: {', '.join(split.empty)}")


def tune(
    data: Annotated[Path, typer.Option(help="Rows to learn.")],
    out: Annotated[Path, typer.Option(help="Folder of the adapter.")],
    heldout: Annotated[Path | None, typer.Option(help="Rows to measure on, never learned.")] = None,
    base: BaseOption = DEFAULT_BASE,
    revision: RevisionOption = None,
    rank: Annotated[int, typer.Option(min=1, max=512)] = 4,
    alpha: Annotated[int, typer.Option(min=1)] = 8,
    lr: Annotated[float, typer.Option(min=0)] = 1e-3,
    epochs: Annotated[int, typer.Option(min=1)] = 1,
    max_tokens: Annotated[int, typer.Option(min=16, help="Longest prompt plus answer.")] = 512,
    batch_tokens: Annotated[int, typer.Option(min=16, help="Tokens of one step.")] = 1024,
    max_tokens_seen: Annotated[int, typer.Option(min=0, help="Stop after so many tokens; 0: after the epochs.")] = 0,
    prompt_format: FormatOption = PromptFormat.CHAT,
    threads: ThreadsOption = 0,
    seed: int = 11422,
    cache_dir: CacheOption = DEFAULT_CACHE,
) -> None:
    """Tune one LoRA expert and write it as a PEFT adapter."""
    from lmoe_ray.pretrained.model_source import resolve
    from lmoe_ray.training.instruct_rows import read_rows
    from lmoe_ray.training.tune import TuneSettings
    from lmoe_ray.training.tune import tune as tune_expert

    settings = TuneSettings(
        rank=rank,
        alpha=alpha,
        lr=lr,
        epochs=epochs,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        max_tokens_seen=max_tokens_seen,
        prompt_format=prompt_format,
        num_threads=threads,
        seed=seed,
    )
    folder = resolve(base, revision, cache_dir)
    with tuning_bar() as progress:
        done = tune_expert(
            folder,
            read_rows(data),
            read_rows(heldout) if heldout else (),
            out,
            settings,
            base_name=base,
            progress=progress,
        )
    print_report(out.name, done)


def evaluate(
    data: Annotated[Path, typer.Option(help="Held-out rows: one JSONL file, or a folder of expert_<name>.jsonl.")],
    package: Annotated[str, typer.Option(help="builtin:demo, or a package folder.")] = "builtin:demo",
    adapters: Annotated[Path | None, typer.Option(help="Folder of adapters, instead of a package.")] = None,
    base: BaseOption = DEFAULT_BASE,
    revision: RevisionOption = None,
    prompt_format: Annotated[PromptFormat | None, typer.Option(help="Instead of the package's.")] = None,
    max_rows: Annotated[int, typer.Option(min=0, help="Rows measured per expert, the first ones; 0: all.")] = 0,
    threads: ThreadsOption = 0,
    cache_dir: CacheOption = DEFAULT_CACHE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Loss of the base and every adapter on every expert's held-out rows, in nats per response token."""
    from lmoe_ray.pretrained.model_source import resolve
    from lmoe_ray.pretrained.package_source import package_folder
    from lmoe_ray.training.evaluate import EvaluateSettings, heldout_by_expert
    from lmoe_ray.training.evaluate import evaluate as measure

    loaded = None if adapters else load_package(package_folder(package))
    folders = _adapters_in(adapters) if adapters else _adapters_of(loaded)
    chosen = prompt_format or (loaded.manifest.prompt_format if loaded else PromptFormat.CHAT)
    heldout = {expert: rows[: max_rows or None] for expert, rows in heldout_by_expert(data).items()}
    with err_console.status("loading the base model") as display:
        table = measure(
            resolve(base, revision, cache_dir),
            folders,
            heldout,
            EvaluateSettings(prompt_format=chosen, num_threads=threads),
            progress=lambda adapter, rows_of, loss: display.update(f"{adapter} on {rows_of}: {loss:.3f}"),
        )
    if as_json:
        print(json.dumps({"loss": table.losses, "num_tokens": table.num_targets}))
    else:
        _print_losses(table)


def pack(
    adapters: Annotated[Path, typer.Option(help="Folder of PEFT adapters, one folder per expert.")],
    out: Annotated[Path, typer.Option(help="Folder of the package.")],
    routing: Annotated[Path | None, typer.Option(help="Folder of expert_<name>.jsonl with routing samples.")] = None,
    base: Annotated[str, typer.Option(help="Base model the adapters are for; checked when served.")] = "",
    prompt_format: FormatOption = PromptFormat.CHAT,
    fallback: Annotated[str, typer.Option(help="Expert that answers when the router abstains.")] = "",
    licence: Annotated[str, typer.Option(help="SPDX name.")] = "",
    version: Annotated[str, typer.Option(help="Of the package.")] = "",
) -> None:
    """Put adapters, descriptions and routing samples into an LMoE package."""
    from lmoe_ray.training.instruct_rows import read_samples
    from lmoe_ray.training.pack import pack as write_package

    folders = _adapters_in(adapters)
    descriptions = {n: f / "description.txt" for n, f in folders.items() if (f / "description.txt").is_file()}
    samples = {n: routing / f"expert_{n}.jsonl" for n in folders} if routing else {}
    package = write_package(
        out,
        folders,
        {name: file.read_text(encoding="utf-8") for name, file in descriptions.items()},
        {name: read_samples(file) for name, file in samples.items() if file.is_file()},
        Manifest(base, prompt_format, fallback, licence, version),
    )
    console.print(f"{out}: {', '.join(package.names)}")


def _adapters_of(package: LMoEPackage | None) -> dict[str, Path]:
    return {expert.name: expert.weights.parent for expert in package.experts} if package else {}


def _adapters_in(folder: Path) -> dict[str, Path]:
    found = {f.name: f for f in sorted(folder.iterdir()) if (f / "adapter_config.json").is_file()}
    if not found:
        raise PackageError(str(folder), "holds no adapter: no <name>/adapter_config.json found")
    return found


def _print_losses(table: LossTable) -> None:
    columns = list(table.num_targets)
    shown = Table("adapter", *columns, title="held-out loss, nats per response token")
    for adapter, losses in table.losses.items():
        cells = [f"[bold]{losses[c]:.3f}[/]" if c == adapter else f"{losses[c]:.3f}" for c in columns]
        shown.add_row(adapter, *cells)
    shown.add_row("tokens", *(str(table.num_targets[c]) for c in columns), style="dim")
    console.print(shown)
