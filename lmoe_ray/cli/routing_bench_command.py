"""``lmoe bench routing``: how right and how sure the router is, and at what cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lmoe_ray.cli.bench_progress import bar, say
from lmoe_ray.settings import RouterSettings, parse_router

if TYPE_CHECKING:
    from lmoe_ray.bench.agent_report import AgentReport
    from lmoe_ray.bench.routing_report import RoutingReport

console = Console()


def routing(
    test: Annotated[Path, typer.Option(help="Labelled prompts: JSONL with expert and messages or instruction.")],
    samples: Annotated[
        Path | None, typer.Option(help="Routing samples: such a file, or a package; default: the demo package.")
    ] = None,
    scoring: Annotated[str, typer.Option(help="fused, density or airoboros.")] = "fused",
    embedder: Annotated[str, typer.Option(help="builtin:…, a local folder or a hub id.")] = RouterSettings().embedder,
    embedding: Annotated[str, typer.Option(help="encoder or static.")] = RouterSettings().embedding,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of the embedder, and of the model that --agent asks.")
    ] = 1,
    cache_dir: Annotated[Path, typer.Option(help="Folder of routing indexes.")] = Path("~/.cache/lmoe_ray"),
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Confidence below which the router abstains.")] = 0.0,
    precision: Annotated[
        float | None, typer.Option(help="Or the precision wanted of what it answers, which sets the threshold.")
    ] = None,
    fallback_expert: Annotated[
        str, typer.Option(help="Where a prompt that is labelled with no expert may go, besides the fallback.")
    ] = "general",
    agent: Annotated[
        int, typer.Option(min=0, help="Also ask a language model about so many of the prompts, for the agent router.")
    ] = 0,
    agent_model: Annotated[
        str | None,
        typer.Option(help="Base model to ask, without adapter; default: the package's, with its function expert's."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(file_okay=False, help="Also draw three SVGs into this folder; needs lmoe_ray[plot].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Accuracy, calibration and cost of the router on labelled prompts, beside the predecessor's rule and baselines."""
    if agent_model and not agent:
        raise typer.BadParameter("asks nothing without --agent; say how many prompts", param_hint="--agent-model")
    if plot:  # first, so that whoever lacks the library learns it before the measurement
        from lmoe_ray.bench.routing_plots import draw
    settings = parse_router(
        {
            "scoring": scoring,
            "embedder": embedder,
            "embedding": embedding,
            "num_threads": threads,
            "threshold": threshold,
            "precision": precision,
        }
    )
    wanted = _Wanted(test, samples, settings, cache_dir.expanduser(), fallback_expert, agent, agent_model)
    report, asked = _measure(wanted)
    if plot:
        for file in draw(report, plot):
            say(f"wrote {file}")
    if as_json:
        print(json.dumps(report.as_dict() | (asked.as_dict() if asked else {})))
    else:
        _print(report, asked)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is measured; ``num_asked`` prompts go to a language model too."""

    test: Path
    samples: Path | None
    settings: RouterSettings
    cache_dir: Path
    fallback_expert: str
    num_asked: int
    agent_model: str | None


def _measure(wanted: _Wanted) -> tuple[RoutingReport, AgentReport | None]:
    from lmoe_ray.bench.labelled_prompts import read_experts
    from lmoe_ray.bench.routing_accuracy import run
    from lmoe_ray.pretrained.model_source import resolve
    from lmoe_ray.pretrained.package_source import DEMO_FOLDER
    from lmoe_ray.routing.choose_embedder import choose_embedder

    settings, samples, cache = wanted.settings, wanted.samples or DEMO_FOLDER, wanted.cache_dir
    experts = read_experts(samples, settings.max_tokens)
    with bar("starting") as update:
        embedder = choose_embedder(resolve(settings.embedder, None, cache), settings, [experts], cache)
        report = run(
            experts,
            wanted.test,
            settings,
            embedder,
            cache,
            progress=partial(update, "embedding samples"),
            fallback_expert=wanted.fallback_expert,
            routed=partial(update, "routing prompts"),
        )
        if not wanted.num_asked:
            return report, None
        from lmoe_ray.bench import engine_ask  # only now, because it loads an engine

        agent, asking = engine_ask.choose_asked(samples, experts, wanted.agent_model), partial(update, "asking")
        return report, engine_ask.run(wanted.test, wanted.num_asked, agent, experts, settings, embedder, cache, asking)


def _print(report: RoutingReport, asked: AgentReport | None) -> None:
    from lmoe_ray.bench.agent_report import print_agent_report
    from lmoe_ray.bench.routing_tables import print_report

    print_report(report, console)
    if asked:
        print_agent_report(asked, console)
