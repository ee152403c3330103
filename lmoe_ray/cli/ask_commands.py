"""``lmoe chat`` and ``lmoe route``: talk to a running server from a terminal."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lmoe_ray.api.client import Client
from lmoe_ray.cli.chat_history import ChatHistory
from lmoe_ray.cli.chat_session import HELP, ChatSession
from lmoe_ray.domain.decision import RoutingDecision

console = Console()

UrlOption = Annotated[str, typer.Option("--url", envvar="LMOE_URL", help="Address of the server.")]
KeyOption = Annotated[str | None, typer.Option("--api-key", envvar="LMOE_API_KEY", help="If the server needs one.")]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="Model; default: the server's first.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def chat(
    url: UrlOption = DEFAULT_URL,
    model: ModelOption = None,
    expert: Annotated[str | None, typer.Option("--expert", "-e", help="Pin an expert.")] = None,
    system: Annotated[str, typer.Option("--system", "-s", help="System prompt.")] = "",
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    api_key: KeyOption = None,
) -> None:
    """Chat in the terminal; every answer shows which expert gave it."""
    asyncio.run(_chat(url, api_key, model, expert, system, temperature))


async def _chat(
    url: str, api_key: str | None, model: str | None, expert: str | None, system: str, temperature: float | None
) -> None:
    async with Client(url, api_key=api_key) as client:
        card = await client.model(model)
        history = ChatHistory(int(card["max_model_len"]), system)
        session = ChatSession(client, card["id"], history, console, expert, temperature)
        console.print(f"[bold]{session.model}[/] · {session.history.max_model_len} tokens of context · {HELP}")
        while (line := await _read_line()) is not None:
            if not await session.take(line.strip()):
                return


async def _read_line() -> str | None:
    try:
        return await asyncio.to_thread(console.input, "[bold cyan]you[/] › ")
    except (EOFError, KeyboardInterrupt):
        return None


def route(
    text: Annotated[str, typer.Argument(help="What a user might ask.")],
    url: UrlOption = DEFAULT_URL,
    model: ModelOption = None,
    api_key: KeyOption = None,
) -> None:
    """Show which expert would answer, how sure the router is, and the samples it saw."""

    async def ask() -> RoutingDecision:
        async with Client(url, api_key=api_key) as client:
            return await client.route(text, model=model)

    _print_decision(asyncio.run(ask()))


def _print_decision(decision: RoutingDecision) -> None:
    console.print(f"[bold]{decision.expert or decision.model}[/] · {decision.routed_by} · {decision.reason}")
    table = Table("expert", "probability", "")
    for candidate in decision.candidates:
        table.add_row(candidate.expert, f"{candidate.score:.3f}", "█" * round(30 * candidate.score))
    if decision.candidates:
        console.print(table)
    for neighbour in decision.neighbours:
        console.print(
            f"{neighbour.similarity:.3f} {neighbour.expert:>10}  {neighbour.text[:100]}", markup=False, highlight=False
        )
    console.print(f"[dim]{decision.duration_s * 1000:.1f} ms · threshold {decision.threshold:.2f}")
