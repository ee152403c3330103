"""``lmoe calibrate``: the confidence below which a router should abstain, for a precision that is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from lmoe_ray.errors import SettingsError

if TYPE_CHECKING:
    from lmoe_ray.routing.calibration import Calibration
    from lmoe_ray.routing.similarity import SimilarityRouter

console = Console()

_PRECISIONS = (0.8, 0.85, 0.9, 0.95, 0.98)


def calibrate(
    config: Annotated[Path | None, typer.Argument(help="Serve configuration; as for lmoe serve.")] = None,
    precision: Annotated[float, typer.Option(min=0.01, max=0.999, help="Wanted among what is answered.")] = 0.95,
    labelled: Annotated[
        Path | None,
        typer.Option(help="JSONL of your own prompts with expert and messages or instruction; else held-out samples."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the file that router.calibration names.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model; default: the first with a package.")
    ] = None,
) -> None:
    """Find the threshold at which the router is as precise as wanted, and what share of requests it then answers."""
    from lmoe_ray.cli.local_router import local_router
    from lmoe_ray.routing.threshold import CalibrationFile

    with console.status("reading the routing samples"):
        router, fitted = local_router(config, model, abstains=False)
    calibration = _labelled(router, labelled) if labelled else fitted.calibration
    if calibration is None or not len(calibration.is_right):
        raise SettingsError("--labelled", "there are too few samples to hold any out; give prompts of your own")
    console.print(_table(calibration, precision, "labelled prompts" if labelled else "samples held out"))
    threshold = calibration.threshold_for(precision)
    if threshold is None:
        raise SettingsError("--precision", f"no threshold reaches {precision:g} here; want less, or add samples")
    if out is None:
        console.print(
            f"router.threshold: {threshold:.4f}, or router.precision: {precision:g} to have it follow the samples"
        )
        return
    coverage = calibration.coverage_at(threshold)
    CalibrationFile(fitted.digest, precision, threshold, coverage, len(calibration.is_right)).write(out)
    console.print(f"wrote {out}; set router.calibration to it")


def _labelled(router: SimilarityRouter, file: Path) -> Calibration:
    """What the router makes of labelled prompts; those labelled with no expert cannot be right."""
    import asyncio

    from lmoe_ray.bench.labelled_prompts import read_prompts
    from lmoe_ray.domain.chat import GenerateRequest
    from lmoe_ray.routing.calibration import calibration_of

    async def decide() -> Calibration:
        prompts = read_prompts(file)
        decisions = [await router.route(GenerateRequest("calibrate", "", prompt.messages)) for prompt in prompts]
        is_right = [d.expert == prompt.expert for d, prompt in zip(decisions, prompts, strict=True)]
        return calibration_of([d.confidence for d in decisions], is_right)

    return asyncio.run(decide())


def _table(calibration: Calibration, wanted: float, judged: str) -> Table:
    title = f"{len(calibration.is_right)} {judged}, {calibration.is_right.mean():.1%} right"
    table = Table("precision wanted", "threshold", "answered", "precision there", title=title)
    for precision in sorted({*_PRECISIONS, wanted}):
        threshold = calibration.threshold_for(precision)
        style = "bold" if precision == wanted else ""
        if threshold is None:
            table.add_row(f"{precision:g}", "none", "", "", style=style)
        else:
            found = (calibration.coverage_at(threshold), calibration.precision_at(threshold))
            table.add_row(f"{precision:g}", f"{threshold:.3f}", f"{found[0]:.1%}", f"{found[1]:.1%}", style=style)
    return table
