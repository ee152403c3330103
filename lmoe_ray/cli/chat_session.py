"""One conversation of ``lmoe chat``: commands are obeyed, everything else is answered by the server."""

from __future__ import annotations

from rich.console import Console

from lmoe_ray.api.client import ChatStream, Client
from lmoe_ray.cli.chat_history import ChatHistory
from lmoe_ray.errors import ServerRefused

HELP = "/expert NAME pins an expert, /expert unpins, /system TEXT, /new starts over, /quit leaves (or Ctrl-D)"


class ChatSession:
    """One conversation: its history, and what the user has pinned."""

    def __init__(
        self,
        client: Client,
        model: str,
        history: ChatHistory,
        console: Console,
        expert: str | None = None,
        temperature: float | None = None,
    ) -> None:
        self.model, self.history = model, history
        self._console = console
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
            self._console.print(HELP)
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
                    self._console.print(str(exc), style="red", markup=False)
                    return

    async def _stream(self) -> None:
        parts: list[str] = []
        async with self._client.chat(
            self.history.messages, model=self.model, expert=self._expert, **self._fields
        ) as answer:
            async for piece in answer:
                if not parts:
                    self._console.print(f"[bold magenta]{answer.expert or 'base'}[/] › ", end="")
                parts.append(piece)
                self._console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        self.history.answered("".join(parts), answer.usage)
        self._console.print(f"\n[dim]{self._footer(answer)}")

    def _footer(self, answer: ChatStream) -> str:
        usage = answer.usage
        dropped = f" · {self.history.num_dropped} old messages dropped" if self.history.num_dropped else ""
        return (
            f"{answer.routed_by} {answer.confidence:.2f} · {usage.prompt_tokens} + {usage.completion_tokens} "
            f"of {self.history.max_model_len} tokens{dropped}"
        )
