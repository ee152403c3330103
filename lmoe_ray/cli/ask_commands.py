"""``lmoe route``: who would answer, and the options of every command that talks to a running server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from textwrap import shorten
from typing import Annotated

import typer
from rich.console import Console

from lmoe_ray.api.client import Client
from lmoe_ray.api.decision_reply import encode_decision
from lmoe_ray.api.replies import to_json
from lmoe_ray.cli.decision_view import print_decision
from lmoe_ray.domain.decision import RoutingDecision

console = Console()

UrlOption = Annotated[str, typer.Option("--url", envvar="LMOE_URL", help="Address of the server.")]
KeyOption = Annotated[str | None, typer.Option("--api-key", envvar="LMOE_API_KEY", help="If the server needs one.")]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="Model; default: the server's first.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def route(
    text: Annotated[str, typer.Argument(help="What a user might ask.")],
    url: UrlOption = DEFAULT_URL,
    model: ModelOption = None,
    api_key: KeyOption = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print the server's reply instead.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw all samples and the text as .svg or .png; needs no server, but lmoe_ray[plot]."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="With --plot: whose package; as for lmoe serve.")] = None,
) -> None:
    """Show which expert would answer, how sure the router is, what the evidence says, and the samples it saw."""

    async def ask() -> RoutingDecision:
        async with Client(url, api_key=api_key) as client:
            return await client.route(text, model=model)

    decision = _route_here(text, model, config, plot) if plot else asyncio.run(ask())
    if is_json:
        print(to_json(encode_decision(decision)))
    else:
        print_decision(decision, console)


def _route_here(text: str, model: str | None, config: Path | None, plot: Path) -> RoutingDecision:
    """Route in this process, and draw what was looked at."""
    from lmoe_ray.cli.local_router import local_router
    from lmoe_ray.domain.chat import GenerateRequest, Message
    from lmoe_ray.routing.sample_map import draw_map

    router, fitted = local_router(config, model, abstains=True)
    decision = asyncio.run(router.route(GenerateRequest("route", "", (Message("user", text),))))
    draw_map(fitted.index, [(shorten(text, 60), router.vector_of(text))], plot)
    Console(stderr=True).print(f"wrote {plot}")
    return decision
