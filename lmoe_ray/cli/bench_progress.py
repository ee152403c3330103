"""Progress and remarks of a measurement, on standard error, so that ``--json`` on standard output stays JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

err_console = Console(stderr=True)


@contextmanager
def bar(first: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error that is told what is under way, how much is done, and of how much."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err_console, transient=True) as shown:
        task = shown.add_task(first, total=None)
        yield lambda what, done, total: shown.update(task, description=what, completed=done, total=total)


def say(text: str) -> None:
    """One remark, as it is."""
    err_console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)
