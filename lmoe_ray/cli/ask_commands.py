"""``lmoe chat`` and ``lmoe route``: talk to a running server from a terminal."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lmoe_ray.api.client import ChatStream, Client
from lmoe_ray.cli.chat_history import ChatHistory
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.errors import ServerRefused

console = Console()

UrlOption = Annotated[str, typer.Option("--url", envvar="LMOE_URL", help="Address of the server.")]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="Model; default: the server's first.")]
DEFAULT_URL = "http://127.0.0.1:8000"
HELP = "/expert NAME pins an expert, /expert unpins, /system TEXT, /new starts over, /quit leaves (or Ctrl-D)"


def chat(
    url: UrlOption = DEFAULT_URL,
    model: ModelOption = None,
    expert: Annotated[str | None, typer.Option("--expert", "-e", help="Pin an expert.")] = None,
    system: Annotated[str, typer.Option("--system", "-s", help="System prompt.")] = "",
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
) -> None:
    """Chat in the terminal; every answer shows which expert gave it."""
    asyncio.run(_chat(url, model, expert, system, temperature))


async def _chat(url: str, model: str | None, expert: str | None, system: str, temperature: float | None) -> None:
    async with Client(url) as client:
        card = await client.model(model)
        session = Session(client, card["id"], ChatHistory(int(card["max_model_len"]), system), expert, temperature)
        console.print(f"[bold]{session.model}[/] · {session.history.max_model_len} tokens of context · {HELP}")
        while (line := await _read_line()) is not None:
            if not await session.take(line.strip()):
                return


async def _read_line() -> str | None:
    try:
        return await asyncio.to_thread(console.input, "[bold cyan]you[/] › ")
    except (EOFError, KeyboardInterrupt):
        return None


class Session:
    """One conversation: its history, and what the user has pinned."""

    def __init__(
        self, client: Client, model: str, history: ChatHistory, expert: str | None, temperature: float | None
    ) -> None:
        self.model, self.history = model, history
        self._client, self._expert = client, expert
        self._fields = {} if temperature is None else {"temperature": temperature}

    async def take(self, line: str) -> bool:
        """Obey a command or answer a question; ``False`` ends the session."""
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return False
        if command == "/expert":
            self._expert = rest.strip() or None
        elif command == "/system":
            self.history.system = rest.strip()
        elif command == "/new":
            self.history = ChatHistory(self.history.max_model_len, self.history.system)
        elif command.startswith("/"):
            console.print(HELP)
        elif line:
            await self._answer(line)
        return True

    async def _answer(self, text: str) -> None:
        self.history.ask(text)
        while True:
            try:
                await self._stream()
                return
            except ServerRefused as exc:
                if exc.error_code != "context_length_exceeded" or not self.history.drop_oldest():
                    self.history.take_back()
                    console.print(str(exc), style="red", markup=False)
                    return

    async def _stream(self) -> None:
        parts: list[str] = []
        async with self._client.chat(
            self.history.messages, model=self.model, expert=self._expert, **self._fields
        ) as answer:
            async for piece in answer:
                if not parts:
                    console.print(f"[bold magenta]{answer.expert or 'base'}[/] › ", end="")
                parts.append(piece)
                console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        self.history.answered("".join(parts), answer.usage)
        console.print(f"\n[dim]{self._footer(answer)}")

    def _footer(self, answer: ChatStream) -> str:
        usage = answer.usage
        dropped = f" · {self.history.num_dropped} old messages dropped" if self.history.num_dropped else ""
        return (
            f"{answer.routed_by} {answer.confidence:.2f} · {usage.prompt_tokens} + {usage.completion_tokens} "
            f"of {self.history.max_model_len} tokens{dropped}"
        )


def route(
    text: Annotated[str, typer.Argument(help="What a user might ask.")],
    url: UrlOption = DEFAULT_URL,
    model: ModelOption = None,
) -> None:
    """Show which expert would answer, how sure the router is, and the samples it saw."""

    async def ask() -> RoutingDecision:
        async with Client(url) as client:
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
