"""``lmoe bench``: numbers with the command beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lmoe_ray.settings import RouterSettings

console = Console()
err_console = Console(stderr=True)


def routing(
    test: Annotated[Path, typer.Option(help="Labelled prompts: JSONL with expert and messages or instruction.")],
    samples: Annotated[
        Path | None, typer.Option(help="Routing samples: such a file, or a package; default: the demo package.")
    ] = None,
    scoring: Annotated[str, typer.Option(help="fused, density or airoboros.")] = "fused",
    embedder: Annotated[str, typer.Option(help="builtin:…, a local folder or a hub id.")] = RouterSettings().embedder,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the embedder.")] = 1,
    cache_dir: Annotated[Path, typer.Option(help="Folder of routing indexes.")] = Path("~/.cache/lmoe_ray"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Accuracy, calibration and cost of the router on labelled prompts, beside the predecessor's rule."""
    from lmoe_ray.bench.routing_accuracy import print_report, run
    from lmoe_ray.pretrained.model_source import resolve
    from lmoe_ray.pretrained.package_source import DEMO_FOLDER
    from lmoe_ray.routing.embedder import Embedder
    from lmoe_ray.settings import parse_router

    settings = parse_router({"scoring": scoring, "embedder": embedder, "num_threads": threads})
    cache = cache_dir.expanduser()
    with err_console.status("embedding") as display:
        report = run(
            samples or DEMO_FOLDER,
            test,
            settings,
            Embedder(resolve(embedder, None, cache), max_tokens=settings.max_tokens, num_threads=threads),
            cache,
            progress=lambda done, total: display.update(f"embedding {done} of {total} samples"),
        )
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        print_report(report, console)
