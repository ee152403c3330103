"""``lmoe demo``: build the shipped package again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lmoe_ray.cli.make_commands import DEFAULT_CACHE, CacheOption
from lmoe_ray.cli.tuning_progress import console, err_console, print_report
from lmoe_ray.domain.package import load_package


def demo(
    data: Annotated[Path | None, typer.Option(help="Instruct data with the predecessor's categories.")] = None,
    work: Annotated[Path | None, typer.Option(help="Keeps the split and the adapters.")] = None,
    router_only: Annotated[
        bool,
        typer.Option("--router-only", help="Only tune the router's encoder on the package's samples, and index them."),
    ] = False,
    labelled: Annotated[
        Path | None, typer.Option(help="With --router-only: prompts by others, to measure the router's confidence on.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the package; default: the shipped one.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Experts tuned at the same time, one thread each.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Tune only these; others are taken from --work.")] = None,
    max_tokens_seen: Annotated[int | None, typer.Option(min=1, help="Tokens per expert.")] = None,
    cache_dir: CacheOption = DEFAULT_CACHE,
) -> None:
    """Build the shipped demo package again: split, tune six experts, pack, and make the router's own parts."""
    from lmoe_ray.demo.build import TUNE_SETTINGS, build_demo
    from lmoe_ray.pretrained.package_source import DEMO_FOLDER

    if router_only:
        _ship_router(out or DEMO_FOLDER, cache_dir, labelled)
        return
    if data is None or work is None:
        raise typer.BadParameter("are needed, or --router-only", param_hint="--data and --work")
    settings = replace(TUNE_SETTINGS, max_tokens_seen=max_tokens_seen) if max_tokens_seen else TUNE_SETTINGS
    with console.status("tuning"):
        package = build_demo(
            data,
            out or DEMO_FOLDER,
            work,
            cache_dir,
            jobs=jobs,
            settings=settings,
            only=tuple(only or ()),
            report=print_report,
        )
    console.print(f"{package.path}: {', '.join(package.names)}")


def _ship_router(package: Path, cache_dir: Path, labelled: Path | None) -> None:
    from lmoe_ray.bench.labelled_prompts import read_experts
    from lmoe_ray.demo.build import ship_router
    from lmoe_ray.settings import RouterSettings

    judges = read_experts(labelled, RouterSettings().max_tokens) if labelled else ()
    strangers = [(text, expert.name) for expert in judges for text in expert.samples]
    with err_console.status("tuning the encoder") as display:
        ship_router(
            load_package(package),
            cache_dir,
            strangers,
            lambda done, total, loss: display.update(f"tuning the encoder: step {done} of {total}, loss {loss:.2f}"),
        )
