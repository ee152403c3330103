"""``lmoe keys``: make, list and revoke API keys. A running server notices by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

console = Console()
#: Remarks, so that standard output holds the key and nothing else.
err_console = Console(stderr=True)

DEFAULT_FILE = Path("~/.config/lmoe_ray/keys.yaml")
FileOption = Annotated[Path, typer.Option("--file", help="The file of hashed keys, as api.keys_file names it.")]
NameArgument = Annotated[str, typer.Argument(help="Whose key it is; shown in logs.")]


def create(
    name: NameArgument,
    file: FileOption = DEFAULT_FILE,
    expert: Annotated[
        list[str] | None,
        typer.Option("--expert", "-e", help="Allow this expert, or base:expert, and only those named."),
    ] = None,
    base_only: Annotated[bool, typer.Option(help="Allow no expert at all.")] = False,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Prompt and answer.")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1, help="Prompt and answer.")] = None,
) -> None:
    """Make a key and show it, this once: the file keeps only its hash."""
    from lmoe_ray.api.key_file import create_key
    from lmoe_ray.errors import SettingsError

    if expert and base_only:
        raise SettingsError("--base-only", "contradicts --expert; leave one of them out")
    path = file.expanduser()
    key = create_key(
        path,
        name,
        experts=tuple(expert) if expert else (() if base_only else None),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        tokens_per_day=tokens_per_day,
    )
    print(key)
    err_console.print(
        f"Its hash is in {path}; a server with api.keys_file: {file} accepts it from now on. It is not shown again.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def show(file: FileOption = DEFAULT_FILE) -> None:
    """List the keys by name, with what they may use."""
    from lmoe_ray.api.key_file import read_key_file

    table = Table("name", "created", "experts", "requests/min", "tokens/min", "tokens/day")
    for entry in read_key_file(file.expanduser()).keys:
        experts = "all" if entry.experts is None else ", ".join(entry.experts) or "none"
        limits = (entry.requests_per_minute, entry.tokens_per_minute, entry.tokens_per_day)
        shown = ("" if limit is None else str(limit) for limit in limits)
        table.add_row(entry.name, str(entry.created or ""), experts, *shown)
    console.print(table)


def revoke(name: NameArgument, file: FileOption = DEFAULT_FILE) -> None:
    """Take a key out of the file; it is refused from the next request on."""
    from lmoe_ray.api.key_file import revoke_key

    revoke_key(file.expanduser(), name)
    err_console.print(f"{name} is revoked.", markup=False)
