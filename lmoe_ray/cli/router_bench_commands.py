"""``lmoe bench encoder`` and ``index``: what the parts of a routing decision cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lmoe_ray.cli.bench_progress import bar, err_console, say
from lmoe_ray.settings import RouterSettings

console = Console()


def encoder(
    model: Annotated[str, typer.Option(help="builtin:…, a local folder or a hub id.")] = RouterSettings().embedder,
    rounds: Annotated[int, typer.Option(min=1, help="Texts of each length.")] = 50,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each encoder.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line per row on standard output.")] = False,
    cache_dir: Annotated[Path, typer.Option(help="Folder of the static table.")] = Path("~/.cache/lmoe_ray"),
) -> None:
    """Milliseconds per text of the router's encoder, beside sentence-transformers as it comes."""
    from lmoe_ray.bench.encoder_speed import print_table, run
    from lmoe_ray.pretrained.model_source import resolve

    cache = cache_dir.expanduser()
    with err_console.status("encoding"):
        costs = run(resolve(model, None, cache), cache, rounds, say, threads)
    if as_json:
        for cost in costs:
            print(json.dumps(cost.as_dict()))
    else:
        print_table(costs, console)


def index(
    samples: Annotated[int, typer.Option(min=1000, help="The most samples; smaller sizes are measured too.")] = 1000000,
    experts: Annotated[int, typer.Option(min=1, max=1000, help="Experts that own them.")] = 6,
    queries: Annotated[int, typer.Option(min=1, max=1000, help="Searches of each size and kind.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line per row on standard output.")] = False,
    cache_dir: Annotated[Path, typer.Option(help="Folder of routing indexes.")] = Path("~/.cache/lmoe_ray"),
) -> None:
    """Milliseconds and recall of the search for the nearest samples, exact and in cells; 4 GB for a million."""
    from lmoe_ray.bench.index_speed import print_table, run
    from lmoe_ray.bench.labelled_prompts import read_experts
    from lmoe_ray.pretrained.model_source import resolve
    from lmoe_ray.pretrained.package_source import DEMO_FOLDER, DEMO_INDEX
    from lmoe_ray.routing.choose_embedder import choose_embedder
    from lmoe_ray.routing.index_cache import load_or_build
    from lmoe_ray.routing.sample_set import choose_samples

    settings, cache = RouterSettings(), cache_dir.expanduser()
    with bar("starting") as update:
        demo = read_experts(DEMO_FOLDER, settings.max_tokens)
        encoder = choose_embedder(resolve(settings.embedder, None, cache), settings, [demo], cache)
        chosen = choose_samples(demo, settings.max_samples, settings.seed)
        real = load_or_build(
            chosen, encoder, cache, lambda done, total: update("embedding samples", done, total), DEMO_INDEX
        ).index
        costs = run(real.vectors, samples, experts, queries, update)
    if as_json:
        for cost in costs:
            print(json.dumps(cost.as_dict()))
    else:
        print_table(costs, console)
